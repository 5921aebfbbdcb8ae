"""What `/v1/detect` answers: JSON, COCO's result rows, or the annotated picture."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from gateway.errors import GatewayError, InvalidParameter
from gateway.rest import problems
from gateway.rest.face import json_response

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.detector import Result
    from gateway.rest.inputs import File


class Format(StrEnum):
    """The form of an answer; the value is what a request says."""

    JSON = "json"
    JPEG = "jpeg"
    COCO = "coco"


HEADERS: Final = ("X-Model-Name", "X-Model-Version", "X-Detections")
"""Who found how much; sent with the formats whose bodies have no place for it."""

_JPEG_TYPES: Final = ("image/jpeg", "image/*", "*/*")
_JSON_TYPES: Final = ("application/json", "application/*", "*/*")


def read_format(text: str | None) -> Format | None:
    """The parameter `format`.

    Raises:
        InvalidParameter: there is no such format.
    """
    if text is None or text in set(Format):
        return None if text is None else Format(text)
    raise InvalidParameter(f"format is {text[:100]!r}; it must be one of {', '.join(Format)}")


def negotiate(accept: Iterable[str]) -> Format:
    """The form that the values of `Accept` prefer: a picture if it is wanted more than JSON, which is the default."""
    weights = dict(_weight(entry) for value in accept for entry in value.split(","))
    return Format.JPEG if _first(weights, _JPEG_TYPES) > _first(weights, _JSON_TYPES) else Format.JSON


def answer(result: Result) -> dict[str, Any]:
    """What the caller gets to know of one image."""
    width, height = result.image_wh
    found = result.detections
    return {
        "model": {"name": result.model.name, "version": str(result.version)},
        "image": {"width": width, "height": height},
        "detections": [
            {
                "label": result.model.labels[class_id],
                "class_id": class_id,
                "score": score,
                "box": {"x1": x1, "y1": y1, "x2": x2, "y2": y2},
            }
            for class_id, score, (x1, y1, x2, y2) in zip(
                found.class_ids.tolist(), found.scores, found.xyxy, strict=True
            )
        ],
        "timing_ms": result.timing_ms,
    }


def answers(files: Sequence[File], outcomes: Sequence[Result | GatewayError]) -> list[dict[str, Any]]:
    """What the caller gets to know of each image: its file name if it has one, and its result or its error."""
    return [
        ({} if file.name is None else {"file": file.name})
        | ({"error": problems.fields(outcome)} if isinstance(outcome, GatewayError) else answer(outcome))
        for file, outcome in zip(files, outcomes, strict=True)
    ]


def coco_rows(results: Sequence[Result], first_image_id: int) -> list[dict[str, Any]]:
    """The detections of all images as rows of a COCO result file, each image's in a row and best first.

    `category_id` is the class id, from 0; a data set with other numbers finds its own by `label`, which COCO's tools
    pass over. `bbox` is x, y, width and height in source pixels.
    """
    return [
        {
            "image_id": image_id,
            "category_id": class_id,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
            "label": result.model.labels[class_id],
        }
        for image_id, result in enumerate(results, start=first_image_id)
        for class_id, score, (x1, y1, x2, y2) in zip(
            result.detections.class_ids, result.detections.scores, result.detections.xyxy, strict=True
        )
    ]


def picture(result: Result) -> web.Response:
    """The annotated picture, with `HEADERS`."""
    return web.Response(body=result.picture, content_type="image/jpeg", headers=_headers([result]))


def coco(results: Sequence[Result], first_image_id: int) -> web.Response:
    """The detections of one or more images as `coco_rows`, with `HEADERS`."""
    response = json_response(coco_rows(results, first_image_id))
    response.headers.update(_headers(results))
    return response


def _headers(results: Sequence[Result]) -> dict[str, str]:
    """`HEADERS` of one or more results of one model."""
    count = sum(len(result.detections) for result in results)
    return dict(zip(HEADERS, (results[0].model.name, str(results[0].version), str(count)), strict=True))


def _weight(entry: str) -> tuple[str, float]:
    """A media range and its weight; one that can't be read counts for nothing."""
    media_range, *options = (text.strip() for text in entry.lower().split(";"))
    weights = [option[2:] for option in options if option.startswith("q=")]
    try:
        return media_range, float(weights[0]) if weights else 1.0
    except ValueError:
        return media_range, 0.0


def _first(weights: dict[str, float], media_ranges: Iterable[str]) -> float:
    """The weight of the most specific range that is named; they come in that order."""
    return next((weights[each] for each in media_ranges if each in weights), 0.0)
