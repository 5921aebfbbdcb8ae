"""A short version of `python -m loadtest.chaos rollout`: the life of a version under load, on three real Tritons."""

from loadtest.chaos import rollout


async def test_a_version_lives_and_loses_nothing():
    """Loaded, promoted in steps, rolled back and unloaded, after one that breaks on one Triton was reverted on all."""
    report = await rollout.rollout(seconds=3, share=0.4)

    assert [check.what for check in report.checks if not check.is_met] == []
    assert {mark.text for mark in report.marks} >= {
        "load 3: refused",
        "load 2: done",
        "rollback: done",
        "unload 2: done",
    }
    assert sum(summary.lost for summary in report.summaries.values()) == 0
