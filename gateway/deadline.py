"""One monotonic point in time that goes through every stage of a request."""

from __future__ import annotations

import time
from dataclasses import dataclass

from gateway.errors import DeadlineExceeded


@dataclass(frozen=True, slots=True)
class Deadline:
    """When the answer must be there: `at` in seconds of `time.monotonic`, `timeout_seconds` as the caller set it."""

    at: float
    timeout_seconds: float

    @classmethod
    def after(cls, timeout_seconds: float) -> Deadline:
        """The deadline that lies `timeout_seconds` ahead."""
        return cls(time.monotonic() + timeout_seconds, timeout_seconds)

    def remaining_seconds(self) -> float:
        """Seconds left, for the stage that is about to start.

        Raises:
            DeadlineExceeded: nothing is left; work that can't finish in time is not started.
        """
        left = self.at - time.monotonic()
        if left <= 0:
            raise self.exceeded()
        return left

    def exceeded(self) -> DeadlineExceeded:
        """The error to raise when a stage found the time used up."""
        return DeadlineExceeded(f"no answer within the {self.timeout_seconds * 1e3:.0f} ms that the request allows")
