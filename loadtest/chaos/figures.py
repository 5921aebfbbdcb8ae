"""Outcomes -> figures."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loadtest.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from loadtest.chaos.load import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What some callers got. Latencies are in ms from when a request was due, of right answers only.

    Attributes:
        seconds: from when the first request was due to the last answer.
        sent: requests.
        ok: right answers in time.
        late: right answers after the deadline.
        refused: requests told to come back later, whose callers did not or no longer.
        failed: requests without an answer, or with another error.
        wrong: requests with another image's answer.
        retried: requests that took more than one attempt.
        per_second: right answers in time per second.
        p50_ms: median latency.
        p99_ms: latency that one request in a hundred exceeds.
        max_ms: highest latency.
        refusal_p99_ms: like `p99_ms`, of refusals.
        lag_p99_ms: how late the generator itself sent; high values make the others doubtful.
        reasons: why attempts did not do, and how many.
    """

    seconds: float
    sent: int
    ok: int
    late: int
    refused: int
    failed: int
    wrong: int
    retried: int
    per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    refusal_p99_ms: float
    lag_p99_ms: float
    reasons: dict[str, int]

    @property
    def lost(self) -> int:
        """Requests whose callers never got their right answer."""
        return self.refused + self.failed + self.wrong + self.late


@dataclass(frozen=True, slots=True, kw_only=True)
class Second:
    """One column of a timeline: what was answered in one second. NaN where nothing was."""

    at: float
    ok: int
    refused: int
    failed: int
    p50_ms: float
    p99_ms: float


def summarize(outcomes: Sequence[Outcome]) -> Summary:
    """The figures of some requests; all NaN and zero for none."""
    verdicts = Counter(outcome.verdict for outcome in outcomes)
    answered = latencies_ms(outcomes, Verdict.OK, Verdict.LATE)
    seconds = span_seconds(outcomes)
    return Summary(
        seconds=round(seconds, 2),
        sent=len(outcomes),
        ok=verdicts[Verdict.OK],
        late=verdicts[Verdict.LATE],
        refused=verdicts[Verdict.REFUSED],
        failed=verdicts[Verdict.FAILED],
        wrong=verdicts[Verdict.WRONG],
        retried=sum(outcome.attempts > 1 for outcome in outcomes),
        per_second=round(verdicts[Verdict.OK] / seconds, 2) if seconds else math.nan,
        p50_ms=percentile(answered, 50),
        p99_ms=percentile(answered, 99),
        max_ms=percentile(answered, 100),
        refusal_p99_ms=percentile(latencies_ms(outcomes, Verdict.REFUSED), 99),
        lag_p99_ms=percentile([1e3 * (outcome.sent_at - outcome.due_at) for outcome in outcomes], 99),
        reasons=dict(Counter(reason for outcome in outcomes for reason in outcome.reasons)),
    )


def timeline(outcomes: Iterable[Outcome], bucket_seconds: float = 1.0) -> list[Second]:
    """What was answered in each second of the clock, from the first to the last."""
    buckets: dict[int, list[Outcome]] = {}
    for outcome in outcomes:
        buckets.setdefault(int(outcome.answered_at // bucket_seconds), []).append(outcome)
    if not buckets:
        return []
    return [
        _second(n * bucket_seconds, buckets.get(n, []), bucket_seconds) for n in range(min(buckets), max(buckets) + 1)
    ]


def _second(at: float, outcomes: Sequence[Outcome], bucket_seconds: float) -> Second:
    verdicts = Counter(outcome.verdict for outcome in outcomes)
    answered = latencies_ms(outcomes, Verdict.OK, Verdict.LATE)
    return Second(
        at=at,
        ok=round(verdicts[Verdict.OK] / bucket_seconds),
        refused=round(verdicts[Verdict.REFUSED] / bucket_seconds),
        failed=round((verdicts[Verdict.FAILED] + verdicts[Verdict.WRONG] + verdicts[Verdict.LATE]) / bucket_seconds),
        p50_ms=percentile(answered, 50),
        p99_ms=percentile(answered, 99),
    )


def due_between(outcomes: Iterable[Outcome], begin: float, end: float) -> list[Outcome]:
    """Those requests that were due in [begin, end) seconds of the clock."""
    return [outcome for outcome in outcomes if begin <= outcome.due_at < end]


def answered_per_second(outcomes: Iterable[Outcome], begin: float, end: float) -> float:
    """Right answers in time per second of the clock in [begin, end): the *goodput*."""
    answers = sum(outcome.verdict is Verdict.OK and begin <= outcome.answered_at < end for outcome in outcomes)
    return answers / (end - begin)


def throughput(outcomes: Iterable[Outcome], begin: float, end: float) -> float:
    """Right answers per second of the clock in [begin, end) under closed load.

    A request counts by the part of its time that lies within. Batches are answered in bursts, and whether one falls
    before or behind the window's end would otherwise move the figure by several percent.
    """
    parts = (
        max(0.0, min(end, outcome.answered_at) - max(begin, outcome.due_at)) / outcome.latency_seconds
        for outcome in outcomes
        if outcome.verdict is Verdict.OK
    )
    return sum(parts) / (end - begin)


def latencies_ms(outcomes: Iterable[Outcome], *verdicts: Verdict) -> list[float]:
    """Latencies of the requests with one of these verdicts, in ms."""
    return [1e3 * outcome.latency_seconds for outcome in outcomes if outcome.verdict in verdicts]


def span_seconds(outcomes: Sequence[Outcome]) -> float:
    """From the first request's due time to the last answer."""
    if not outcomes:
        return 0.0
    return max(outcome.answered_at for outcome in outcomes) - min(outcome.due_at for outcome in outcomes)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of the values do not exceed (nearest rank: one that was measured); NaN for none."""
    if not len(values):
        return math.nan
    return round(float(np.percentile(values, percent, method="inverted_cdf")), 2)
