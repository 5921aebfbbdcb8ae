"""What triggers measure, by the recorded rule's name. No PromQL is evaluated: a rule that is not here is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from loadtest.autoscaling.prometheus import Prometheus

PENDING: Final = "nv_inference_pending_request_count"
SUCCESSES: Final = "nv_inference_request_success"
IMAGES: Final = "nv_inference_count"
QUEUE_MICROSECONDS: Final = "nv_inference_queue_duration_us"
ENGINE_ACTIVE: Final = "DCGM_FI_PROF_GR_ENGINE_ACTIVE"
GPU_UTIL: Final = "DCGM_FI_DEV_GPU_UTIL"
INFLIGHT: Final = "eagleeye_inflight"
QUEUED: Final = "eagleeye_queued"
HELD_BYTES: Final = "eagleeye_held_bytes"
REQUESTS: Final = "eagleeye_requests_total"
GATEWAY_QUEUE_SECONDS: Final = "eagleeye_stage_seconds_sum"
GATEWAY_QUEUE_COUNT: Final = "eagleeye_stage_seconds_count"


class UnknownSignal(ValueError):
    """A query or a rule that the simulator has no quantity for."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What a rule is evaluated on.

    Attributes:
        prometheus: the samples.
        now: the time, in seconds.
        windows: the ranges, and offsets, of the rule's expression in seconds, by metric.
        recorded: what the rules before it have come to; None for an empty result.
    """

    prometheus: Prometheus
    now: float
    windows: Mapping[str, float]
    recorded: Mapping[str, float | None]

    def average(self, metric: str) -> dict[str, float]:
        """`avg_over_time` of a metric over its range, by instance."""
        return self.prometheus.average(metric, self.now, self.windows[metric])

    def rate(self, metric: str) -> dict[str, float]:
        """`rate` of a metric over its range, by instance."""
        return self.prometheus.rate(metric, self.now, self.windows[metric])


@dataclass(frozen=True, slots=True)
class Signal:
    """A quantity of the model.

    Attributes:
        reads: metrics, and rules of this table, that the rule's expression must be made of.
        value: the rule's value; None for an empty result.
    """

    reads: frozenset[str]
    value: Callable[[Moment], float | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """A recording rule as an overlay has it.

    Attributes:
        name: what it records.
        expression: its PromQL.
        interval_seconds: how often it is evaluated.
    """

    name: str
    expression: str
    interval_seconds: float


@dataclass(frozen=True, slots=True)
class Query:
    """A trigger's query: a recorded rule between two bounds.

    Attributes:
        rule: the rule's name.
        at_least: lower bound, from `clamp_min`.
        at_most: upper bound, from `clamp_max`.
    """

    rule: str
    at_least: float
    at_most: float

    def value(self, recorded: float | None) -> float | None:
        """The query's result; None for an empty one."""
        return None if recorded is None else max(self.at_least, min(self.at_most, recorded))


def _low(metric: str) -> Callable[[Moment], float | None]:
    """The sum of gauges, each by the lower of its average and its latest sample, so that it falls at once."""

    def value(moment: Moment) -> float | None:
        averages, latest = moment.average(metric), moment.prometheus.latest(metric)
        return sum(min(last, averages.get(i, last)) for i, last in latest.items()) if latest else None

    return value


def _mean_wait(seconds: str, count: str, gauge: str, milliseconds: float) -> Callable[[Moment], float | None]:
    """Mean wait of those who got through, in ms, while more than one waits; else 0. A unit has so many milliseconds."""

    def value(moment: Moment) -> float | None:
        waited, counted, waiting = moment.rate(seconds), moment.rate(count), moment.average(gauge)
        if not (waited and counted and waiting):
            return None
        mean = milliseconds * sum(waited.values()) / max(sum(counted.values()), 1e-3)
        return mean if sum(waiting.values()) > 1 else 0.0

    return value


def _requests(moment: Moment) -> float | None:
    """How many requests more there are than a while ago; all of them where nothing is known of then."""
    latest = moment.prometheus.latest(REQUESTS)
    before = moment.prometheus.at(REQUESTS, moment.now - moment.windows[REQUESTS])
    return sum(count - before.get(i, 0.0) for i, count in latest.items()) if latest else None


def _images_per_second(moment: Moment) -> float | None:
    """What the pods that are still there answer."""
    rates, latest = moment.rate(IMAGES), moment.prometheus.latest(IMAGES)
    found = [rates[instance] for instance in latest if instance in rates]
    return sum(found) if found else None


def _gpu_busy_percent(moment: Moment) -> float | None:
    """Busy GPUs in percent points: the sum over those that are still there."""
    averages, latest = moment.average(ENGINE_ACTIVE), moment.prometheus.latest(ENGINE_ACTIVE)
    busy = [100 * averages[instance] for instance in latest if instance in averages]
    return sum(busy) if busy else None


def _sum(*rules: str) -> Callable[[Moment], float | None]:
    """The sum of rules; empty where one is."""

    def value(moment: Moment) -> float | None:
        values = [moment.recorded[rule] for rule in rules]
        return None if None in values else sum(value for value in values if value is not None)

    return value


