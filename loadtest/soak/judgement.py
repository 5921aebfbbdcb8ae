"""What the memory of a long run says. Pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from loadtest.bench.report import Target

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_MB: Final = 250.0
MOST_GROWTH_PERCENT: Final = 2.0
"""Of the gateway's memory, from the second quarter to the last: in half an hour with 150 images/s some 25 bytes for
each image between, while the allocator may keep a little more or less at any minute."""
FEWEST_MINUTES: Final = 10.0
"""In less, memory still grows to what the load needs, and nothing is said about it."""
FEWEST_SLICES: Final = 4
"""One a quarter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """What one part of the run got and took.

    Attributes:
        minute: when it ended, from the beginning of the first one.
        images: that were answered, as before.
        images_per_second: after the slice's warm-up, as are the next two.
        p50_ms: median latency.
        p99_ms: 99 % quantile of it.
        gateway_mb: resident memory of the gateway under load: the median of several looks.
        triton_mb: that of Triton and its helpers.
        gateway_cpu_ms: processor time of the gateway an image.
        triton_cpu_ms: that of Triton.
        open_files: file descriptors of the gateway, the most that were seen.
        threads: those of the gateway, likewise.
    """

    minute: float
    images: int
    images_per_second: float
    p50_ms: float
    p99_ms: float
    gateway_mb: float
    triton_mb: float
    gateway_cpu_ms: float
    triton_cpu_ms: float
    open_files: int
    threads: int


def slope_mb_per_hour(slices: Sequence[Slice]) -> float:
    """How the gateway's memory goes after the first quarter: the straight line with the least squares."""
    steady = slices[len(slices) // 4 :]
    line = statistics.linear_regression([each.minute / 60 for each in steady], [each.gateway_mb for each in steady])
    return line.slope


def growth_percent(slices: Sequence[Slice]) -> float:
    """The median of the last quarter beside that of the second one, so that no single minute decides."""
    quarter, half = len(slices) // 4, len(slices) // 2
    before, after = (
        statistics.median(each.gateway_mb for each in part) for part in (slices[quarter:half], slices[-quarter:])
    )
    return (after / before - 1) * 100


def promises(slices: Sequence[Slice], most_mb: float) -> list[Target]:
    """What the gateway's memory has to keep to.

    Args:
        slices: of the run, `FEWEST_SLICES` at least.
        most_mb: resident memory of the gateway at any moment.
    """
    growth = growth_percent(slices) if slices[-1].minute >= FEWEST_MINUTES else None
    return [
        Target("most memory of the gateway, MB", most_mb, at_most=MOST_MB),
        Target("its growth, second quarter to last, %", growth, at_most=MOST_GROWTH_PERCENT),
    ]
