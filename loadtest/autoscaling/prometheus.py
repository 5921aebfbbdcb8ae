"""What Prometheus knows: samples that are as old as the last scrape, and what rules make of them.

Only what the autoscaling rules use. Instances that are gone have no latest sample any more (Prometheus marks them
stale), but ranges that reach back see what they once had.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEPT_SECONDS: Final = 600.0


class Prometheus:
    """Samples by metric and instance."""

    def __init__(self) -> None:
        self._series: dict[str, dict[str, deque[tuple[float, float]]]] = defaultdict(dict)
        self._gone: dict[str, float] = {}

    def scrape(self, now: float, instance: str, values: Mapping[str, float]) -> None:
        """Take an instance's samples."""
        for metric, value in values.items():
            samples = self._series[metric].setdefault(instance, deque())
            samples.append((now, value))
            while samples[0][0] < now - _KEPT_SECONDS:
                samples.popleft()

    def lose(self, now: float, instance: str) -> None:
        """An instance is no target any more."""
        self._gone[instance] = now
        for instance_gone, at in list(self._gone.items()):
            if at < now - _KEPT_SECONDS:
                del self._gone[instance_gone]
                for by_instance in self._series.values():
                    by_instance.pop(instance_gone, None)

    def latest(self, metric: str) -> dict[str, float]:
        """`metric`: the newest sample of each instance that is still there."""
        return {
            instance: samples[-1][1]
            for instance, samples in self._series.get(metric, {}).items()
            if instance not in self._gone
        }

    def at(self, metric: str, then: float) -> dict[str, float]:
        """`metric offset ...`: what was the newest sample of each instance at some time."""
        samples = {
            instance: [value for at, value in samples if at <= then]
            for instance, samples in self._series.get(metric, {}).items()
        }
        return {instance: values[-1] for instance, values in samples.items() if values}

    def average(self, metric: str, now: float, seconds: float) -> dict[str, float]:
        """`avg_over_time(metric[...])`, by instance."""
        ranges = {i: self._range(samples, now, seconds) for i, samples in self._series.get(metric, {}).items()}
        return {i: sum(value for _, value in samples) / len(samples) for i, samples in ranges.items() if samples}

    def rate(self, metric: str, now: float, seconds: float) -> dict[str, float]:
        """`rate(metric[...])`, by instance: the slope between the first and the last sample; none for a single one."""
        rates = {}
        for instance, samples in self._series.get(metric, {}).items():
            within = self._range(samples, now, seconds)
            if len(within) > 1:
                (begin, first), (end, last) = within[0], within[-1]
                rates[instance] = (last - first) / (end - begin)
        return rates

    @staticmethod
    def _range(samples: deque[tuple[float, float]], now: float, seconds: float) -> list[tuple[float, float]]:
        within = []
        for sample in reversed(samples):
            if sample[0] <= now - seconds:
                break
            within.append(sample)
        return within[::-1]
