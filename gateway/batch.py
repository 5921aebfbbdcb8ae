"""The images of one request: worked on at the same time, and told about together."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from gateway.errors import (
    GatewayError,
    ImageTooLarge,
    InvalidImage,
    ModelNotFound,
    TritonUnavailable,
    UnsupportedMediaType,
)
from gateway.rollout import steady_draw

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from gateway.core import Core
    from gateway.deadline import Deadline
    from gateway.detector import Query, Result
    from gateway.model import Served
    from gateway.observer import Observer

    Outcome = Result | GatewayError

MAX_IMAGES: Final = 32
"""The most images of one request: two full batches of a model, or half of what may wait before a rate is known."""

_IMAGE_ERRORS: Final = (ImageTooLarge, InvalidImage, UnsupportedMediaType)
_GONE: Final = (ModelNotFound, TritonUnavailable)


async def detect_each(
    core: Core,
    observer: Observer,
    images: Sequence[bytes],
    query: Query,
    deadline: Deadline,
    *,
    event: dict[str, object] | None = None,
    flow: str = "",
    sequence: str = "",
    with_picture: bool = False,
    all_or_none: bool = False,
) -> list[Outcome]:
    """Each image's result or error, in order; all share the deadline, and one bad image does not spoil the rest.

    One version of the model answers all of them. If another one takes its place meanwhile, and may answer the query,
    that one gets them all again. Where the rollout gives shares to several versions, the images of one `sequence` get
    the same each time, so that a camera does not go to and fro; any others get one at random.

    `flow` says whose images they are, see `gateway.access.flow`. `event` takes model and version, also of what fails.

    Raises:
        GatewayError: nobody serves what the query asks for, or the model does not know its classes; or if
            `all_or_none`, the first error that comes up. It names its image if there are others; they are dropped.
    """
    draw = steady_draw(query.model or "", sequence) if sequence else random.random()  # noqa: S311 (no secret)

    async def attempt(index: int, image: bytes, served: Served) -> Outcome:
        try:
            return await core.detector.detect(
                image, query, deadline, served=served, flow=flow, with_picture=with_picture
            )
        except GatewayError as error:
            if isinstance(error, _GONE) and (core.hold.is_due or _is_replaced(core, query, draw, served)):
                raise _Replaced from error
            if all_or_none:
                observer.failed(served, error)
                raise _naming(index, error, len(images)) from error
            return error

    while True:
        await core.hold.until_served(len(images), deadline)
        served = core.versions.settle(core.predictor, query.model, query.version, draw)
        if event is not None:
            event |= {"model": served.model.name, "version": served.version}
        query.thresholds(served.model)  # a class that the model does not know is the request's error, not each image's
        try:
            outcomes = await _gather([attempt(index, image, served) for index, image in enumerate(images)])
        except _Replaced:
            continue
        for outcome in outcomes:
            if isinstance(outcome, GatewayError):
                observer.failed(served, outcome)
            else:
                observer.detected(outcome)
        return outcomes


class _Replaced(Exception):
    """What was to answer a query is gone, and something else would answer it, now or when a Triton is there again."""


def _is_replaced(core: Core, query: Query, draw: float, served: Served) -> bool:
    try:
        return core.versions.settle(core.predictor, query.model, query.version, draw) != served
    except GatewayError:
        return False


async def _gather(attempts: Sequence[Coroutine[Any, Any, Outcome]]) -> list[Outcome]:
    """All outcomes, in order; the first exception cancels the others."""
    if len(attempts) == 1:  # most often: that needs no task of its own
        return [await attempts[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in attempts]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def all_results(outcomes: Sequence[Outcome], *, names_images: bool = False) -> list[Result]:
    """The results if all are there.

    Raises:
        GatewayError: the first there is; what is wrong with one image of several comes after its index if
            `names_images`.
    """
    results: list[Result] = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, GatewayError):
            raise _naming(index, outcome, len(outcomes)) if names_images else outcome
        results.append(outcome)
    return results


def _naming(index: int, error: GatewayError, images: int) -> GatewayError:
    """The error, after its image's index if it is about the image, and there are others."""
    return type(error)(f"image {index}: {error}") if images > 1 and isinstance(error, _IMAGE_ERRORS) else error


def log_fields(images: Sequence[bytes], outcomes: Sequence[Outcome]) -> dict[str, object]:
    """What the log line of a request says of its images: sums, the best of all detections, and what failed."""
    results = [outcome for outcome in outcomes if not isinstance(outcome, GatewayError)]
    failed = [outcome.code for outcome in outcomes if isinstance(outcome, GatewayError)]
    fields: dict[str, object] = {
        "images": len(images),
        "image_bytes": sum(map(len, images)),
        "detections": sum(len(result.detections) for result in results),
    }
    if failed:
        fields["failed"] = dict(Counter(failed))
    if results:
        fields["version"] = results[0].version
    if len(images) == len(results) == 1:
        fields["image_wh"] = results[0].image_wh
    found = [result for result in results if len(result.detections)]
    if found:
        best = max(found, key=lambda result: result.detections.scores[0])  # each has its best one first
        class_id, score = best.detections.class_ids[0], best.detections.scores[0]
        fields |= {"best_label": best.model.labels[class_id], "best_score": round(float(score), 4)}
    return fields
