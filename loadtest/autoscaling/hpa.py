"""The HorizontalPodAutoscaler's arithmetic. Pure: the caller hands over the time and what was measured.

Source: the algorithm as the Kubernetes documentation describes it ("Horizontal Pod Autoscaling", algorithm details and
configurable scaling behavior), and where it is silent the controller's own semantics (kubernetes/kubernetes,
pkg/controller/podautoscaler: replica_calculator.go and horizontal.go, as of 1.36).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

SYNC_SECONDS: Final = 15.0
"""How often the controller looks, as kube-controller-manager has it by default."""
TOLERANCE: Final = 0.1
"""Share by which a metric may miss its target without consequences, as kube-controller-manager has it by default."""


class MetricType(StrEnum):
    """How a metric asks for replicas."""

    AVERAGE_VALUE = "AverageValue"
    VALUE = "Value"


class PolicyType(StrEnum):
    """What a policy counts in."""

    PODS = "Pods"
    PERCENT = "Percent"


class SelectPolicy(StrEnum):
    """Which of several policies holds: the one that allows the greatest change, the smallest, or no change at all."""

    MAX = "Max"
    MIN = "Min"
    DISABLED = "Disabled"


@dataclass(frozen=True, slots=True)
class Policy:
    """How much may change within a period.

    Attributes:
        type: pods, or percent of the replicas at the period's begin.
        value: how many of them.
        period_seconds: the period, which ends now.
    """

    type: PolicyType
    value: int
    period_seconds: float


@dataclass(frozen=True, slots=True)
class Rules:
    """How scaling in one direction behaves.

    Attributes:
        stabilization_seconds: how long the most cautious recommendation holds.
        policies: what may change.
        select: which of them counts.
        tolerance: share by which a metric may miss its target.
    """

    stabilization_seconds: float
    policies: tuple[Policy, ...]
    select: SelectPolicy = SelectPolicy.MAX
    tolerance: float = TOLERANCE


_DOUBLE: Final = Policy(PolicyType.PERCENT, 100, 15)
SCALE_UP: Final = Rules(0, (Policy(PolicyType.PODS, 4, 15), _DOUBLE))
"""How an HPA scales up that says nothing else."""
SCALE_DOWN: Final = Rules(300, (_DOUBLE,))
"""How an HPA scales down that says nothing else."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a metric says at a sync.

    Attributes:
        name: of the metric.
        type: how it asks for replicas.
        target_milli: its target, in thousandths.
        value_milli: its value, in thousandths; None where it could not be read.
    """

    name: str
    type: MetricType
    target_milli: int
    value_milli: int | None


@dataclass(frozen=True, slots=True)
class Pods:
    """What the controller sees of its target.

    Attributes:
        wanted: replicas that the target's spec asks for.
        existing: replicas that exist, ready or not.
        ready: those of them that are ready.
    """

    wanted: int
    existing: int
    ready: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What a sync came to.

    Attributes:
        replicas: how many there shall be from now on.
        because: name of the metric that asks for most; empty where none could be asked, or none was needed.
        proposals: replicas that each metric asks for, before limits; None where it could not be read.
    """

    replicas: int
    because: str
    proposals: tuple[int | None, ...]


def proposal(reading: Reading, pods: Pods, up_tolerance: float = TOLERANCE, down_tolerance: float = TOLERANCE) -> int:
    """Replicas that one external metric asks for, before any limit.

    `AverageValue`: the value is a sum, shared by all that exist. `Value`: the value is a level, and only ready pods
    count as those that brought it about. Within the tolerance nothing changes.

    Raises:
        ValueError: the reading has no value.
    """
    if reading.value_milli is None:
        raise ValueError(f"{reading.name} has no value")
    if reading.type is MetricType.AVERAGE_VALUE:
        total = reading.target_milli * pods.existing
        ratio = reading.value_milli / total if total else math.inf
        if _is_within(ratio, up_tolerance, down_tolerance):
            return pods.existing
        return math.ceil(reading.value_milli / reading.target_milli)
    ratio = reading.value_milli / reading.target_milli
    if not pods.wanted:
        return math.ceil(ratio)
    if _is_within(ratio, up_tolerance, down_tolerance):
        return pods.wanted
    return math.ceil(ratio * pods.ready)


def _is_within(ratio: float, up_tolerance: float, down_tolerance: float) -> bool:
    return 1.0 - down_tolerance <= ratio <= 1.0 + up_tolerance


