"""Shadow mode: a candidate gets some of the images that another version has answered, and what it finds is compared.

The caller has the answer by then. What is done here takes no slot, is asked for once and never again, and stops at once
where something else wants its place.
"""

from __future__ import annotations

import asyncio
import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol, Self

import structlog

from gateway.agreement import Tally, agreement
from gateway.deadline import Deadline
from gateway.errors import GatewayError, ModelNotFound
from gateway.postprocess import postprocess

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from gateway.admission import Admission
    from gateway.agreement import Agreement, Comparison, ShadowReport
    from gateway.detections import RawPredictions
    from gateway.image import UInt8Array
    from gateway.metrics import Metrics
    from gateway.model import Model
    from gateway.postprocess import Thresholds
    from gateway.resize import Resize
    from gateway.versions import Versions

IMAGE_OUTCOMES: Final = ("compared", "dropped", "unserved", "failed")
"""What becomes of a sampled image; see `gateway.agreement.Comparison`."""

_MAX_SAMPLES: Final = 16  # in work at a time, whatever the fleet: 20 MB of tensors of 640 x 640
_HEAD_START_SECONDS: Final = 0.02  # for the answer to be written and sent before this loop is busy with its sample
_TIMEOUT_SECONDS: Final = 5.0  # a candidate that takes longer is none

_log = structlog.get_logger()


class CandidatePredictor(Protocol):
    """The port to the candidate's inference."""

    async def predict_once(self, model: Model, version: int, tensor: UInt8Array, deadline: Deadline) -> RawPredictions:
        """Raw predictions of one Triton that is asked once; what it does says nothing about it to anybody else.

        Raises:
            ModelNotFound: nobody serves that version with the model's interface.
            GatewayError: whatever else went wrong.
        """


@dataclass(frozen=True, slots=True)
class Sample:
    """An image that was answered: what went to Triton and came back, and what was made of it.

    Attributes:
        model: who answered.
        version: in which version.
        tensor: uint8 (h, w, 3) RGB, the model's input.
        predictions: what that version said.
        back: the way from model pixels to source pixels.
        thresholds: what the caller wanted to see.
        infer_seconds: from handing over the tensor to the predictions.
    """

    model: Model
    version: int
    tensor: UInt8Array
    predictions: RawPredictions
    back: Resize
    thresholds: Thresholds
    infer_seconds: float


@dataclass(slots=True)
class Pair:
    """A candidate beside a version that answers, from the first image on."""

    model: Model
    version: int
    candidate: int
    is_running: bool = True
    images: dict[str, int] = field(default_factory=lambda: dict.fromkeys(IMAGE_OUTCOMES, 0))
    tally: Tally = field(default_factory=Tally)
    since: datetime = field(default_factory=lambda: datetime.now(UTC))

    def add(self, other: Pair) -> None:
        """Take in what another process has seen of the same two."""
        self.is_running |= other.is_running
        self.since = min(self.since, other.since)
        for outcome, number in other.images.items():
            self.images[outcome] += number
        self.tally.join(other.tally)

    def describe(self) -> Comparison:
        """For the report."""
        labels, tally = self.model.labels, self.tally
        return {
            "model": self.model.name,
            "served_version": str(self.version),
            "candidate_version": str(self.candidate),
            "is_running": self.is_running,
            "since": self.since.isoformat(timespec="seconds"),
            "images": dict(self.images),
            "boxes": tally.boxes(),
            "labels": tally.labels(labels),
            "relabelled": tally.relabellings(labels),
            "score_shift": tally.score_shifts.spread(),
            "iou": tally.ious.spread(),
            "latency_ms": tally.latency_ms(),
        }


