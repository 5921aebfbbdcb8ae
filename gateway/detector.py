"""The core: bytes -> image -> tensor -> raw predictions -> detections. Knows no HTTP, no gRPC and no Triton."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar

from gateway.annotate import draw_detections, encode_image
from gateway.errors import InvalidParameter
from gateway.image import decode, decode_for
from gateway.metrics import StageTimer
from gateway.model import Served
from gateway.postprocess import Thresholds, is_quick, postprocess
from gateway.priority import Priority
from gateway.resize import resize
from gateway.shadow import Sample
from gateway.turnstile import Turnstile

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from types import TracebackType

    from gateway.admission import Admission
    from gateway.deadline import Deadline
    from gateway.detections import Detections, RawPredictions
    from gateway.image import ImageLimits, UInt8Array
    from gateway.metrics import Metrics
    from gateway.model import Model
    from gateway.resize import Resize
    from gateway.shadow import Shadowing

T = TypeVar("T")

_ANSWERS_AT_A_TIME: Final = 4  # some 2 ms

MAX_DETECTIONS: Final = 1000
"""The most detections a caller may ask for: as many candidates as a model exports by default."""


class Predictor(Protocol):
    """The port to inference: who serves what, and one tensor in for raw predictions out."""

    @property
    def models(self) -> Mapping[str, Model]:
        """The detectors that are served now, by name; empty while no Triton serves one."""

    @property
    def expected_models(self) -> Mapping[str, Model]:
        """Those, and what was served until a moment ago and should come back: requests may wait for it."""

    def find(self, name: str | None, version: int | None) -> tuple[Model, int]:
        """The model and version that serve a request.

        Raises:
            ModelNotFound: nobody serves that one, or none is named and several are served.
            TritonUnavailable: nobody serves anything now, nor is expected to in a moment.
        """

    async def until_served(self) -> None:
        """Wait until a detector is served; return at once if one is."""

    async def predict(
        self, model: Model, version: int, tensor: UInt8Array, deadline: Deadline, *, is_replaceable: bool = False
    ) -> RawPredictions:
        """Raw predictions for uint8 (h, w, 3) RGB of the model's input size.

        If `is_replaceable`, that version is not waited for while another one is served: the caller would take that one.

        Raises:
            GatewayError: whatever went wrong, in the gateway's own words.
        """


@dataclass(frozen=True, slots=True)
class Query:
    """What a caller asks for beside the image. None stands for the model's own default.

    Attributes:
        model: name of the model; may be left out while only one is served.
        version: version of the model, the newest when None.
        score_threshold: in [0, 1]; detections score strictly more.
        iou_threshold: in [0, 1]; see `gateway.boxes.nms`.
        max_detections: 1 to `MAX_DETECTIONS`.
        classes: ids or labels to look for, all when None.
        agnostic_nms: whether NMS works across classes.
        clip: whether boxes end at the border of the image, see `gateway.postprocess.postprocess`.
        priority: how urgent it is.

    Raises:
        InvalidParameter: a value is out of its range.
    """

    model: str | None = None
    version: int | None = None
    score_threshold: float | None = None
    iou_threshold: float | None = None
    max_detections: int = 500
    classes: tuple[str, ...] | None = None
    agnostic_nms: bool = False
    clip: bool = True
    priority: Priority = Priority.NORMAL

    def __post_init__(self) -> None:
        for name, value in (("score_threshold", self.score_threshold), ("iou_threshold", self.iou_threshold)):
            if value is not None and not 0 <= value <= 1:
                raise InvalidParameter(f"{name} is {value}; it must lie between 0 and 1")
        if not 1 <= self.max_detections <= MAX_DETECTIONS:
            raise InvalidParameter(
                f"max_detections is {self.max_detections}; it must lie between 1 and {MAX_DETECTIONS}"
            )

    def thresholds(self, model: Model) -> Thresholds:
        """The thresholds for one model, its own defaults filled in.

        Raises:
            InvalidParameter: a class that the model does not know.
        """
        return Thresholds(
            score=model.score_threshold if self.score_threshold is None else self.score_threshold,
            iou=model.iou_threshold if self.iou_threshold is None else self.iou_threshold,
            max_detections=self.max_detections,
            class_ids=None if self.classes is None else _class_ids(self.classes, model),
            agnostic_nms=self.agnostic_nms,
            clip=self.clip,
        )


@dataclass(frozen=True, slots=True)
class Result:
    """What was found in one image, and how long it took: `timing_ms` by stage, with the `total`.

    `picture` is the image with its detections drawn on it, as JPEG, where that was asked for.
    """

    model: Model
    version: int
    image_wh: tuple[int, int]
    detections: Detections
    timing_ms: dict[str, float]
    picture: bytes | None = None


class Detector:
    """Finds objects in one encoded image. Pixels are worked on in `threads` threads, which hold no lock on Python.

    If `is_decoding_scaled`, large JPEGs are decoded at a part of their size, see `gateway.image.decode_for`.
    What it has found is offered to `shadowing`, if there is any, to be compared with what another version finds.
    """

    def __init__(
        self,
        predictor: Predictor,
        limits: ImageLimits,
        admission: Admission,
        metrics: Metrics,
        threads: int,
        shadowing: Shadowing | None = None,
        *,
        is_decoding_scaled: bool = False,
    ) -> None:
        self._predictor = predictor
        self._is_decoding_scaled = is_decoding_scaled
        self._shadowing = shadowing
        self._limits = limits
        self._admission = admission
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="pixels")
        # for each thread an image waits there: whichever is free takes one without waiting for the event loop
        self._free_places = asyncio.Semaphore(2 * threads)
        self._answers = Turnstile(_ANSWERS_AT_A_TIME)
        # apart from pixels, so that what is nearly done does not queue behind what has not begun
        self._postprocessing = ThreadPoolExecutor(1, thread_name_prefix="postprocessing")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for pool in (self._threads, self._postprocessing):
            pool.shutdown(wait=False, cancel_futures=True)

    def check(self, query: Query, timeout_seconds: float, flow: str) -> None:
        """Refuse what could not be answered in `timeout_seconds`, before the image itself is there.

        Raises:
            GatewayError: the query or the load forbids it.
        """
        model, _ = self._predictor.find(query.model, query.version)
        self._admission.check(model.name, query.priority, flow, timeout_seconds)

    async def detect(
        self,
        data: bytes,
        query: Query,
        deadline: Deadline,
        *,
        served: Served | None = None,
        flow: str = "",
        with_picture: bool = False,
    ) -> Result:
        """Find the objects in one encoded image, and draw them on it if `with_picture`.

        `served` is what the query was found to mean, if that is settled. `flow` says whose image it is, see
        `gateway.access.flow`: each flow gets the same share of a model.

        Raises:
            GatewayError: the image, the query, the load or Triton forbids it.
        """
        if served is None:
            served = Served(*self._predictor.find(query.model, query.version), is_replaceable=query.version is None)
        model, version = served.model, served.version
        thresholds = query.thresholds(model)
        timer = StageTimer(self._metrics, model.name)
        self._metrics.image_bytes.observe(len(data))
        async with self._admission.slot(model.name, query.priority, flow, deadline) as slot:
            tensor, back = await self._in_pixel_thread(partial(self._preprocess, data, model, timer), model, deadline)
            self._admission.started(slot)
            with timer.stage("infer"):
                predictions = await self._predictor.predict(
                    model, version, tensor, deadline, is_replaceable=served.is_replaceable
                )
            await self._answers.turn()
            work = partial(_postprocess, predictions, back, thresholds, timer)
            detections = work() if is_quick(predictions, thresholds) else await self._in_postprocessing_thread(work)
            picture = None
            if with_picture:
                draw = partial(self._draw, data, detections, model, timer)
                picture = await self._in_pixel_thread(draw, model, deadline)
        if self._shadowing:
            seconds = timer.seconds["infer"]
            self._shadowing.offer(Sample(model, version, tensor, predictions, back, thresholds, seconds))
        return Result(model, version, back.source_wh, detections, timer.milliseconds(), picture)

    async def _in_pixel_thread(self, work: Callable[[], T], model: Model, deadline: Deadline) -> T:
        """Do pixel work in a thread; none is started that could not be answered in time."""
        try:
            async with asyncio.timeout(deadline.remaining_seconds()):
                queued = self._metrics.queued.labels(model.name)
                with queued.track_inprogress() if self._free_places.locked() else nullcontext():
                    await self._free_places.acquire()
                answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
                self._threads.submit(copy_context().run, self._work, work, answer)
                return await answer
        except TimeoutError:
            raise deadline.exceeded() from None

    def _work(self, work: Callable[[], T], answer: asyncio.Future[T]) -> None:
        """Do work in a thread, unless its caller has left."""
        try:
            result = None if answer.cancelled() else work()
        except BaseException as error:  # noqa: BLE001 (it is the caller's)
            self._hand_over(answer, answer.set_exception, error)
        else:
            self._hand_over(answer, answer.set_result, result)

    def _hand_over(self, answer: asyncio.Future[T], settle: Callable[[Any], None], outcome: object) -> None:
        with suppress(RuntimeError):  # the loop has closed, nobody waits any more
            answer.get_loop().call_soon_threadsafe(self._ended, answer, settle, outcome)

    def _ended(self, answer: asyncio.Future[T], settle: Callable[[Any], None], outcome: object) -> None:
        self._free_places.release()  # only now: a caller that leaves does not stop a thread
        if not answer.done():
            settle(outcome)

    async def _in_postprocessing_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._postprocessing.submit(copy_context().run, work))

    def _preprocess(self, data: bytes, model: Model, timer: StageTimer) -> tuple[UInt8Array, Resize]:
        with timer.stage("decode"):
            image = decode_for(data, self._limits, model.input_wh if self._is_decoding_scaled else None)
        self._metrics.image_pixels.observe(image.source_wh[0] * image.source_wh[1])
        with timer.stage("preprocess"):
            return resize(image.pixels, model.input_wh, model.resize, image.source_wh)

    def _draw(self, data: bytes, found: Detections, model: Model, timer: StageTimer) -> bytes:
        """The annotated JPEG. Decodes once more: pictures that were kept while Triton works would fill the memory."""
        labels = [model.labels[class_id] for class_id in found.class_ids]
        with timer.stage("encode"):
            return encode_image(draw_detections(decode(data, self._limits), found.xyxy, labels, found.scores), ".jpg")


def _postprocess(predictions: RawPredictions, back: Resize, thresholds: Thresholds, timer: StageTimer) -> Detections:
    with timer.stage("postprocess"):
        return postprocess(predictions, back, thresholds)


def _class_ids(entries: Collection[str], model: Model) -> frozenset[int]:
    """Read a class filter; an entry is a label, or else an id."""
    ids = {str(class_id): class_id for class_id in range(len(model.labels))}
    ids |= {label: class_id for class_id, label in reversed(list(enumerate(model.labels)))}  # the first of its name
    for entry in entries:
        if entry not in ids:
            known = ", ".join(model.labels[:20]) + (", ..." if len(model.labels) > 20 else "")  # noqa: PLR2004
            raise InvalidParameter(
                f"classes names {entry[:100]!r}, which {model.name} does not know; "
                f"ids 0 to {len(model.labels) - 1} or: {known}"
            )
    return frozenset(ids[entry] for entry in entries)
