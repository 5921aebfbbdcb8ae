"""What the deployment itself says while it is under load: Tritons, size of batches, use of GPUs."""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import urllib3

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    Samples = list[tuple[float, float]]
    """Pairs of seconds since the load began, and a value."""

NAMES: Final = ("tritons", "batch_size", "gpu_percent")
_SECONDS: Final = 1.0
_TIMEOUT: Final = urllib3.Timeout(connect=2.0, read=5.0)
_QUERIES: Final = {
    "tritons": "max(sum by (instance) (eagleeye_triton_endpoint_up))",
    "batch_size": "sum(rate(nv_inference_count[15s])) / sum(rate(nv_inference_exec_count[15s]))",
    "gpu_percent": "avg(100 * DCGM_FI_PROF_GR_ENGINE_ACTIVE) or avg(DCGM_FI_DEV_GPU_UTIL)",
}
"""Utilisation of DCGM's own is next best: it is full as soon as any kernel runs."""
_MOST_POINTS: Final = 600


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the deployment tells about itself.

    Attributes:
        gateway: URL of the gateway's metrics.
        tritons: URLs of the Tritons' metrics.
        prometheus: URL of a Prometheus, which is asked instead; empty for none.
    """

    gateway: str
    tritons: tuple[str, ...]
    prometheus: str


@dataclass(frozen=True, slots=True)
class Watched:
    """Series by the names of `NAMES`, and why those that are empty are."""

    series: dict[str, Samples] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def mean(self, name: str, begin: float, end: float) -> float | None:
        """The mean over some seconds; None where there is none."""
        values = [value for at, value in self.series.get(name, ()) if begin <= at < end]
        return sum(values) / len(values) if values else None

    def pack(self) -> dict[str, Any]:
        """As JSON has it."""
        series = {name: [[round(at, 2), round(value, 3)] for at, value in each] for name, each in self.series.items()}
        return {"series": series, "missing": self.missing}


def total(page: str, name: str) -> float | None:
    """A metric, summed over its labels; None if the page has none of that name."""
    values = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", page, re.MULTILINE)
    return sum(map(float, values)) if values else None


def count(page: str, name: str) -> int:
    """How many series a metric has."""
    return len(re.findall(rf"^{name}(?:{{.*}})? ", page, re.MULTILINE))


class Watcher:
    """Reads metrics once a second, in a thread of its own, while it is a context.

    Args:
        pool: for requests.
        gateway: URL of the gateway's metrics.
        tritons: URLs of the Tritons' metrics.
        headers: for the gateway's.
    """

    def __init__(
        self, pool: urllib3.PoolManager, gateway: str, tritons: Sequence[str], headers: Mapping[str, str]
    ) -> None:
        self._pool = pool
        self._gateway = gateway
        self._tritons = tritons
        self._headers = dict(headers)
        self._samples: list[tuple[float, str, float]] = []
        self._before: dict[str, tuple[float, float]] = {}
        self._faults: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="eagleeye watcher", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def since(self, begin: float, seconds: float) -> Watched:
        """What was seen in so many seconds from `begin`, a time as `time.time` has it."""
        series: dict[str, Samples] = {name: [] for name in NAMES}
        for at, name, value in self._samples:
            if 0 <= at - begin <= seconds:
                series[name].append((at - begin, value))
        missing = {name: self._why_missing(name) for name, samples in series.items() if not samples}
        return Watched({name: samples for name, samples in series.items() if samples}, missing)

    def _why_missing(self, name: str) -> str:
        if name == "tritons":
            return self._faults.get(self._gateway, f"{self._gateway} has no eagleeye_triton_endpoint_up")
        if not self._tritons:
            return "neither --prometheus-url nor --triton-metrics-url is given"
        faults = [self._faults[url] for url in self._tritons if url in self._faults]
        return faults[0] if faults else "Triton reports none"

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            self._sample()
            self._stop.wait(max(0.0, began + _SECONDS - time.monotonic()))

    def _sample(self) -> None:
        page = self._read(self._gateway, self._headers)
        self._note("tritons", total(page, "eagleeye_triton_endpoint_up"))
        images, batches, busy = 0.0, 0.0, []
        for url in self._tritons:
            page = self._read(url, {})
            now = total(page, "nv_inference_count") or 0.0, total(page, "nv_inference_exec_count") or 0.0
            before = self._before.get(url, now)
            self._before[url] = now
            images, batches = images + now[0] - before[0], batches + now[1] - before[1]
            if gpus := count(page, "nv_gpu_utilization"):
                busy.append(100 * (total(page, "nv_gpu_utilization") or 0.0) / gpus)
        self._note("batch_size", images / batches if batches > 0 and images > 0 else None)
        self._note("gpu_percent", sum(busy) / len(busy) if busy else None)

    def _note(self, name: str, value: float | None) -> None:
        if value is not None:
            self._samples.append((time.time(), name, value))

    def _read(self, url: str, headers: Mapping[str, str]) -> str:
        """A page of metrics; empty if it can't be had."""
        try:
            answer = self._pool.request("GET", url, headers=headers, timeout=_TIMEOUT, retries=False)
        except urllib3.exceptions.HTTPError as error:
            self._faults[url] = f"{url} does not answer ({type(error).__name__})"
            return ""
        if answer.status != 200:  # noqa: PLR2004 (HTTP's OK)
            self._faults[url] = f"{url} answers {answer.status}"
            return ""
        return answer.data.decode(errors="replace")


def ask_prometheus(pool: urllib3.PoolManager, url: str, begin: float, seconds: float) -> Watched:
    """The same series from Prometheus, for so many seconds from `begin`, a time as `time.time` has it."""
    series: dict[str, Samples] = {}
    missing: dict[str, str] = {}
    for name, query in _QUERIES.items():
        step = max(1, round(seconds / _MOST_POINTS))
        span = {"query": query, "start": f"{begin:.3f}", "end": f"{begin + seconds:.3f}", "step": step}
        try:
            answer = pool.request(
                "GET", f"{url.rstrip('/')}/api/v1/query_range?{urlencode(span)}", timeout=_TIMEOUT, retries=False
            )
            found = json.loads(answer.data)["data"]["result"]
            samples = _samples(found, begin)
        except (urllib3.exceptions.HTTPError, ValueError, KeyError, TypeError, IndexError) as error:
            missing[name] = f"Prometheus at {url} gave no answer ({type(error).__name__})"
            continue
        if samples:
            series[name] = samples
        else:
            missing[name] = f"Prometheus has no samples of {query}"
    return Watched(series, missing)


def _samples(found: Iterable[Mapping[str, Any]], begin: float) -> Samples:
    """The one series of an aggregate; without those values that are no numbers."""
    values = [(float(at) - begin, float(value)) for each in found for at, value in each["values"]]
    return [(at, value) for at, value in values if value == value]  # noqa: PLR0124 (no NaN)
