"""The images of one request: worked on at the same time, and told about together."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Final

from gateway.errors import GatewayError, ImageTooLarge, InvalidImage, UnsupportedMediaType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.deadline import Deadline
    from gateway.detector import Detector, Query, Result
    from gateway.observer import Observer

    Outcome = Result | GatewayError

MAX_IMAGES: Final = 32
"""The most images of one request: two full batches of a model, or half of what may wait before a rate is known."""

_IMAGE_ERRORS: Final = (ImageTooLarge, InvalidImage, UnsupportedMediaType)


async def detect_each(
    detector: Detector,
    observer: Observer,
    images: Sequence[bytes],
    query: Query,
    deadline: Deadline,
    *,
    flow: str = "",
    with_picture: bool = False,
    all_or_none: bool = False,
) -> list[Outcome]:
    """Each image's result or error, in order; all share the deadline, and one bad image does not spoil the rest.

    `flow` says whose images they are, see `gateway.access.flow`.

    Raises:
        GatewayError: if `all_or_none`, the first that comes up; it names its image, and the others are not worked on.
    """

    async def attempt(index: int, image: bytes) -> Outcome:
        try:
            result = await detector.detect(image, query, deadline, flow=flow, with_picture=with_picture)
        except GatewayError as error:
            if all_or_none:
                raise _naming(index, error) from error
            return error
        observer.detected(result)
        return result

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(attempt(index, image)) for index, image in enumerate(images)]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def all_results(outcomes: Sequence[Outcome], *, names_images: bool = False) -> list[Result]:
    """The results if all are there.

    Raises:
        GatewayError: the first there is; what is wrong with an image comes after its index if `names_images`.
    """
    results: list[Result] = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, GatewayError):
            raise _naming(index, outcome) if names_images else outcome
        results.append(outcome)
    return results


def _naming(index: int, error: GatewayError) -> GatewayError:
    """The error, after its image's index if it is about the image."""
    return type(error)(f"image {index}: {error}") if isinstance(error, _IMAGE_ERRORS) else error


def log_fields(images: Sequence[bytes], outcomes: Sequence[Outcome]) -> dict[str, object]:
    """What the log line of a request says of its images: sums, the best of all detections, and what failed."""
    results = [outcome for outcome in outcomes if not isinstance(outcome, GatewayError)]
    failed = Counter(outcome.code for outcome in outcomes if isinstance(outcome, GatewayError))
    fields: dict[str, object] = {
        "images": len(images),
        "image_bytes": sum(map(len, images)),
        "detections": sum(len(result.detections) for result in results),
    }
    if failed:
        fields["failed"] = dict(failed)
    if len(images) == len(results) == 1:
        fields["image_wh"] = results[0].image_wh
    found = [result for result in results if len(result.detections)]
    if found:
        best = max(found, key=lambda result: result.detections.scores[0])  # each has its best one first
        class_id, score = best.detections.class_ids[0], best.detections.scores[0]
        fields |= {"best_label": best.model.labels[class_id], "best_score": round(float(score), 4)}
    return fields
