"""What several workers say, as one gateway says it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from prometheus_client import Metric

from gateway.lifecycle import SHUTTING_DOWN, Readiness

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from gateway.agreement import ShadowReport
    from gateway.shadow import Pair

    Family = tuple[str, str, str]  # name, help, type
    Series = tuple[str, tuple[tuple[str, str], ...]]  # name, labels
    Sums = dict[Family, dict[Series, float]]

_GROWING: Final = frozenset({"counter", "histogram"})
_LARGEST: Final = frozenset({"eagleeye_expected_wait_seconds", "eagleeye_triton_endpoint_up", "python_info"})
"""Gauges of which one worker's value is the gateway's: the longest wait there is, and whether anybody sees a Triton."""
_EARLIEST: Final = frozenset({"process_start_time_seconds"})
_BEGAN: Final = "_created"
_ENDPOINT: Final = "endpoint"
_WORST_FIRST: Final = ("lost", "unready", "connecting", "ejected", "draining", "warming", "serving")


def readiness(workers: Sequence[Readiness]) -> Readiness:
    """Ready when every worker is that takes requests, for the kernel gives each its part of the connections.

    A worker that drains alone gets no new ones, so the others decide; models are those that all of them serve.
    """
    staying = [each for each in workers if not each.is_draining]
    if not staying:
        return SHUTTING_DOWN if workers else Readiness("no worker serves")
    reasons = [each.reason for each in staying if each.reason]
    served = set[str].intersection(*(set(each.models) for each in staying))
    return Readiness(reasons[0] if reasons else None, tuple(sorted(served)))


class Totals:
    """The metrics of all processes that there are and were.

    Counters and histograms are summed, and go on from where a worker left them that has ended: a sum that fell would be
    taken for a restart, and all of it for new. Gauges are summed over the workers that answer: images, bytes, streams,
    calls, and images per second are. `_LARGEST` has those of which a sum would lie.
    """

    def __init__(self) -> None:
        self._last: dict[Hashable, list[Metric]] = {}
        self._ended: Sums = {}

    def end(self, process: Hashable) -> None:
        """Keep the counts of a process that has ended, as they were told last. What it told since counts no more."""
        for family in self._last.pop(process, []):
            if family.type in _GROWING:
                _add(self._ended, family)

    def merged(self, answers: Mapping[Hashable, list[Metric]]) -> list[Metric]:
        """Everything, with these answers of processes. One that is missing counts as it did last, without gauges."""
        self._last.update(answers)
        sums = {family: dict(series) for family, series in self._ended.items()}
        for process, families in self._last.items():
            for family in families:
                if family.type in _GROWING or process in answers:
                    _add(sums, family)
        endpoints = self._endpoints()
        return [_metric(family, series, endpoints) for family, series in sums.items()]

    def _endpoints(self) -> set[str]:
        """The Tritons that somebody knows: no pod that is gone leaves anything behind for good."""
        samples = (sample for families in self._last.values() for family in families for sample in family.samples)
        return {sample.labels[_ENDPOINT] for sample in samples if _ENDPOINT in sample.labels}


class Families:
    """Families as what `prometheus_client` writes out."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        """All of them."""
        return self._families


def tritons(descriptions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How the workers see each Triton: calls, ejections and the retry budget in sum, the rest as the worst has it.

    Shared memory is summed, too, as each worker has a file of its own.
    """
    seen: dict[str, list[dict[str, Any]]] = {}
    for description in descriptions:
        for endpoint in description["endpoints"]:
            seen.setdefault(endpoint["endpoint"], []).append(endpoint)
    errors = [each["discovery_error"] for each in descriptions if each["discovery_error"]]
    memories = [each["shared_memory"] for each in descriptions if each["shared_memory"]]
    return {
        "endpoints": [_endpoint(views) for _, views in sorted(seen.items())],
        "discovery_error": errors[0] if errors else None,
        "retry_budget": round(sum(each["retry_budget"] for each in descriptions), 1),
        "shared_memory": _sum(memories, memories[0]) if memories else None,
    }


def shadow(workers: Iterable[Iterable[Pair]]) -> ShadowReport:
    """The comparisons of all workers, added up where they are of the same versions with the same labels."""
    pairs: dict[tuple[Any, ...], Pair] = {}
    for pair in (pair for worker in workers for pair in worker):
        first = pairs.setdefault((pair.model.name, pair.version, pair.candidate, pair.model.labels), pair)
        if first is not pair:
            first.add(pair)
    return {"comparisons": [pair.describe() for _, pair in sorted(pairs.items(), key=lambda entry: entry[0])]}


def _add(sums: Sums, family: Metric) -> None:
    series = sums.setdefault((family.name, family.documentation, family.type), {})
    for sample in family.samples:
        key = sample.name, tuple(sample.labels.items())
        series[key] = _joined(sample.name)((series[key], sample.value)) if key in series else sample.value


def _joined(name: str) -> Callable[[Iterable[float]], float]:
    if name in _EARLIEST or name.endswith(_BEGAN):
        return min
    return max if name in _LARGEST else sum


def _metric(family: Family, series: Mapping[Series, float], endpoints: set[str]) -> Metric:
    metric = Metric(*family)
    for (name, labels), value in series.items():
        told = dict(labels)
        if told.get(_ENDPOINT) in {None, *endpoints}:
            metric.add_sample(name, told, value)
    return metric


def _endpoint(views: list[dict[str, Any]]) -> dict[str, Any]:
    worst = min(views, key=lambda view: _WORST_FIRST.index(view["state"]))
    return {**worst, **_sum(views, ("outstanding", "ejections"))}


def _sum(counts: Iterable[Mapping[str, Any]], names: Iterable[str]) -> dict[str, int]:
    return {name: sum(each[name] for each in counts) for name in names}