class Shadowing:
    """Compares candidates, as the rollout names them, with what is served; while entered."""

    def __init__(
        self,
        predictor: CandidatePredictor,
        versions: Versions,
        admission: Admission,
        metrics: Metrics,
        *,
        head_start_seconds: float = _HEAD_START_SECONDS,
        timeout_seconds: float = _TIMEOUT_SECONDS,
    ) -> None:
        self._predictor = predictor
        self._versions = versions
        self._admission = admission
        self._metrics = metrics
        self._head_start_seconds = head_start_seconds
        self._timeout_seconds = timeout_seconds
        self._random = random.Random()  # noqa: S311 (which images are looked at is no secret)
        self._tasks: set[asyncio.Task[None]] = set()
        self._pairs: dict[tuple[str, int, int], Pair] = {}
        self._failing: set[tuple[str, int]] = set()  # candidates whose last image failed: said once
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shadow")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def offer(self, sample: Sample) -> None:
        """Take an answered image, or let it be, in next to no time; nothing that comes of it reaches the caller."""
        asked = self._versions.rollout.of(sample.model.name).shadow
        if asked is None or asked.version == sample.version or self._random.random() * 100 >= asked.percent:
            return
        pair = self._pair(sample, asked.version)
        if len(self._tasks) >= min(self._admission.spare_slots(sample.model.name), _MAX_SAMPLES):
            self._count(pair, "dropped")
            return
        # in a context of its own: neither the caller's rights nor its trace go on for what it knows nothing of
        task = asyncio.create_task(self._try(sample, pair), name="shadow", context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def report(self, is_shown: Callable[[str], bool] = lambda _: True) -> ShadowReport:
        """What has been seen of the models that are to be shown, see `gateway.agreement`."""
        return {"comparisons": [pair.describe() for pair in self.pairs() if is_shown(pair.model.name)]}

    def pairs(self) -> list[Pair]:
        """The same, as sums that can be added up."""
        for pair in self._pairs.values():
            asked = self._versions.rollout.of(pair.model.name).shadow
            pair.is_running = asked is not None and asked.version == pair.candidate
        return [pair for _, pair in sorted(self._pairs.items(), key=lambda entry: entry[0])]

    async def _try(self, sample: Sample, pair: Pair) -> None:
        """Compare one image; every way in which it ends is counted."""
        try:
            outcome = await self._compare(sample, pair)
        except ModelNotFound:
            outcome = "unserved"
        except GatewayError as error:
            outcome = "failed"
            self._note(pair, error)
        except Exception:  # noqa: BLE001 (a sample that nobody thought of must not end unseen)
            outcome = "failed"
            _log.exception("unexpected error")
        self._count(pair, outcome)

    async def _compare(self, sample: Sample, pair: Pair) -> str:
        await asyncio.sleep(self._head_start_seconds)
        if not self._admission.spare_slots(sample.model.name):
            return "dropped"
        start = time.perf_counter()
        deadline = Deadline.after(self._timeout_seconds)
        predictions = await self._predictor.predict_once(sample.model, pair.candidate, sample.tensor, deadline)
        seconds = time.perf_counter() - start
        image = await asyncio.get_running_loop().run_in_executor(self._thread, _agreement, sample, predictions)
        self._failing.discard((pair.model.name, pair.candidate))
        pair.tally.add(image, sample.infer_seconds, seconds)
        self._observe(pair, image, sample.infer_seconds, seconds)
        return "compared"

    def _pair(self, sample: Sample, candidate: int) -> Pair:
        """The sums of a candidate beside a version. A new candidate, or new labels, begin anew."""
        name = sample.model.name
        for key, pair in list(self._pairs.items()):
            if key[0] == name and (key[2] != candidate or pair.model.labels != sample.model.labels):
                del self._pairs[key]
        return self._pairs.setdefault((name, sample.version, candidate), Pair(sample.model, sample.version, candidate))

    def _count(self, pair: Pair, outcome: str) -> None:
        pair.images[outcome] += 1
        self._metrics.shadow_images.labels(pair.model.name, str(pair.candidate), outcome).inc()

    def _observe(self, pair: Pair, image: Agreement, served_seconds: float, seconds: float) -> None:
        candidate = (pair.model.name, str(pair.candidate))
        for (class_id, outcome), boxes in image.counts.items():
            self._metrics.shadow_boxes.labels(*candidate, pair.model.labels[class_id], outcome).inc(boxes)
        shift, iou = self._metrics.shadow_score_shift.labels(*candidate), self._metrics.shadow_iou.labels(*candidate)
        for value in image.score_shifts:
            shift.observe(value)
        for value in image.ious:
            iou.observe(value)
        self._metrics.shadow_infer_seconds.labels(*candidate, "served").observe(served_seconds)
        self._metrics.shadow_infer_seconds.labels(*candidate, "candidate").observe(seconds)

    def _note(self, pair: Pair, error: GatewayError) -> None:
        """Say once that a candidate fails, until it does not."""
        candidate = (pair.model.name, pair.candidate)
        if candidate not in self._failing:
            self._failing.add(candidate)
            _log.warning("a shadow candidate fails", model=candidate[0], version=candidate[1], reason=str(error))


def _agreement(sample: Sample, predictions: RawPredictions) -> Agreement:
    """Both by the caller's thresholds. Of all classes, whichever the caller wants: one may be taken for another."""
    thresholds = replace(sample.thresholds, class_ids=None)
    return agreement(
        postprocess(sample.predictions, sample.back, thresholds), postprocess(predictions, sample.back, thresholds)
    )
