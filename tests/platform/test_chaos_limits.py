"""Short versions of `make chaos`, as in `test_chaos.py`: what happens where there is more load than capacity."""

from loadtest.chaos import limits


async def test_overload_mixes_nothing_up_and_answers_everybody():
    """By the right detections, a refusal, or word that it took too long; the peak's share is for `make chaos`."""
    report = await limits.overload(seconds=3, factors=(4.0,))
    (summary,) = report.summaries.values()

    assert summary.wrong == 0
    assert summary.ok > 0
    assert summary.refused > 0
    assert set(summary.reasons) <= {"overloaded", "deadline_exceeded"}


async def test_a_flood_takes_nothing_from_others():
    """Every request of theirs is answered in time."""
    report = await limits.flood(seconds=3, use=0.6)

    others = [summary for name, summary in report.summaries.items() if name.startswith("others")]
    assert [(summary.lost, summary.sent > 0) for summary in others] == [(0, True)] * 2
