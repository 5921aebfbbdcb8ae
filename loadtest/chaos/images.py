"""Pictures whose right answers are known before anybody asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from triton_runtime.standin import encode_png, numbered_picture
from triton_runtime.stub.candidates import DIGITS, LABELS, candidates


@dataclass(frozen=True, slots=True)
class Image:
    """One encoded picture, and the `detections` that are right for it, as they stand in the gateway's JSON."""

    data: bytes
    expected: list[dict[str, Any]]


def make_images(count: int) -> list[Image]:
    """The stand-in's first pictures by number; no two have the same answer."""
    return [_image(number) for number in range(count)]


def _image(number: int) -> Image:
    pixels = numbered_picture(number)
    found = candidates(pixels[None])
    rows = zip(found.boxes[0][:DIGITS], found.scores[0][:DIGITS], found.class_ids[0][:DIGITS], strict=True)
    expected = [
        {
            "label": LABELS[class_id],
            "class_id": class_id,
            "score": score,
            "box": dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)),
        }
        for box, score, class_id in rows
    ]
    return Image(encode_png(pixels), orjson.loads(orjson.dumps(expected, option=orjson.OPT_SERIALIZE_NUMPY)))
