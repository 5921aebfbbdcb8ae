"""The limit: the stages of a request in one process, with no server, no network and no copy in between.

What comes of an image is what the gateway makes of it: the same pure functions decode, resize and post-process, and
JSON says the same. What is left out is all else: HTTP, uploads, admission, deadlines, metrics, logs, gRPC, Triton. So
the limit gets better with the stages, and the ratio to it is about what lies between them.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import onnxruntime
import orjson

from gateway.detections import RawPredictions
from gateway.image import ImageLimits, decode_for
from gateway.postprocess import Thresholds, postprocess
from gateway.resize import ResizeMode, resize
from loadtest.closed_loop import WARM_UP_SECONDS, quantile
from triton_runtime.standin.candidates import LABELS, candidates

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gateway.detections import Detections
    from gateway.image import UInt8Array
    from gateway.resize import Resize
    from triton_runtime.standin import Standin

_LIMITS: Final = ImageLimits(max_bytes=2**30, max_pixels=2**30)
STANDIN_BATCH: Final = 16
"""Of the stand-in's config: the largest batch that Triton forms for it."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What so many images at a time come to.

    Attributes:
        images_per_second: after the warm-up.
        p50_ms: median time from taking an image up to its JSON.
        p99_ms: nearest-rank 99 % quantile of that.
        cpu_ms: processor time an image.
    """

    images_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class Stages:
    """What is done to an image before and after the network.

    Attributes:
        model: name in the answer.
        version: of the model, in the answer.
        labels: by class id.
        input_wh: width and height of the network's input in pixels.
        thresholds: what a caller gets who names none.
        is_scaled: whether large JPEGs are decoded at a part of their size, as the gateway does by `--scaled-decoding`.
    """

    model: str
    version: str
    labels: tuple[str, ...]
    input_wh: tuple[int, int]
    thresholds: Thresholds
    is_scaled: bool

    def preprocess(self, data: bytes) -> tuple[UInt8Array, Resize]:
        """An encoded image -> uint8 (h, w, 3) RGB of the input size, decoded as the gateway decodes."""
        image = decode_for(data, _LIMITS, self.input_wh if self.is_scaled else None)
        return resize(image.pixels, self.input_wh, ResizeMode.STRETCH, image.source_wh)

    def finish(self, predictions: RawPredictions, back: Resize) -> bytes:
        """The network's answer -> the caller's, as JSON."""
        return self.to_json(postprocess(predictions, back, self.thresholds), back.source_wh)

    def to_json(self, found: Detections, image_wh: tuple[int, int]) -> bytes:
        """What `/v1/detect` says of one image, but for times and the request's id."""
        names = ("x1", "y1", "x2", "y2")
        rows = zip(found.class_ids.tolist(), found.scores, found.xyxy, strict=True)
        answer = {
            "model": {"name": self.model, "version": self.version},
            "image": {"width": image_wh[0], "height": image_wh[1]},
            "detections": [
                {
                    "label": self.labels[class_id],
                    "class_id": class_id,
                    "score": score,
                    "box": dict(zip(names, xyxy, strict=True)),
                }
                for class_id, score, xyxy in rows
            ],
        }
        return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


class Limit(Protocol):
    """Runs images through all stages as fast as the processors can."""

    stages: Stages

    def detect(self, data: bytes) -> bytes:
        """The answer to one image, alone."""

    def measure(self, images: Sequence[bytes], concurrency: int, seconds: float) -> Rate:
        """Keep `concurrency` images under way for some seconds and a warm-up before."""


