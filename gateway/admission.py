"""Who may enter: a bound on the images in flight, and the wait a refused caller is told."""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from gateway.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.metrics import Metrics

_SMOOTHING: Final = 0.05  # weight of the newest interval: the rate follows a change within some 20 answers


class Admission:
    """Admits up to `limit` images at a time, so that decoded pictures and tensors can't pile up."""

    def __init__(self, limit: int, metrics: Metrics) -> None:
        self._limit = limit
        self._metrics = metrics
        self._inflight = 0
        self._left_at: float | None = None
        self._seconds_per_image = 0.0

    @contextmanager
    def admitted(self, model: str) -> Iterator[None]:
        """Hold a place for an image to `model` while the block runs.

        Raises:
            Overloaded: all places are taken; it carries the seconds until half of them should be free again.
        """
        if self._inflight >= self._limit:
            self._metrics.shed.labels(model, "inflight").inc()
            raise Overloaded(
                f"{self._inflight} images are being worked on, the most that is accepted", self._retry_after_seconds()
            )
        self._inflight += 1
        try:
            with self._metrics.inflight.labels(model).track_inprogress():
                yield
        finally:
            self._inflight -= 1
            self._measure_drain(time.monotonic())

    def _measure_drain(self, now: float) -> None:
        """Update the smoothed interval between two images that leave. Idle time would count as slowness: skip it."""
        if self._left_at is not None and self._inflight > 0:
            interval = now - self._left_at
            self._seconds_per_image += _SMOOTHING * (interval - self._seconds_per_image)
        self._left_at = now if self._inflight > 0 else None

    def _retry_after_seconds(self) -> int:
        return max(1, math.ceil(self._limit / 2 * self._seconds_per_image))
