"""A demand against an overlay's autoscaling: pods, gateway, Prometheus, KEDA and HPA, each at its own pace."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from loadtest.autoscaling.hpa import SYNC_SECONDS, Hpa
from loadtest.autoscaling.hpa import Pods as PodCounts
from loadtest.autoscaling.keda import Scaler
from loadtest.autoscaling.pods import Fleet, Outcome, Pod, Service
from loadtest.autoscaling.prometheus import Prometheus
from loadtest.autoscaling.signals import (
    ENGINE_ACTIVE,
    GATEWAY_QUEUE_COUNT,
    GATEWAY_QUEUE_SECONDS,
    IMAGES,
    INFLIGHT,
    PENDING,
    QUEUE_MICROSECONDS,
    QUEUED,
    REQUESTS,
    SIGNALS,
    SUCCESSES,
    Moment,
    parse_query,
    windows,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.autoscaling.demand import Demand
    from loadtest.autoscaling.manifests import Autoscaling

_GATEWAY: Final = "gateway"
_STEP_SECONDS: Final = 0.5  # far more than a batch takes, far less than a scrape interval
_LONG_STEP_SECONDS: Final = 2.0  # for demands that last for hours
_LONG_SECONDS: Final = 7200.0
_MAX_ROWS: Final = 3000


@dataclass(frozen=True, slots=True)
class Loss:
    """Triggers find no series for some time.

    Attributes:
        begin: when it begins, in seconds.
        end: when it ends.
        triggers: names of the triggers; empty for all.
    """

    begin: float
    end: float
    triggers: frozenset[str] = frozenset()

    def hits(self, now: float, trigger: str) -> bool:
        """Whether a trigger finds nothing now."""
        return self.begin <= now < self.end and (not self.triggers or trigger in self.triggers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What is neither in the overlay nor in the demand.

    Attributes:
        service: pods and gateway.
        replicas: pods at the begin, within the overlay's bounds; None for its minimum.
        sync_phase_seconds: when the HPA looks for the first time; it does not know when a load changes.
        dcgm_seconds: how often DCGM's exporter takes new values; its own default.
        seed: of all that is random: arrivals, phases of scrapes, what a scrape happens to see of a queue.
        losses: when triggers find no series.
    """

    service: Service = field(default_factory=Service)
    replicas: int | None = None
    sync_phase_seconds: float = 7.5
    dcgm_seconds: float = 30.0
    seed: int = 1
    losses: tuple[Loss, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a timeline: rates are means over it, states are those at its end.

    Attributes:
        seconds: when it begins.
        offered: images per second that came.
        answered: images per second that were answered in time.
        refused: images per second that were refused or given up.
        wanted: replicas that are asked for.
        existing: pods that exist and do not leave.
        ready: pods that take requests.
        gpus: pods that hold a GPU.
        wait_ms: mean time that the answered have waited, in gateway and Triton, in ms; 0 where none was.
        waiting: images that wait in the gateway or in a pod.
        busy: mean busy share of the GPUs that are ready.
    """

    seconds: float
    offered: float
    answered: float
    refused: float
    wanted: int
    existing: int
    ready: int
    gpus: int
    wait_ms: float
    waiting: float
    busy: float


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the number of replicas.

    Attributes:
        seconds: when it was decided.
        before: replicas until then.
        after: replicas from then on.
        because: name of the trigger; empty where bounds or KEDA itself decided.
    """

    seconds: float
    before: int
    after: int
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """What happened.

    Attributes:
        rows: state and flow over time.
        changes: each change of the number of replicas.
        total: what became of all images.
        gpu_hours: time that pods held their GPU, in hours.
        fallback_seconds: when a trigger was seen falling back for the first time; None if none was.
    """

    rows: Sequence[Row]
    changes: Sequence[Change]
    total: Outcome
    gpu_hours: float
    fallback_seconds: float | None


class Simulation:
    """One run.

    Args:
        autoscaling: what the overlay says.
        demand: what comes.
        conditions: everything else.
    """

    def __init__(self, autoscaling: Autoscaling, demand: Demand, conditions: Conditions) -> None:
        self._autoscaling = autoscaling
        self._demand = demand
        self._conditions = conditions
        self._step_seconds = _STEP_SECONDS if demand.seconds < _LONG_SECONDS else _LONG_STEP_SECONDS
        self._random = np.random.default_rng(conditions.seed + 1)
        self._wanted = min(max(conditions.replicas or 0, autoscaling.min_replicas), autoscaling.max_replicas)
        self._fleet = Fleet(conditions.service, self._wanted, autoscaling.max_held_images)
        self._prometheus = Prometheus()
        self._targets: dict[Pod, _Target] = {}
        self._gateway_scrape_at = self._phase(autoscaling.scrape_seconds)
        self._recorded: dict[str, float | None] = {}
        self._rules = [
            _Recorder(rule.name, windows(rule), rule.interval_seconds) for rule in autoscaling.rules.values()
        ]
        self._hpa = Hpa(max(1, autoscaling.min_replicas), autoscaling.max_replicas, autoscaling.up, autoscaling.down)
        self._scalers = [
            (Scaler(trigger, autoscaling.fallback), parse_query(trigger.query)) for trigger in autoscaling.triggers
        ]
        self._sync_at = conditions.sync_phase_seconds
        self._poll_at = 0.0
        self._active_at = 0.0
        self._changes: list[Change] = []
        self._fallback_seconds: float | None = None

    def run(self) -> Timeline:
        """Let the demand's time pass."""
        rows: list[Row] = []
        total, recent = Outcome(), Outcome()
        step = self._step_seconds
        every = round(max(1, math.ceil(self._demand.seconds / _MAX_ROWS)) / step)  # rows are whole seconds long
        for n, images in enumerate(self._demand.arrivals(step, self._conditions.seed).tolist()):
            now = n * step
            self._observe(now)
            self._autoscale(now)
            outcome = self._fleet.step(now, step, images)
            total.add(outcome)
            recent.add(outcome)
            if (n + 1) % every == 0:
                rows.append(self._row((n + 1 - every) * step, now, every * step, recent))
                recent = Outcome()
        return Timeline(
            rows=rows,
            changes=self._changes,
            total=total,
            gpu_hours=self._fleet.gpu_seconds / 3600,
            fallback_seconds=self._fallback_seconds,
        )

    # what is measured

    def _observe(self, now: float) -> None:
        for pod in self._fleet.pods:
            if pod.ready_at <= now and pod not in self._targets:
                self._targets[pod] = _Target(f"pod {pod.number}", now + self._phase(self._autoscaling.scrape_seconds))
        for pod, target in list(self._targets.items()):
            self._look_at(now, pod, target)
        if now >= self._gateway_scrape_at:
            self._gateway_scrape_at += self._autoscaling.scrape_seconds
            gateway = self._fleet.gateway
            self._prometheus.scrape(
                now,
                _GATEWAY,
                {
                    INFLIGHT: self._seen(gateway.inflight),
                    QUEUED: self._seen(gateway.queued),
                    REQUESTS: gateway.received,
                    GATEWAY_QUEUE_COUNT: gateway.granted,
                    GATEWAY_QUEUE_SECONDS: gateway.queue_seconds,
                },
            )
        for rule in self._rules:
            if now >= rule.next_at:
                rule.next_at += rule.interval_seconds
                moment = Moment(self._prometheus, now, rule.windows, self._recorded)
                self._recorded[rule.name] = SIGNALS[rule.name].value(moment)

    def _look_at(self, now: float, pod: Pod, target: _Target) -> None:
        if pod.gone_at <= now:
            self._prometheus.lose(now, target.instance)
            del self._targets[pod]
            return
        if now >= target.dcgm_at:
            target.busy = (pod.busy_seconds - target.busy_seconds) / max(self._step_seconds, now - target.dcgm_since)
            target.busy_seconds, target.dcgm_since = pod.busy_seconds, now
            target.dcgm_at = now + self._conditions.dcgm_seconds
        if now >= target.scrape_at:
            target.scrape_at += self._autoscaling.scrape_seconds
            self._prometheus.scrape(
                now,
                target.instance,
                {
                    PENDING: self._seen(pod.now.waiting),
                    SUCCESSES: pod.answered,
                    IMAGES: pod.answered,
                    QUEUE_MICROSECONDS: pod.queue_seconds * 1e6,
                    ENGINE_ACTIVE: target.busy,
                },
            )

    def _seen(self, mean: float) -> float:
        """What a scrape happens to see of a number that goes up and down all the time."""
        return float(self._random.poisson(mean))

    def _phase(self, interval_seconds: float) -> float:
        return float(self._random.uniform(0, interval_seconds))

    # what is decided

    def _autoscale(self, now: float) -> None:
        if now >= self._poll_at:
            self._poll_at += self._autoscaling.polling_seconds
            if not self._autoscaling.min_replicas:
                self._activate(now)
        if now >= self._sync_at:
            self._sync_at += SYNC_SECONDS
            self._sync(now)

    def _sync(self, now: float) -> None:
        pods = PodCounts(self._wanted, self._fleet.existing, len(self._fleet.ready(now)))
        readings = [scaler.reading(result, pods) for scaler, result in self._results(now)]
        decision = self._hpa.sync(now, pods, readings)
        if self._fallback_seconds is None and any(scaler.is_falling_back for scaler, _ in self._scalers):
            self._fallback_seconds = now
        self._scale(now, decision.replicas, decision.because)

    def _activate(self, now: float) -> None:
        """KEDA's own part: from zero as soon as something is active, to zero when nothing was for long enough."""
        if any(scaler.is_active(result) for scaler, result in self._results(now)):
            self._active_at = now
            if not self._wanted:
                self._scale(now, 1, "")
        elif now - self._active_at >= self._autoscaling.cooldown_seconds:
            self._scale(now, 0, "")

    def _results(self, now: float) -> list[tuple[Scaler, float | None]]:
        """Each trigger, and what its query results in; None for nothing."""
        return [
            (scaler, None if self._is_lost(now, scaler.trigger.name) else query.value(self._recorded.get(query.rule)))
            for scaler, query in self._scalers
        ]

    def _is_lost(self, now: float, trigger: str) -> bool:
        return any(loss.hits(now, trigger) for loss in self._conditions.losses)

    def _scale(self, now: float, replicas: int, because: str) -> None:
        if replicas != self._wanted:
            self._changes.append(Change(now, self._wanted, replicas, because))
            self._wanted = replicas
            self._fleet.scale(now, replicas)

    def _row(self, begin: float, now: float, seconds: float, outcome: Outcome) -> Row:
        ready = self._fleet.ready(now)
        return Row(
            seconds=begin,
            offered=outcome.offered / seconds,
            answered=outcome.answered / seconds,
            refused=(outcome.refused + outcome.expired) / seconds,
            wanted=self._wanted,
            existing=self._fleet.existing,
            ready=len(ready),
            gpus=len(self._fleet.pods),
            wait_ms=1e3 * outcome.wait_seconds / outcome.answered if outcome.answered else 0.0,
            waiting=self._fleet.gateway.queued + sum(pod.now.waiting for pod in self._fleet.pods),
            busy=sum(pod.now.busy for pod in ready) / len(ready) if ready else 0.0,
        )


@dataclass(slots=True)
class _Target:
    """A pod as Prometheus and DCGM look at it."""

    instance: str
    scrape_at: float
    dcgm_at: float = 0.0
    dcgm_since: float = 0.0
    busy_seconds: float = 0.0
    busy: float = 0.0


@dataclass(slots=True)
class _Recorder:
    name: str
    windows: dict[str, float]
    interval_seconds: float
    next_at: float = 0.0


def simulate(autoscaling: Autoscaling, demand: Demand, conditions: Conditions | None = None) -> Timeline:
    """Run a demand against an overlay's autoscaling."""
    return Simulation(autoscaling, demand, conditions or Conditions()).run()