class _Counter:
    """Times of images, from all threads, and whether it is time to stop."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.latencies_ms: list[float] = []
        self.answers = 0
        self._begin = time.perf_counter() + WARM_UP_SECONDS
        self._end = self._begin + seconds
        self._lock = threading.Lock()
        self._cpu_seconds = time.process_time()

    def done(self, started: float) -> bool:
        """Count an image that is done now; whether another one may follow."""
        now = time.perf_counter()
        with self._lock:
            self.answers += 1
            if self._begin <= now < self._end:
                self.latencies_ms.append((now - started) * 1e3)
        return now < self._end

    def rate(self) -> Rate:
        """All that was counted."""
        cpu_ms = (time.process_time() - self._cpu_seconds) * 1e3 / max(1, self.answers)
        latencies = sorted(self.latencies_ms)
        return Rate(len(latencies) / self.seconds, quantile(latencies, 0.5), quantile(latencies, 0.99), cpu_ms)


class NetworkLimit:
    """W1: the network runs in the thread that has decoded its image; one thread a processor, one image a run."""

    def __init__(self, stages: Stages, model_file: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.stages = stages
        self._threads = threads
        self._session = onnxruntime.InferenceSession(model_file, options, providers=["CPUExecutionProvider"])

    def detect(self, data: bytes) -> bytes:
        """The answer to one image, alone."""
        tensor, back = self.stages.preprocess(data)
        outputs = self._session.run(["boxes", "scores", "class_ids"], {"images": tensor[np.newaxis]})
        return self.stages.finish(RawPredictions(*(output[0] for output in outputs)), back)

    def measure(self, images: Sequence[bytes], concurrency: int, seconds: float) -> Rate:
        """Keep as many threads busy as there are images at a time, and no more than processors."""
        counter = _Counter(seconds)

        def work(number: int) -> None:
            goes_on = True
            while goes_on:
                started = time.perf_counter()
                self.detect(images[number % len(images)])
                number += 1
                goes_on = counter.done(started)

        _in_threads(min(concurrency, self._threads), work)
        return counter.rate()


@dataclass(slots=True)
class _Job:
    """One image under way."""

    number: int
    started: float = 0.0
    back: Resize | None = None


class StandinLimit:
    """W2: images wait for a GPU, which is a thread that sleeps by the stand-in's curve, and go in batches.

    The answers are always the same candidates: finding them is the GPU's work, which costs no processor.
    """

    def __init__(self, stages: Stages, standin: Standin, threads: int) -> None:
        self.stages = stages
        self._standin = standin
        self._threads = threads
        found = candidates(np.zeros((1, standin.size, standin.size, 3), np.uint8))
        self._predictions = RawPredictions(*(array[0] for array in found))

    def detect(self, data: bytes) -> bytes:
        """The answer to one image, alone; its detections are those of the image, not the canned ones."""
        tensor, back = self.stages.preprocess(data)
        time.sleep(self._seconds(1))
        return self.stages.finish(RawPredictions(*(array[0] for array in candidates(tensor[np.newaxis]))), back)

    def measure(self, images: Sequence[bytes], concurrency: int, seconds: float) -> Rate:
        """Keep that many images under way; one thread a processor works on what is there to be done."""
        counter = _Counter(seconds)
        to_do: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        to_gpu: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        gpu = threading.Thread(target=self._serve, args=(to_gpu, to_do))
        gpu.start()
        remaining = concurrency
        lock = threading.Lock()
        threads = min(concurrency, self._threads)

        def work(_: int) -> None:
            nonlocal remaining
            while (job := to_do.get()) is not None:
                if job.back is None:
                    job.started = time.perf_counter()
                    job.back = self.stages.preprocess(images[job.number % len(images)])[1]
                    to_gpu.put(job)
                    continue
                self.stages.finish(self._predictions, job.back)
                if counter.done(job.started):
                    to_do.put(_Job(job.number + concurrency))
                    continue
                with lock:
                    remaining -= 1
                    if not remaining:
                        for _ in range(threads):
                            to_do.put(None)

        for number in range(concurrency):
            to_do.put(_Job(number))
        _in_threads(threads, work)
        to_gpu.put(None)
        gpu.join()
        return counter.rate()

    def _serve(self, arrived: queue.SimpleQueue[_Job | None], done: queue.SimpleQueue[_Job | None]) -> None:
        """Be the GPU: take all that waits, at most a full batch, sleep, hand it back."""
        while (first := arrived.get()) is not None:
            batch = [first]
            while len(batch) < STANDIN_BATCH and not arrived.empty():
                if (job := arrived.get()) is None:
                    return
                batch.append(job)
            time.sleep(self._seconds(len(batch)))
            for job in batch:
                done.put(job)

    def _seconds(self, images: int) -> float:
        return (self._standin.base_ms + self._standin.per_image_ms * images) / 1e3


def standin_stages(standin: Standin, model: str, *, is_scaled: bool) -> Stages:
    """The stages before and after the stand-in, with the gateway's default thresholds."""
    return Stages(model, "1", LABELS, (standin.size, standin.size), Thresholds(score=0.4, iou=0.7), is_scaled)


def _in_threads(count: int, work: Any) -> None:
    """Run `work` with a number each in so many threads, to their ends; an error in one of them is raised here."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 (raised again below)
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
