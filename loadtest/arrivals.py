"""When requests are due: schedules that are fixed before the load begins, whatever the server then does."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Schedule: TypeAlias = NDArray[np.float64]


def constant(per_second: float, seconds: float, *, begin: float = 0.0) -> Schedule:
    """Arrivals at even distances.

    Returns:
        float64 (N,): seconds since the load began, ascending, all in [begin, begin + seconds).
    """
    return begin + np.arange(round(per_second * seconds)) / per_second


def poisson(per_second: float, seconds: float, *, seed: int, begin: float = 0.0) -> Schedule:
    """Arrivals of independent callers: the gaps are exponential, so that bursts come as they do in life.

    Given their number, the arrivals of a Poisson process are uniform in time. The number is fixed at its mean, so that
    two runs offer the same load.

    Returns:
        float64 (N,): seconds since the load began, ascending, all in [begin, begin + seconds).
    """
    generator = np.random.default_rng(seed)
    return begin + np.sort(generator.uniform(0.0, seconds, round(per_second * seconds)))


class Slope(NamedTuple):
    """A time in which the rate changes evenly: from `begin_per_second` to `end_per_second` within `seconds`."""

    seconds: float
    begin_per_second: float
    end_per_second: float

    @property
    def arrivals(self) -> float:
        """How many requests are due in it, not rounded."""
        return self.seconds * (self.begin_per_second + self.end_per_second) / 2

    def times(self, counts: Schedule) -> Schedule:
        """When, in seconds since its begin, so many requests have been due.

        Their number grows as `b t + (e - b) t^2 / 2 s`; this is the root of that in a form which divides by no
        difference of rates, and so holds for a rate that does not change, too.
        """
        begin, change = self.begin_per_second, self.end_per_second - self.begin_per_second
        root = np.sqrt(np.maximum(begin**2 + 2 * change * counts / self.seconds, 0))
        times: Schedule = np.minimum(2 * counts / np.maximum(begin + root, 1e-12), self.seconds)
        return times


def varying(slopes: Sequence[Slope], *, seed: int | None) -> Schedule:
    """Arrivals at a rate that changes: of independent callers, as in `poisson`, or evenly spread without a seed.

    Time is stretched so that the expected number of arrivals passes at a constant rate there.

    Returns:
        float64 (N,): seconds since the load began, ascending.
    """
    counts = np.cumsum([0.0, *(slope.arrivals for slope in slopes)])
    begins = np.cumsum([0.0, *(slope.seconds for slope in slopes)])
    due = constant(1.0, counts[-1]) if seed is None else poisson(1.0, counts[-1], seed=seed)
    parts = [
        begins[n] + slope.times(due[(due >= counts[n]) & (due < counts[n + 1])] - counts[n])
        for n, slope in enumerate(slopes)
    ]
    return np.concatenate([*parts, np.empty(0)])