def _whole_wait(moment: Moment) -> float | None:
    """The wait in both queues, or in Triton's where the gateway tells none."""
    triton, gateway = moment.recorded[TRITON_WAIT], moment.recorded[GATEWAY_WAIT]
    return triton if triton is None or gateway is None else triton + gateway


GATEWAY_INFLIGHT: Final = "eagleeye:gateway_inflight:low15s"
GATEWAY_QUEUED: Final = "eagleeye:gateway_queued:low15s"
TRITON_WAIT: Final = "eagleeye:triton_queue_milliseconds:mean30s"
GATEWAY_WAIT: Final = "eagleeye:gateway_queue_milliseconds:mean30s"
GPU_BUSY: Final = "eagleeye:gpu_busy_percent:mean1m"

SIGNALS: Final[Mapping[str, Signal]] = {
    GATEWAY_INFLIGHT: Signal(frozenset({INFLIGHT, HELD_BYTES}), _low(INFLIGHT)),
    GATEWAY_QUEUED: Signal(frozenset({QUEUED, HELD_BYTES}), _low(QUEUED)),
    "eagleeye:requests:increase1m": Signal(frozenset({REQUESTS, HELD_BYTES}), _requests),
    "eagleeye:demand:low15s": Signal(
        frozenset({GATEWAY_INFLIGHT, GATEWAY_QUEUED}), _sum(GATEWAY_INFLIGHT, GATEWAY_QUEUED)
    ),
    "eagleeye:triton_pending:low30s": Signal(frozenset({PENDING}), _low(PENDING)),
    "eagleeye:triton_images:rate1m": Signal(frozenset({IMAGES}), _images_per_second),
    TRITON_WAIT: Signal(
        frozenset({QUEUE_MICROSECONDS, SUCCESSES, PENDING}), _mean_wait(QUEUE_MICROSECONDS, SUCCESSES, PENDING, 1e-3)
    ),
    GATEWAY_WAIT: Signal(
        frozenset({GATEWAY_QUEUE_SECONDS, GATEWAY_QUEUE_COUNT, QUEUED}),
        _mean_wait(GATEWAY_QUEUE_SECONDS, GATEWAY_QUEUE_COUNT, QUEUED, 1e3),
    ),
    "eagleeye:queue_milliseconds:max30s": Signal(frozenset({TRITON_WAIT, GATEWAY_WAIT}), _whole_wait),
    GPU_BUSY: Signal(frozenset({ENGINE_ACTIVE, GPU_UTIL}), _gpu_busy_percent),
    "eagleeye:gpu_busy_percent:sum1m": Signal(frozenset({GPU_BUSY}), _sum(GPU_BUSY)),
}
"""Recorded rule -> what it is in the model, summed over pods. A test holds it against the overlays."""

_CALL: Final = re.compile(r"^(sum|max|clamp_min|clamp_max)\s*\((.*)\)$", re.DOTALL)
_BOUND: Final = re.compile(r"^(.*),\s*([0-9.]+)$", re.DOTALL)
_SELECTOR: Final = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(\{[^{}]*\})?$")
_METRIC: Final = re.compile(r"\b(?:nv_|DCGM_|eagleeye[_:])[a-zA-Z0-9_:]*")
_RANGE: Final = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{[^{}]*\})?\s*(?:\[|offset\s+)(\d+)([smh])\b")
_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}


def parse_query(text: str) -> Query:
    """Read a query: a recorded rule, in `sum`, `max`, `clamp_min` and `clamp_max` at most.

    There is one model in one namespace: sums and maxima over the rule's labels change nothing.

    Raises:
        UnknownSignal: it is something else, or the rule is not in the table.
    """
    rest, at_least, at_most = text.strip(), float("-inf"), float("inf")
    while call := _CALL.match(rest):
        function, rest = call[1], call[2].strip()
        if function.startswith("clamp"):
            bound = _BOUND.match(rest)
            if bound is None:
                rest = text
                break
            rest, number = bound[1].strip(), float(bound[2])
            at_least, at_most = (number, at_most) if function == "clamp_min" else (at_least, number)
    selector = _SELECTOR.match(rest)
    if selector is None or selector[1] not in SIGNALS:
        raise UnknownSignal(f"the query {text.strip()!r} is not one that the simulator knows; {_known()}")
    return Query(selector[1], at_least, at_most)


def windows(rule: Rule) -> dict[str, float]:
    """The ranges, and offsets, of a rule's expression in seconds, by metric.

    Raises:
        UnknownSignal: the rule is not in the table, or is made of other metrics than the table says.
    """
    signal = SIGNALS.get(rule.name)
    if signal is None:
        raise UnknownSignal(f"the rule {rule.name!r} is not one that the simulator knows; {_known()}")
    reads = set(_METRIC.findall(rule.expression))
    if reads != signal.reads:
        raise UnknownSignal(
            f"the rule {rule.name!r} is made of {', '.join(sorted(reads)) or 'no metric'}; the simulator knows it as "
            f"made of {', '.join(sorted(signal.reads))}"
        )
    return {metric: float(n) * _UNIT_SECONDS[unit] for metric, n, unit in _RANGE.findall(rule.expression)}


def _known() -> str:
    return f"allowed are sum, max, clamp_min and clamp_max of {', '.join(SIGNALS)}"
