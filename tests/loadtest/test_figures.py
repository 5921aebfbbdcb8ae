"""Outcomes -> figures."""

import math

import pytest

from loadtest.chaos.figures import answered_per_second, due_between, percentile, summarize, throughput, timeline
from loadtest.chaos.load import Outcome
from loadtest.verdict import Verdict


def outcome(due_at, answered_at, verdict=Verdict.OK, *, sent_at=None, attempts=1, reasons=()):
    return Outcome("flow", due_at, due_at if sent_at is None else sent_at, answered_at, verdict, attempts, reasons)


def test_each_verdict_is_counted_once():
    """And only right answers have a latency."""
    times = {Verdict.OK: 1.0, Verdict.LATE: 3.0, Verdict.REFUSED: 0.01, Verdict.FAILED: 9.0, Verdict.WRONG: 2.0}
    summary = summarize([outcome(0.0, seconds, verdict) for verdict, seconds in times.items()])

    assert (summary.sent, summary.ok, summary.late, summary.refused, summary.failed, summary.wrong) == (
        5,
        1,
        1,
        1,
        1,
        1,
    )
    assert (summary.p50_ms, summary.max_ms, summary.refusal_p99_ms) == (1000.0, 3000.0, 10.0)
    assert summary.lost == 4


def test_latency_counts_from_when_a_request_was_due():
    """A generator that sends late can't make the server look fast, and its lag is told."""
    summary = summarize([outcome(1.0, 3.5, sent_at=3.0)])

    assert (summary.p99_ms, summary.lag_p99_ms) == (2500.0, 2000.0)


def test_attempts_that_did_not_do_are_told_by_reason():
    """Also those of requests that were answered in the end."""
    answered = outcome(0.0, 1.0, attempts=3, reasons=("overloaded", "overloaded"))
    refused = outcome(0.0, 1.0, Verdict.REFUSED, reasons=("overloaded",))
    summary = summarize([answered, refused])

    assert (summary.retried, summary.reasons) == (1, {"overloaded": 3})


def test_nothing_has_no_figures():
    """Zero requests, and no latency rather than a latency of zero."""
    summary = summarize([])

    assert summary.sent == 0
    assert math.isnan(summary.p99_ms)
    assert timeline([]) == []


@pytest.mark.parametrize("percent, expected", [(50, 50), (99, 99), (100, 100), (1, 1)])
def test_a_percentile_is_a_value_that_was_measured(percent, expected):
    """The nearest rank, not something between two values."""
    assert percentile(list(range(100, 0, -1)), percent) == expected


def test_a_timeline_has_every_second():
    """One in which nothing was answered is there, without a latency."""
    seconds = timeline([outcome(0.0, 0.5), outcome(0.2, 0.7), outcome(1.0, 2.5), outcome(2.0, 2.1, Verdict.REFUSED)])

    assert [(second.at, second.ok, second.refused) for second in seconds] == [(0, 2, 0), (1, 0, 0), (2, 1, 1)]
    assert [second.p99_ms for second in seconds if second.ok] == [500.0, 1500.0]
    assert math.isnan(seconds[1].p99_ms)


def test_requests_belong_to_when_they_were_due_and_answers_to_when_they_came():
    """A window's end belongs to the next one."""
    outcomes = [outcome(0.5, 1.5), outcome(1.0, 1.9), outcome(1.5, 2.0), outcome(1.2, 1.3, Verdict.WRONG)]

    assert len(due_between(outcomes, 1.0, 1.5)) == 2
    assert answered_per_second(outcomes, 1.0, 2.0) == 2


def test_throughput_counts_a_request_by_the_part_that_lies_within():
    """Three of four in the window: 1 wholly, 2 by half, 1 not at all; what went wrong never counts."""
    outcomes = [outcome(1, 2), outcome(0, 2), outcome(2, 4), outcome(3, 4), outcome(1, 2, Verdict.FAILED)]

    assert throughput(outcomes, 1, 3) == pytest.approx((1 + 0.5 + 0.5) / 2)
