"""KEDA between Prometheus and the HPA: what becomes of a query's result, and what it answers when there is none.

Source: kedacore/keda 2.20, pkg/scalers/prometheus_scaler.go and pkg/fallback/fallback.go.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from loadtest.autoscaling.hpa import MetricType, Pods, Reading


class FallbackBehavior(StrEnum):
    """How many replicas a trigger asks for that has failed for too long."""

    STATIC = "static"
    CURRENT_REPLICAS = "currentReplicas"
    CURRENT_REPLICAS_IF_HIGHER = "currentReplicasIfHigher"
    CURRENT_REPLICAS_IF_LOWER = "currentReplicasIfLower"


@dataclass(frozen=True, slots=True)
class Fallback:
    """What happens to triggers that fail.

    Attributes:
        failure_threshold: failures in a row that are errors to the HPA; from the next on the fallback holds.
        replicas: how many to ask for.
        behavior: how that number is used.
    """

    failure_threshold: int
    replicas: int
    behavior: FallbackBehavior = FallbackBehavior.STATIC

    def wanted(self, current: int) -> int:
        """Replicas to ask for while there are `current`."""
        return {
            FallbackBehavior.STATIC: self.replicas,
            FallbackBehavior.CURRENT_REPLICAS: current,
            FallbackBehavior.CURRENT_REPLICAS_IF_HIGHER: max(current, self.replicas),
            FallbackBehavior.CURRENT_REPLICAS_IF_LOWER: min(current, self.replicas),
        }[self.behavior]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """One Prometheus trigger of a ScaledObject.

    Attributes:
        name: as the ScaledObject has it.
        query: its PromQL.
        type: how its metric asks for replicas.
        threshold: the target.
        activation_threshold: above it, the trigger keeps a target alive that may be scaled to zero.
        ignores_null_values: whether no result counts as 0; otherwise it is an error.
    """

    name: str
    query: str
    type: MetricType
    threshold: float
    activation_threshold: float = 0.0
    ignores_null_values: bool = True


@dataclass(slots=True)
class Scaler:
    """One trigger at work.

    Attributes:
        trigger: the trigger.
        fallback: the ScaledObject's; None if it has none.
        failures: failures in a row.
    """

    trigger: Trigger
    fallback: Fallback | None
    failures: int = 0

    @property
    def is_falling_back(self) -> bool:
        """Whether it has failed for so long that the fallback holds."""
        return self.fallback is not None and self.failures > self.fallback.failure_threshold

    def value(self, result: float | None) -> float | None:
        """What a query's result counts as; None for an error.

        Args:
            result: the one value of the query; None for an empty result.
        """
        if result is None or not math.isfinite(result):
            return 0.0 if self.trigger.ignores_null_values else None
        return result

    def is_active(self, result: float | None) -> bool:
        """Whether a query's result keeps the target from zero."""
        value = self.value(result)
        return value is not None and value > self.trigger.activation_threshold

    def reading(self, result: float | None, pods: Pods) -> Reading:
        """What the HPA gets to read at a sync."""
        value = self.value(result)
        self.failures = 0 if value is not None else self.failures + 1
        if value is None and self.is_falling_back:
            value = self._fallback_value(pods)
        trigger = self.trigger
        milli = None if value is None else int(value * 1000)
        return Reading(trigger.name, trigger.type, int(trigger.threshold * 1000), milli)

    def _fallback_value(self, pods: Pods) -> float | None:
        """The metric that makes the HPA's arithmetic come out at the fallback's replicas."""
        assert self.fallback is not None  # noqa: S101 (`is_falling_back` has told)
        replicas = float(self.fallback.wanted(pods.wanted))
        if self.trigger.type is MetricType.VALUE:
            if not pods.ready:
                return None
            replicas /= pods.ready
        return self.trigger.threshold * replicas
