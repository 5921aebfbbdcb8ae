"""Demands that autoscaling must stand, in pods' worth of load.

A *pod's worth* is 85 % of what one pod answers in full batches: what it can be asked for without queues that grow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from loadtest.autoscaling.demand import day, flapping, noisy, ramp, steps
from loadtest.autoscaling.simulation import Loss

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadtest.autoscaling.batching import Curve
    from loadtest.autoscaling.demand import Demand

POD_SHARE: Final = 0.85
"""Of a pod's capacity: a pod's worth of load."""
ONE_POD: Final = 0.3
"""Pods' worth of load at which the overlay `gpu` keeps one pod."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A demand and what goes wrong meanwhile.

    Attributes:
        title: what happens.
        demand: the load over time, in pods' worth.
        replicas: pods at the begin; None for the overlay's minimum.
        losses: when triggers find no series.
    """

    title: str
    demand: Demand
    replicas: int | None = 1
    losses: tuple[Loss, ...] = ()

    def scaled_to(self, curve: Curve) -> Scenario:
        """The same with the demand in images per second, for pods with such a curve."""
        return replace(self, demand=self.demand.scaled(POD_SHARE * curve.capacity_per_second))


SCENARIOS: Final[Mapping[str, Scenario]] = {
    "step": Scenario(
        title="One pod's worth of load, then four times as much, then as before",
        demand=steps((300, 1), (1200, 4), (1500, 1)),
        replicas=3,
    ),
    "surge": Scenario(
        title="One pod, then six pods' worth of load at once",
        demand=steps((300, ONE_POD), (1200, 6), (1500, ONE_POD)),
    ),
    "spike": Scenario(
        title="Six pods' worth of load for 30 s",
        demand=steps((300, ONE_POD), (30, 6), (1200, ONE_POD)),
    ),
    "ramp": Scenario(title="Load that rises to six pods' worth within an hour", demand=ramp(3600, ONE_POD, 6)),
    "day": Scenario(title="A day with two peaks of five pods' worth", demand=day(5), replicas=3),
    "noise": Scenario(
        title="Two pods' worth of load, with 10 % of noise", demand=noisy(7200, 2, 0.1, seed=2), replicas=6
    ),
    "flapping": Scenario(
        title="Back and forth between one and three pods' worth, every two minutes",
        demand=flapping(3600, 1, 3, 240),
        replicas=3,
    ),
    "metrics-lost": Scenario(
        title="All metrics are lost for 25 minutes, in which two pods' worth of load become nearly nothing",
        demand=steps((1200, 2), (2400, ONE_POD)),
        replicas=6,
        losses=(Loss(600, 2100),),
    ),
    "trigger-lost": Scenario(
        title="The trigger demand is lost for 25 minutes, while load rises to three pods' worth and falls again",
        demand=steps((900, 1), (600, 3), (1800, ONE_POD)),
        replicas=3,
        losses=(Loss(600, 2100, frozenset({"demand"})),),
    ),
}
"""Name -> scenario. Each has a picture in docs/autoscaling.md and a test."""
