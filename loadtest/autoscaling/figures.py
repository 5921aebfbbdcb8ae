"""Timelines -> figures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loadtest.autoscaling.simulation import Timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a run comes to.

    Attributes:
        images: how many came.
        goodput_percent: how many of them were answered in time.
        refused: how many were refused at once.
        expired: how many waited, and were given up.
        mean_wait_ms: mean wait of the answered, in gateway and Triton.
        longest_wait_ms: the highest mean wait of one row.
        most_pods: most replicas that were asked for.
        changes: how often their number changed.
        turns: how often it changed its direction.
        gpu_hours: time that pods held their GPU.
        images_per_gpu_hour: answered images for each of them.
        fallback_seconds: when a trigger fell back for the first time; None if none did.
    """

    images: int
    goodput_percent: float
    refused: int
    expired: int
    mean_wait_ms: float
    longest_wait_ms: float
    most_pods: int
    changes: int
    turns: int
    gpu_hours: float
    images_per_gpu_hour: int
    fallback_seconds: float | None


def figures(timeline: Timeline) -> Figures:
    """The figures of a run."""
    total = timeline.total
    return Figures(
        images=round(total.offered),
        goodput_percent=round(100 * goodput(timeline), 2),
        refused=round(total.refused),
        expired=round(total.expired),
        mean_wait_ms=round(1e3 * total.wait_seconds / total.answered, 1) if total.answered else 0.0,
        longest_wait_ms=round(max((row.wait_ms for row in timeline.rows), default=0.0), 1),
        most_pods=max((row.wanted for row in timeline.rows), default=0),
        changes=len(timeline.changes),
        turns=turns(timeline),
        gpu_hours=round(timeline.gpu_hours, 2),
        images_per_gpu_hour=round(total.answered / timeline.gpu_hours) if timeline.gpu_hours else 0,
        fallback_seconds=timeline.fallback_seconds,
    )


def goodput(timeline: Timeline) -> float:
    """The share of all images that was answered in time; 1 where none came."""
    return timeline.total.answered / timeline.total.offered if timeline.total.offered else 1.0


def turns(timeline: Timeline) -> int:
    """How often the number of replicas changed its direction."""
    ups = [change.after > change.before for change in timeline.changes]
    return sum(a != b for a, b in pairwise(ups))


def asked_after(timeline: Timeline, since: float, replicas: int) -> float:
    """Seconds from a time until so many replicas were asked for; infinity where they never were."""
    return min(
        (c.seconds - since for c in timeline.changes if c.seconds >= since and c.after >= replicas), default=math.inf
    )


def recovered_after(timeline: Timeline, since: float, share: float = 0.99) -> float:
    """Seconds from a time until, for good, that share of what comes is answered in time; 0 where it always is."""
    short = [n for n, row in enumerate(timeline.rows) if row.seconds >= since and row.answered < share * row.offered]
    if not short:
        return 0.0
    if short[-1] + 1 == len(timeline.rows):
        return math.inf
    return timeline.rows[short[-1] + 1].seconds - since
