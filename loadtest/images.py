"""Pictures whose right answers are known before anybody asks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import orjson

from triton_runtime.standin import encode_png, numbered_picture
from triton_runtime.standin.candidates import DIGITS, LABELS, candidates


@dataclass(frozen=True, slots=True)
class Image:
    """One encoded picture of the stand-in's, by its number."""

    number: int
    data: bytes

    @property
    def expected(self) -> list[dict[str, Any]]:
        """The `detections` that the first version has for it, as they stand in the gateway's JSON."""
        return self.expected_of(1)

    def expected_of(self, version: int) -> list[dict[str, Any]]:
        """Those of any version; no two versions, and no two images, have the same."""
        return _detections(self.number, version)


def make_images(count: int) -> list[Image]:
    """The stand-in's first pictures by number; no two have the same answer."""
    return [Image(number, encode_png(numbered_picture(number))) for number in range(count)]


@cache
def _detections(number: int, version: int) -> list[dict[str, Any]]:
    found = candidates(numbered_picture(number)[None], version)
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
    detections: list[dict[str, Any]] = orjson.loads(orjson.dumps(expected, option=orjson.OPT_SERIALIZE_NUMPY))
    return detections
