"""How long inference takes, as measured: on one endpoint, to know a stall from it; over all, to know when to hedge."""

from __future__ import annotations

from collections import deque
from typing import Final

from gateway.smoothed import Smoothed

_KEPT: Final = 500  # enough for a 0.99 quantile, few enough to follow a change within seconds
_FEWEST: Final = 50  # a quantile of fewer says little
_RENEWED_AFTER: Final = 50  # answers between two sorts of the kept latencies


class UsualLatency(Smoothed):
    """What an inference usually takes, weighted as in RFC 6298."""

    def __init__(self) -> None:
        super().__init__(mean_gain=1 / 8, deviation_gain=1 / 4)

    @property
    def longest_seconds(self) -> float | None:
        """What an inference should not exceed, in seconds: twice the mean and 4 deviations; None before the first."""
        return 2 * self.mean_seconds + 4 * self.deviation_seconds if self.is_known else None


class LatencyQuantile:
    """A quantile, in [0, 1], of the latest inferences."""

    def __init__(self, quantile: float) -> None:
        self._quantile = quantile
        self._latest: deque[float] = deque(maxlen=_KEPT)
        self._new = 0
        self.seconds: float | None = None
        """The quantile in seconds; None until there are enough inferences to tell."""

    def add(self, seconds: float) -> None:
        """Take one inference into account."""
        self._latest.append(seconds)
        self._new += 1
        if self._new >= _RENEWED_AFTER and len(self._latest) >= _FEWEST:
            self._new = 0
            self.seconds = sorted(self._latest)[int(self._quantile * (len(self._latest) - 1))]
