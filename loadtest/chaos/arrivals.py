"""When requests are due: schedules that are fixed before the load begins, whatever the server then does."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
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
