"""How long something usually takes, and how much that varies. Pure."""

from __future__ import annotations


class Smoothed:
    """A running mean and mean deviation, as TCP has them for its retransmission timer (RFC 6298, section 2).

    Args:
        mean_gain: how much of the mean each new value makes up, in (0, 1].
        deviation_gain: how much of the deviation.
    """

    def __init__(self, *, mean_gain: float, deviation_gain: float) -> None:
        self._mean_gain = mean_gain
        self._deviation_gain = deviation_gain
        self.is_known = False
        self.mean_seconds = 0.0
        """0 until something has been measured, as is the deviation."""
        self.deviation_seconds = 0.0

    def add(self, seconds: float) -> None:
        """Take one duration into account."""
        if not self.is_known:
            self.is_known, self.mean_seconds, self.deviation_seconds = True, seconds, seconds / 2
            return
        self.deviation_seconds += self._deviation_gain * (abs(seconds - self.mean_seconds) - self.deviation_seconds)
        self.mean_seconds += self._mean_gain * (seconds - self.mean_seconds)
