"""What the console's Live view shows, computed once a second for all who watch, and not at all while nobody does."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson
import structlog

from gateway import access
from gateway.observer import OK

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Mapping

    from gateway.access import Caller
    from gateway.core import Core
    from gateway.model import Model

INTERVAL_SECONDS: Final = 1.0
HISTORY_SECONDS: Final = 120
"""What a newcomer is shown of the time before, if somebody was watching then."""
_LATENCY_SECONDS: Final = 10.0  # quantiles of fewer answers than a few seconds bring would jump about
_QUANTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_STATE_NAMES: Final = {True: "ready", False: "expected back"}

_log = structlog.get_logger()

Totals = dict[tuple[str, ...], float]
"""Values of instruments by name and labels, the model's first: ("requests", model, code)."""


class Tritons(Protocol):
    """Whoever knows the Tritons."""

    def describe(self) -> dict[str, Any]:
        """See `gateway.triton.fleet.Fleet.describe`."""

    async def statistics(self) -> dict[str, dict[str, Any]]:
        """See `gateway.triton.fleet.Fleet.statistics`."""

    async def gpu_use(self) -> dict[str, float | None]:
        """See `gateway.triton.fleet.Fleet.gpu_use`."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """All numbers at one moment, in seconds of `time.monotonic`."""

    at: float
    totals: Totals
    tritons: dict[str, dict[str, Any]]


@dataclass(slots=True)
class _View:
    """What those see whose keys allow the same models.

    Attributes:
        caller: one of them; None where no keys are asked for.
        viewers: how many there are.
        event: the newest, as it is sent.
        samples: those of the last `HISTORY_SECONDS`.
    """

    caller: Caller | None
    viewers: int = 0
    event: bytes = b""
    samples: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=HISTORY_SECONDS))

    def may_see(self, model: str) -> bool:
        """Whether a model's numbers are for them; what belongs to no model is for those who may see all."""
        return self.caller is None or self.caller.key.models is None or self.caller.may_use(model)


