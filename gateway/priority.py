"""How urgent an image is."""

from __future__ import annotations

from enum import StrEnum


class Priority(StrEnum):
    """A band of the queue; the value is what a request says. The first is the most urgent."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def weight(self) -> int:
        """Its share, relative to the others', of a model that all of them wait for."""
        return _WEIGHTS[self]

    @property
    def rank(self) -> int:
        """1 for the most urgent, as Triton numbers its levels."""
        return tuple(Priority).index(self) + 1


_WEIGHTS = {Priority.HIGH: 16, Priority.NORMAL: 4, Priority.LOW: 1}
"""Each band gets four times the turns of the next: clearly first, and none waits for ever."""