@dataclass(slots=True)
class Hpa:
    """One autoscaler, with what it remembers.

    Attributes:
        min_replicas: fewest replicas.
        max_replicas: most replicas.
        up: how it scales up.
        down: how it scales down.
    """

    min_replicas: int
    max_replicas: int
    up: Rules = SCALE_UP
    down: Rules = SCALE_DOWN
    _recommendations: list[tuple[float, int]] = field(default_factory=list)
    _added: list[tuple[float, int]] = field(default_factory=list)
    _removed: list[tuple[float, int]] = field(default_factory=list)

    def sync(self, now: float, pods: Pods, readings: Sequence[Reading]) -> Decision:
        """Decide. The caller carries the decision out.

        The metric that asks for most counts. Metrics that can't be read allow scaling up by the others and forbid
        scaling down; where none can be read, nothing changes.

        Args:
            now: seconds of any clock that does not go back.
            pods: the target as it is.
            readings: one for each metric.
        """
        if not pods.wanted:
            return Decision(0, "", ())
        if not self.min_replicas <= pods.wanted <= self.max_replicas:
            replicas = min(max(pods.wanted, self.min_replicas), self.max_replicas)
            return self._decided(now, pods.wanted, Decision(replicas, "", ()))
        proposals = tuple(self._proposal(reading, pods) for reading in readings)
        known = [(n, r.name) for n, r in zip(proposals, readings, strict=True) if n is not None]
        if not known:
            return Decision(pods.wanted, "", proposals)
        most, because = max(known, key=lambda pair: pair[0])
        if None in proposals and most < pods.wanted:
            return Decision(pods.wanted, "", proposals)
        replicas = self._limited(now, pods.wanted, self._stabilized(now, pods.wanted, most))
        return self._decided(now, pods.wanted, Decision(replicas, because, proposals))

    def _proposal(self, reading: Reading, pods: Pods) -> int | None:
        if reading.value_milli is None:
            return None
        return proposal(reading, pods, self.up.tolerance, self.down.tolerance)

    def _stabilized(self, now: float, current: int, desired: int) -> int:
        """No more than what was asked for all the time of scaling up's window, no less than the most in down's."""
        if not self._recommendations:
            self._recommendations.append((now, current))
        up = min([n for at, n in self._recommendations if at > now - self.up.stabilization_seconds], default=desired)
        down = max(
            [n for at, n in self._recommendations if at > now - self.down.stabilization_seconds], default=desired
        )
        longest = max(self.up.stabilization_seconds, self.down.stabilization_seconds)
        self._recommendations = [(at, n) for at, n in self._recommendations if at > now - longest]
        self._recommendations.append((now, desired))
        return min(max(current, min(up, desired)), max(down, desired))

    def _limited(self, now: float, current: int, desired: int) -> int:
        """What policies and bounds leave of a wish."""
        if desired > current:
            limit = max(_limit(self.up, 1, current, self._change(now, self.up)), current)
            return min(desired, self.max_replicas, limit)
        if desired < current:
            limit = min(_limit(self.down, -1, current, self._change(now, self.down)), current)
            return max(desired, self.min_replicas, limit)
        return desired

    def _change(self, now: float, rules: Rules) -> list[int]:
        """By how much the replicas have grown in each policy's period."""
        return [
            sum(n for at, n in self._added if at > now - policy.period_seconds)
            - sum(n for at, n in self._removed if at > now - policy.period_seconds)
            for policy in rules.policies
        ]

    def _decided(self, now: float, current: int, decision: Decision) -> Decision:
        longest = max(policy.period_seconds for policy in (*self.up.policies, *self.down.policies))
        self._added = [(at, n) for at, n in self._added if at > now - longest]
        self._removed = [(at, n) for at, n in self._removed if at > now - longest]
        if decision.replicas > current:
            self._added.append((now, decision.replicas - current))
        elif decision.replicas < current:
            self._removed.append((now, current - decision.replicas))
        return decision


def _limit(rules: Rules, sign: int, current: int, changes: Sequence[int]) -> int:
    """The replicas that the policies allow in one direction: `sign` is 1 for up and -1 for down."""
    if rules.select is SelectPolicy.DISABLED:
        return current
    limits = []
    for policy, change in zip(rules.policies, changes, strict=True):
        begin = current - change
        if policy.type is PolicyType.PODS:
            limits.append(begin + sign * policy.value)
        elif sign > 0:
            limits.append(math.ceil(begin * (1 + policy.value / 100)))
        else:
            limits.append(int(begin * (1 - policy.value / 100)))
    is_highest = (rules.select is SelectPolicy.MAX) == (sign > 0)
    return max(limits) if is_highest else min(limits)