class Feed:
    """Server-sent events for any number of viewers: a view is computed once, and a viewer costs no more than its write.

    An event holds a `sample` of numbers and what is there now, `endpoints` and `models`; a newcomer's first one holds
    the `samples` before, if there are any. A viewer who is slow to read misses events, and sees the newest one next.

    Numbers are those of this process. So an event tells of how many `workers` it is one.
    """

    def __init__(self, core: Core, tritons: Tritons | None, workers: int = 1) -> None:
        self._core = core
        self._tritons = tritons
        self._workers = workers
        self._views: dict[tuple[str, ...] | None, _View] = {}
        self._readings: deque[_Reading] = deque(maxlen=round(_LATENCY_SECONDS / INTERVAL_SECONDS) + 1)
        self._gpu_use: dict[str, float | None] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.computed = 0
        """How many events were computed so far."""

    async def events(self, caller: Caller | None) -> AsyncGenerator[bytes, None]:
        """The events for one viewer, until this process drains."""
        with self._watched(caller) as view:
            if view.samples:
                yield _encoded({"samples": list(view.samples)})
            seen = b""
            while not self._core.lifecycle.is_draining:
                if view.event is seen:
                    await self._changed.wait()
                else:
                    seen = view.event
                    yield seen

    @contextmanager
    def _watched(self, caller: Caller | None) -> Iterator[_View]:
        """Compute in the block. Whoever comes first sets it going, and whoever leaves last stops it."""
        allowed = caller.key.models if caller else None
        view = self._views.setdefault(allowed, _View(caller))
        view.viewers += 1
        if self._task is None:
            self._task = asyncio.create_task(self._keep_computing(), name="console feed")
        try:
            yield view
        finally:
            view.viewers -= 1
            if not view.viewers:
                del self._views[allowed]
            if not self._views:
                self._task.cancel()
                self._task = None
                self._readings.clear()

    async def _keep_computing(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            try:
                await self._compute()
            except Exception:  # noqa: BLE001 (what nobody thought of must not leave viewers with a picture that stands)
                _log.exception("unexpected error")
            due = max(due + INTERVAL_SECONDS, loop.time())
            await asyncio.sleep(due - loop.time())

    async def _compute(self) -> None:
        statistics: dict[str, dict[str, Any]] = {}
        if self._tritons:
            statistics, self._gpu_use = await asyncio.gather(self._tritons.statistics(), self._tritons.gpu_use())
        self._readings.append(_Reading(time.monotonic(), self._read(), statistics))
        for view in self._views.values():
            if view.caller is not None:
                access.act_for(view.caller)
            sample = self._sample(view)
            view.samples.append(sample)
            view.event = _encoded(
                {
                    "sample": sample,
                    "endpoints": self._endpoints(view),
                    "models": self._models(),
                    "workers": self._workers,
                }
            )
            self.computed += 1
        self._changed.set()
        self._changed = asyncio.Event()

    def _read(self) -> Totals:
        metrics = self._core.metrics
        instruments = {
            "requests": (metrics.requests, "_total", ("model", "code")),
            "latency": (metrics.request_seconds, "_bucket", ("model", "le")),
            "detections": (metrics.detections, "_total", ("model", "label")),
            "shed": (metrics.shed, "_total", ("model", "reason")),
            "inflight": (metrics.inflight, "", ("model",)),
            "queued": (metrics.queued, "", ("model",)),
            "streams": (metrics.streams, "", ()),
        }
        totals: Totals = defaultdict(float)
        for name, (instrument, suffix, labels) in instruments.items():
            for family in instrument.collect():
                for sample in family.samples:
                    if sample.name == family.name + suffix:
                        totals[name, *(sample.labels[label] for label in labels)] += sample.value
        return totals

    def _sample(self, view: _View) -> dict[str, Any]:
        """The numbers of this second; rates are None in the first, which has nothing to be held against."""
        now = self._readings[-1]
        before = self._readings[-2] if len(self._readings) > 1 else None
        requests = _rates(view, "requests", before, now)
        return {
            "time": round(time.time(), 3),
            "requests_per_second": _sum(requests),
            "errors_per_second": _sum(requests, but=(OK, "cancelled")),
            "errors": {code: rate for code, rate in (requests or {}).items() if rate and code not in {OK, "cancelled"}},
            "shed_per_second": _sum(_rates(view, "shed", before, now)),
            "detections_per_second": _rates(view, "detections", before, now) or {},
            "latency_ms": _quantiles(_rates(view, "latency", self._readings[0], now) or {}),
            **{name: _sum(_seen(view, name, now.totals)) for name in ("inflight", "queued")},
            "streams": now.totals.get(("streams",), 0),
        }

    def _endpoints(self, view: _View) -> list[dict[str, Any]]:
        described = self._tritons.describe()["endpoints"] if self._tritons else []
        shown = [
            {**each, "models": {name: versions for name, versions in each["models"].items() if view.may_see(name)}}
            for each in described
        ]
        return [
            {**each, **self._pace(each["endpoint"]), "gpu_use": self._gpu_use.get(each["endpoint"])} for each in shown
        ]

    def _pace(self, endpoint: str) -> dict[str, Any]:
        """What its Triton says of itself for the last seconds; None where it says nothing, or has nothing to do."""
        seen = [(reading.at, reading.tritons[endpoint]) for reading in self._readings if reading.tritons.get(endpoint)]
        (first_at, first), (last_at, last) = (seen[0], seen[-1]) if len(seen) > 1 else ((0.0, {}), (0.0, {}))
        grown = {name: last[name] - first[name] for name in first}
        inferences, executions = grown.get("inferences", 0), grown.get("executions", 0)
        if inferences < 0:  # it has been started anew
            inferences = executions = 0
        return {
            "inferences_per_second": round(inferences / (last_at - first_at), 2) if seen[1:] else None,
            "batch_size": round(inferences / executions, 2) if executions > 0 else None,
            "queue_ms": round(grown["queue_seconds"] / inferences * 1e3, 3) if inferences > 0 else None,
        }

    def _models(self) -> list[dict[str, Any]]:
        """What the current caller may use, ready or expected back."""
        served, expected = self._core.predictor.models, self._core.predictor.expected_models
        return [_model(model, is_ready=name in served) for name, model in sorted(expected.items())]


def _model(model: Model, *, is_ready: bool) -> dict[str, Any]:
    return {
        "name": model.name,
        "versions": [str(version) for version in model.versions],
        "state": _STATE_NAMES[is_ready],
        "input": {"width": model.input_wh[0], "height": model.input_wh[1]},
        "classes": len(model.labels),
        "batch_size": model.batch_size,
        "facts": model.facts,
    }


def _encoded(content: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"


def _seen(view: _View, name: str, totals: Totals) -> dict[str, float]:
    """One instrument's values by its last label, summed over the models that a view may see."""
    values: dict[str, float] = defaultdict(float)
    for (instrument, *labels), value in totals.items():
        if instrument == name and view.may_see(labels[0]):
            values[labels[-1]] += value
    return values


def _rates(view: _View, name: str, before: _Reading | None, now: _Reading) -> dict[str, float] | None:
    """Growth per second by the last label; None if nothing has passed."""
    if before is None or before is now:
        return None
    earlier, seconds = _seen(view, name, before.totals), now.at - before.at
    latest = _seen(view, name, now.totals)
    return {label: round((value - earlier.get(label, 0)) / seconds, 3) for label, value in latest.items()}


def _sum(values: dict[str, float] | None, but: tuple[str, ...] = ()) -> float | None:
    return None if values is None else round(sum(value for label, value in values.items() if label not in but), 3)


def _quantiles(buckets: Mapping[str, float]) -> dict[str, float | None]:
    """Latencies in ms from how many answers took up to each bound, even within a bucket as Prometheus' dashboards do.

    None without answers. What took longer than the last bound counts as that.
    """
    edges = [(0.0, 0.0), *sorted((float(bound), count) for bound, count in buckets.items())]
    total = edges[-1][1]
    values: dict[str, float | None] = dict.fromkeys(_QUANTILES)
    for name, share in _QUANTILES.items() if total > 0 else ():
        low, high = next(pair for pair in pairwise(edges) if pair[1][1] >= share * total)
        (from_seconds, below), (to_seconds, reached) = low, high
        width = to_seconds - from_seconds if to_seconds != float("inf") else 0.0
        values[name] = round((from_seconds + width * (share * total - below) / (reached - below)) * 1e3, 2)
    return values
