"""Pods with one GPU each, and the gateway in front of them: images in, outcomes out, step by step.

A step is much longer than a batch and much shorter than anything that an autoscaler does. Within one, flows are means:
what a pod can't work off becomes backlog, and the rest has the long-run queue of `batching`. Backlog is worked off in
the order in which it came.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from loadtest.autoscaling.batching import Curve, Occupancy

if TYPE_CHECKING:
    from collections.abc import Sequence

_PLANNED_SHARE: Final = 0.9  # of a deadline that the gateway plans with, as gateway/admission.py has it
_NOTHING: Final = 1e-9  # images: what is left of a sum of fractions


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What is scaled, and what stands in front of it.

    Attributes:
        curve: how long a batch takes.
        cold_start_seconds: from a pod's creation to its readiness: node, image, engine load, probe.
        leave_seconds: from a pod's deletion to the end of its use of the GPU: preStop and what it still has to do.
        deadline_seconds: how long a caller waits; None for ever, without a gateway that refuses what would be late.
        batches_per_pod: how many full batches of images the gateway hands to each pod at a time: one in work, and one
            that waits for it. The rest waits in the gateway. None: all wait in the pods.
        gateway_ms: what an image costs in the gateway while it holds its slot: decode, resize, transfer; in ms.
    """

    curve: Curve = field(default_factory=Curve)
    cold_start_seconds: float = 30.0
    leave_seconds: float = 15.0
    deadline_seconds: float | None = 10.0
    batches_per_pod: int | None = 2
    gateway_ms: float = 5.0


@dataclass(eq=False, slots=True)
class Pod:
    """One pod.

    Attributes:
        number: in the order of creation.
        created_at: when it took its GPU.
        ready_at: when it is or was ready.
        gone_at: when it gives the GPU back; infinity until it is told to leave.
        backlog: images that wait in it beyond the long-run queue.
        rate: images per second that it answered in the last step.
        now: its queue and its GPU in the last step.
        answered: images since its start.
        queue_seconds: what they have waited in it, together.
        busy_seconds: how long its GPU was busy.
    """

    number: int
    created_at: float
    ready_at: float
    gone_at: float = math.inf
    backlog: float = 0.0
    rate: float = 0.0
    now: Occupancy = field(default_factory=lambda: Occupancy(0.0, 0.0, 0.0))
    answered: float = 0.0
    queue_seconds: float = 0.0
    busy_seconds: float = 0.0

    @property
    def is_leaving(self) -> bool:
        """Whether it was told to go, and takes nothing new."""
        return self.gone_at < math.inf


@dataclass(slots=True)
class Outcome:
    """What became of images, in one step or in several.

    Attributes:
        offered: images that came.
        answered: of them and of those before, how many were answered in time.
        refused: how many were told at once that they would be late.
        expired: how many waited, and were given up.
        wait_seconds: time that the answered have waited before their batch, together.
    """

    offered: float = 0.0
    answered: float = 0.0
    refused: float = 0.0
    expired: float = 0.0
    wait_seconds: float = 0.0

    def add(self, other: Outcome) -> None:
        """Count another step in."""
        self.offered += other.offered
        self.answered += other.answered
        self.refused += other.refused
        self.expired += other.expired
        self.wait_seconds += other.wait_seconds


@dataclass(slots=True)
class Gateway:
    """What the gateway counts, as its metrics show it.

    Attributes:
        inflight: images in slots.
        queued: images that wait for one.
        received: images since the start.
        granted: images that got a slot.
        queue_seconds: how long they have waited for it, together.
        shed: images that were refused or given up.
    """

    inflight: float = 0.0
    queued: float = 0.0
    received: float = 0.0
    granted: float = 0.0
    queue_seconds: float = 0.0
    shed: float = 0.0


