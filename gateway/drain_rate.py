"""How fast a backlog is worked off, and how long one image takes. Pure: the caller hands over the time."""

from __future__ import annotations

import math
from typing import Final

from gateway.smoothed import Smoothed

_MEMORY_SECONDS: Final = 1.0  # of backlog: what is older than some of these has no say any more
_MEMORY_SERVICES: Final = 4.0  # or so many times what an image takes, for answers come a whole batch at a time
_MIN_SECONDS: Final = 0.1  # of backlog, before a rate is known
_MIN_ANSWERS: Final = 8
_GAIN: Final = 1 / 32
_DEVIATIONS: Final = 2.0


class DrainRate:
    """Answers per second, measured only while others wait: time in which there was nothing to do says nothing.

    Answers and seconds are both forgotten exponentially, by the time of backlog that has passed, so that the rate of
    the last second counts most, an idle night changes nothing, and a service that stalls is seen to: seconds pass, and
    answers don't come. It adjusts to any change within some seconds of backlog, and at once to a loss of capacity.
    """

    def __init__(self) -> None:
        self._answers = 0.0
        self._seconds = 0.0
        self._capacity_seconds = 0.0
        self._at: float | None = None  # up to when it has been counted; None while nothing waits
        self._seen = 0

    def observe(self, now: float, *, is_backlog: bool, capacity: int, service_seconds: float = 0.0) -> None:
        """Tell the state that begins now.

        Args:
            now: seconds of any clock.
            is_backlog: whether something waits.
            capacity: how many images are worked on at a time.
            service_seconds: how long one takes, as far as that is known.
        """
        if self._at is not None:
            self._pass(now - self._at, capacity, max(_MEMORY_SECONDS, _MEMORY_SERVICES * service_seconds))
        self._at = now if is_backlog else None

    def answered(self) -> None:
        """Count an answer, or a failure, at the time that was observed last."""
        if self._at is not None:
            self._answers += 1
            self._seen += 1

    def per_second(self, capacity: int) -> float | None:
        """The rate, with `capacity` as it is now; None until one has been measured."""
        if self._seconds < _MIN_SECONDS or self._seen < _MIN_ANSWERS:
            return None
        mean_capacity = self._capacity_seconds / self._seconds
        return self._answers / self._seconds * min(1.0, capacity / mean_capacity)

    def _pass(self, seconds: float, capacity: int, memory_seconds: float) -> None:
        keep = math.exp(-seconds / memory_seconds)
        added = memory_seconds * (1 - keep)
        self._answers *= keep
        self._seconds = self._seconds * keep + added
        self._capacity_seconds = self._capacity_seconds * keep + capacity * added


class ServiceTime(Smoothed):
    """How long an image takes once it is worked on."""

    def __init__(self) -> None:
        super().__init__(mean_gain=_GAIN, deviation_gain=_GAIN)

    def add_at_least(self, seconds: float) -> None:
        """Count an image that was given up after a time. That it was given up sooner than others take says nothing."""
        if seconds > self.mean_seconds:
            self.add(seconds)

    @property
    def upper_seconds(self) -> float:
        """What all but a few stay below; 0 until one has been measured."""
        return self.mean_seconds + _DEVIATIONS * self.deviation_seconds
