"""How many images come, over time: a curve from a file, or one of the shapes that scenarios are made of."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

COLUMNS: Final = ("seconds", "images_per_second")
_MIN_SECONDS: Final = 15.0  # the HPA looks once in that time


class BadDemand(ValueError):
    """A file that is no demand curve."""


@dataclass(frozen=True, slots=True)
class Demand:
    """A rate of images, linear between points. Two points at one time make a step.

    Attributes:
        points: (seconds, images per second), by time, from 0 s on.
    """

    points: tuple[tuple[float, float], ...]

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.points[-1][0]

    def arrivals(self, step_seconds: float, seed: int) -> NDArray[np.float64]:
        """Images that come in each step: Poisson around the rate in its middle. Shape (steps,)."""
        middles = np.arange(step_seconds / 2, self.seconds, step_seconds)
        rates = np.interp(middles, *np.array(self.points).T)
        return np.asarray(np.random.default_rng(seed).poisson(rates * step_seconds), float)

    def scaled(self, factor: float) -> Demand:
        """The same shape with other rates."""
        return Demand(tuple((at, rate * factor) for at, rate in self.points))


def read(file: Path) -> Demand:
    """Read a CSV file with the columns `seconds` and `images_per_second`.

    Raises:
        BadDemand: it is something else. The message names the line.
    """
    with file.open(newline="") as lines:
        rows = csv.DictReader(lines)
        if set(rows.fieldnames or ()) != set(COLUMNS):
            raise BadDemand(
                f"{file}: the first line must be {','.join(COLUMNS)}, and is {','.join(rows.fieldnames or ())}"
            )
        points = [_point(file, number, row) for number, row in enumerate(rows, 2)]
    times = [at for at, _ in points]
    if not points or times[0] != 0 or times != sorted(times) or times[-1] < _MIN_SECONDS:
        raise BadDemand(f"{file}: rows must be ordered by time, begin at 0 and reach {_MIN_SECONDS:g} seconds at least")
    return Demand(tuple(points))


def _point(file: Path, number: int, row: dict[str, str]) -> tuple[float, float]:
    try:
        at, rate = (float(row[column]) for column in COLUMNS)
    except (TypeError, ValueError):
        at, rate = math.nan, math.nan
    if not (math.isfinite(at) and math.isfinite(rate) and rate >= 0):
        raise BadDemand(f"{file}, line {number}: seconds and images_per_second must be numbers, the rate from 0 on")
    return at, rate


def steps(*parts: tuple[float, float]) -> Demand:
    """Constant rates, one after the other: (seconds that it lasts, images per second) each."""
    points: list[tuple[float, float]] = []
    at = 0.0
    for seconds, rate in parts:
        points += [(at, rate), (at + seconds, rate)]
        at += seconds
    return Demand(tuple(points))


def ramp(seconds: float, begin: float, end: float) -> Demand:
    """From one rate to another, evenly."""
    return Demand(((0.0, begin), (seconds, end)))


def day(peak: float, night_share: float = 0.1) -> Demand:
    """24 hours from midnight: quiet nights, a rise until noon, a dip, and a second peak at six in the evening."""
    shape: Iterable[tuple[float, float]] = (
        (0, 0.1), (5, 0.0), (8, 0.5), (11, 0.9), (13, 0.7), (16, 0.85), (18, 1.0), (21, 0.5), (24, 0.1),
    )  # fmt: skip
    return Demand(tuple((3600 * hour, peak * (night_share + (1 - night_share) * share)) for hour, share in shape))


def noisy(seconds: float, mean: float, deviation: float, seed: int, period_seconds: float = 5.0) -> Demand:
    """A steady rate with slow noise: another value every so often, from a normal distribution around the mean."""
    times = np.arange(0, seconds + period_seconds, period_seconds)
    rates = np.random.default_rng(seed).normal(mean, deviation * mean, len(times)).clip(0)
    return Demand(tuple(zip(times.tolist(), rates.tolist(), strict=True)))


def flapping(seconds: float, low: float, high: float, period_seconds: float) -> Demand:
    """Back and forth between two rates, half a period each."""
    return steps(*((period_seconds / 2, (low, high)[n % 2]) for n in range(math.ceil(2 * seconds / period_seconds))))