class Fleet:
    """The pods of one Deployment behind the gateway.

    Args:
        service: what they are.
        replicas: how many there are, ready, at 0 s.
        max_held_images: how many images the gateway holds while no pod is ready.
    """

    def __init__(self, service: Service, replicas: int, max_held_images: int = 0) -> None:
        self.pods: list[Pod] = []
        self.gateway = Gateway()
        self.gpu_seconds = 0.0
        self._service = service
        self._max_held_images = max_held_images
        self._numbers = 0
        self._queue: deque[tuple[float, float]] = deque()  # (when they came, how many), in the gateway
        self._queued = 0.0
        self._spilled = 0.0  # images that wait in the gateway without being backlog
        batches = math.inf if service.batches_per_pod is None else service.batches_per_pod
        self._room = (batches - 1) * service.curve.max_batch  # in a pod's own queue
        for _ in range(replicas):
            self._create(-math.inf, 0.0)

    @property
    def existing(self) -> int:
        """Pods that exist and were not told to go: the Deployment's status.replicas."""
        return sum(not pod.is_leaving for pod in self.pods)

    def ready(self, now: float) -> list[Pod]:
        """Pods that take requests."""
        return [pod for pod in self.pods if pod.ready_at <= now and not pod.is_leaving]

    def scale(self, now: float, replicas: int) -> None:
        """Create pods, or tell some to go: first those that are not ready, then the youngest."""
        staying = [pod for pod in self.pods if not pod.is_leaving]
        for _ in range(replicas - len(staying)):
            self._create(now, now + self._service.cold_start_seconds)
        staying.sort(key=lambda pod: (pod.ready_at <= now, -pod.number))
        for pod in staying[: max(0, len(staying) - replicas)]:
            pod.gone_at = now + (self._service.leave_seconds if pod.ready_at <= now else 0.0)

    def step(self, now: float, seconds: float, arrivals: float) -> Outcome:
        """Let some time pass, at whose begin images come."""
        self.pods = [pod for pod in self.pods if pod.gone_at > now]
        self.gpu_seconds += len(self.pods) * seconds
        ready = self.ready(now)
        work = self._service.curve.capacity_per_second * seconds
        outcome = Outcome(offered=arrivals)
        self._expire(now, outcome)
        outcome.refused = self._refused(ready, arrivals, work)
        shares = self._hand_out(now, ready, arrivals - outcome.refused, work, outcome)
        self._spilled = 0.0
        for pod in self.pods:
            self._serve(pod, shares.get(pod, 0.0), work, seconds, outcome)
        self._count(ready, outcome)
        return outcome

    def _create(self, created_at: float, ready_at: float) -> None:
        self.pods.append(Pod(self._numbers, created_at, ready_at))
        self._numbers += 1

    def _service_seconds(self) -> float:
        """How long an image takes once it has its slot, at worst."""
        service = self._service
        batches = service.batches_per_pod or 1
        return batches * service.curve.batch_seconds(service.curve.max_batch) + service.gateway_ms / 1e3

    def _expire(self, now: float, outcome: Outcome) -> None:
        """Give up what has waited until it could only be late."""
        deadline = self._service.deadline_seconds
        while deadline is not None and self._queue and now - self._queue[0][0] > deadline - self._service_seconds():
            count = self._queue.popleft()[1]
            self._queued = max(0.0, self._queued - count)
            outcome.expired += count

    def _refused(self, ready: Sequence[Pod], arrivals: float, work: float) -> float:
        """How many images would be too late; where there is no pod, all that are not held."""
        deadline = self._service.deadline_seconds
        if deadline is None:
            return 0.0
        if not ready:
            return min(arrivals, max(0.0, arrivals + self._queued - self._max_held_images))
        seconds = max(0.0, deadline * _PLANNED_SHARE - self._service_seconds())
        longest = seconds * self._service.curve.capacity_per_second * len(ready)
        waiting = self._queued + sum(pod.backlog for pod in ready)
        return min(arrivals, max(0.0, arrivals + waiting - longest - work * len(ready)))

    def _hand_out(
        self, now: float, ready: Sequence[Pod], arrivals: float, work: float, outcome: Outcome
    ) -> dict[Pod, float]:
        """Fill the pods up to one level, the emptiest first, and queue the rest."""
        if arrivals:
            self._queue.append((now, arrivals))
            self._queued += arrivals
        if not ready or not self._queued:
            return {}
        level = min(_level(self._queued, sorted(pod.backlog for pod in ready)), self._room + work)
        shares = {pod: max(0.0, level - pod.backlog) for pod in ready}
        self._grant(now, sum(shares.values()), outcome)
        return shares

    def _grant(self, now: float, count: float, outcome: Outcome) -> None:
        """Take images out of the gateway's queue, the oldest first."""
        self.gateway.granted += count
        while self._queue and count > _NOTHING:
            came_at, there = self._queue.popleft()
            taken = min(there, count)
            count -= taken
            waited = taken * (now - came_at)
            outcome.wait_seconds += waited
            self.gateway.queue_seconds += waited
            if there - taken > _NOTHING:
                self._queue.appendleft((came_at, there - taken))
        self._queued = sum(there for _, there in self._queue) if self._queue else 0.0

    def _serve(self, pod: Pod, share: float, work: float, seconds: float, outcome: Outcome) -> None:
        curve = self._service.curve
        served = min(pod.backlog + share, work)
        pod.backlog = max(0.0, pod.backlog + share - served)
        pod.rate = served / seconds
        pod.now = curve.occupancy(pod.rate)
        spilled = max(0.0, pod.now.waiting - self._room)  # at times there are more than it has slots for
        pod.now.waiting -= spilled
        if pod.backlog > _NOTHING:
            pod.now = Occupancy(max(pod.backlog, pod.now.waiting), curve.max_batch, 1.0)
        else:
            self._spilled += spilled
            self.gateway.queue_seconds += spilled * seconds
            outcome.wait_seconds += spilled * seconds
        pod.answered += served
        pod.queue_seconds += pod.now.waiting * seconds
        pod.busy_seconds += pod.now.busy * seconds
        outcome.answered += served
        outcome.wait_seconds += pod.now.waiting * seconds

    def _count(self, ready: Sequence[Pod], outcome: Outcome) -> None:
        in_gateway = self._service.gateway_ms / 1e3
        self.gateway.inflight = sum(pod.now.waiting + pod.now.executing + pod.rate * in_gateway for pod in ready)
        self.gateway.queued = self._queued + self._spilled
        self.gateway.received += outcome.offered
        self.gateway.shed += outcome.refused + outcome.expired


def _level(amount: float, levels: Sequence[float]) -> float:
    """How high the lowest of some columns become, by ascending height, when an amount is poured over them."""
    total = amount
    for n, level in enumerate(levels, 1):
        total += level
        if n == len(levels) or total / n <= levels[n]:
            return total / n
    raise ValueError("there is nothing to pour on")
