"""Prometheus instruments and the one timer of a request's stages.

Names are a contract: dashboards, alerts and autoscaling depend on them.
"""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING, Final, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.gc_collector import GCCollector

from gateway import tracing

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType

Instrument = TypeVar("Instrument", Counter, Gauge, Histogram)

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BYTES: Final = tuple(10_000 * 4**n for n in range(7))  # 10 kB .. 41 MB
# of a score: negative ones make the histogram's sum fall, so look at its buckets
_SHIFTS: Final = (-0.5, -0.2, -0.1, -0.05, -0.02, -0.01, 0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_IOUS: Final = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.999)
_PIXELS: Final = tuple(10_000 * 4**n for n in range(8))  # 100 x 100 .. 12,800 x 12,800


class Metrics:
    """Every instrument of one gateway process, in a registry of its own so that tests can have several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.requests = self._counter("requests", "Requests by face, model and outcome", "face", "model", "code")
        self.request_seconds = self._histogram(
            "request_seconds", "From the whole body read to the answer ready", _SECONDS, "face", "model"
        )
        self.stage_seconds = self._histogram("stage_seconds", "One stage of a request", _SECONDS, "stage", "model")
        self.inflight = self._gauge("inflight", "Images that are worked on, here or by Triton", "model")
        self.queued = self._gauge("queued", "Images that wait for their turn, or for a thread that decodes", "model")
        self.drain_rate = self._gauge("drain_rate", "Images per second worked off, as last seen under load", "model")
        self.expected_wait = self._gauge(
            "expected_wait_seconds", "Time that the last image in the queue waits", "model"
        )
        self.held_bytes = self._gauge("held_bytes", "Bytes of requests that are not answered yet")
        self.shed = self._counter("shed", "Images refused to protect the rest", "model", "reason")
        self.frames_dropped = self._counter("frames_dropped", "Frames of streams that newer ones replaced", "model")
        self.streams = self._gauge("streams", "Open streams of frames")
        self.detections = self._counter("detections", "Objects found", "model", "label")
        self.endpoint_up = self._gauge("triton_endpoint_up", "1 while this Triton serves a detector", "endpoint")
        self.triton_outstanding = self._gauge("triton_outstanding", "Calls that this Triton works on", "endpoint")
        self.triton_requests = self._counter("triton_requests", "Calls by endpoint and outcome", "endpoint", "outcome")
        self.triton_tensors = self._counter("triton_tensors", "Tensors by the way that they went", "endpoint", "way")
        self.triton_ejections = self._counter("triton_ejections", "Times that it got no calls for a while", "endpoint")
        self.triton_retries = self._counter("triton_retries", "Calls made once more, on another Triton", "reason")
        self.image_bytes = self._histogram("image_bytes", "Encoded size of an image", _BYTES)
        self.image_pixels = self._histogram("image_pixels", "Width x height of an image", _PIXELS)

        self._set_up_versions()

    def _set_up_versions(self) -> None:
        self.version_images = self._counter("version_images", "Images by version", "model", "version", "code")
        self.version_infer_seconds = self._histogram(
            "version_infer_seconds", "Inference of one image", _SECONDS, "model", "version"
        )
        self.rollout_rejected = self._counter("rollout_rejected", "Rollout files that were wrong or unreadable")
        self.rollout_fallbacks = self._counter(
            "rollout_fallbacks", "Requests for which no version of the rollout was served", "model"
        )
        shadow = ("model", "version")  # the candidate's
        self.shadow_images = self._counter("shadow_images", "Images sampled for a candidate", *shadow, "outcome")
        self.shadow_boxes = self._counter("shadow_boxes", "Boxes, served and candidate's", *shadow, "label", "outcome")
        self.shadow_score_shift = self._histogram(
            "shadow_score_shift", "Candidate's score less the served one, of agreed boxes", _SHIFTS, *shadow
        )
        self.shadow_iou = self._histogram("shadow_iou", "Overlap of agreed boxes", _IOUS, *shadow)
        self.shadow_infer_seconds = self._histogram(
            "shadow_infer_seconds",
            "Inference of the same images by the served version and the candidate",
            _SECONDS,
            *shadow,
            "role",
        )

    def forget_endpoint(self, endpoint: str) -> None:
        """Remove a Triton that is gone, so that pods which come and go leave nothing behind."""
        for instrument in (
            self.endpoint_up,
            self.triton_outstanding,
            self.triton_requests,
            self.triton_tensors,
            self.triton_ejections,
        ):
            instrument.remove_by_labels({"endpoint": endpoint})
            instrument.labels.cache_clear()  # type: ignore[union-attr]

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return _remembering(Counter(f"eagleeye_{name}", help_text, labels, registry=self.registry))

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return _remembering(Gauge(f"eagleeye_{name}", help_text, labels, registry=self.registry))

    def _histogram(self, name: str, help_text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return _remembering(Histogram(f"eagleeye_{name}", help_text, labels, buckets=buckets, registry=self.registry))


def _remembering(instrument: Instrument) -> Instrument:
    """The instrument, which looks up each combination of labels once: that takes longer than to count."""
    instrument.labels = cache(instrument.labels)  # type: ignore[method-assign]
    return instrument


class StageTimer:
    """Measures the stages of one request: into the histograms, and for the answer's `timing_ms`."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics = metrics
        self._model = model
        self._start = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Time and trace the block as one stage; one that fails is not recorded."""
        return _Stage(self, name)

    def record(self, name: str, seconds: float) -> None:
        """Take down what a stage took."""
        self.seconds[name] = seconds
        self._metrics.stage_seconds.labels(name, self._model).observe(seconds)

    def milliseconds(self) -> dict[str, float]:
        """Each stage so far and the `total` since this timer was made, in ms."""
        total = time.perf_counter() - self._start
        return {name: round(seconds * 1e3, 3) for name, seconds in {**self.seconds, "total": total}.items()}


class _Stage:
    """The block of `StageTimer.stage`."""

    __slots__ = ("_name", "_span", "_start", "_timer")

    def __init__(self, timer: StageTimer, name: str) -> None:
        self._timer = timer
        self._name = name

    def __enter__(self) -> None:
        self._start = time.perf_counter()
        self._span = tracing.stage(self._name)
        self._span.__enter__()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._span.__exit__(exc_type, exc, traceback)
        if exc_type is None:
            self._timer.record(self._name, time.perf_counter() - self._start)
