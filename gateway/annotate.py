"""Detections drawn on a picture: pure functions on arrays."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    UInt8Array: TypeAlias = npt.NDArray[np.uint8]
    FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]

Colour: TypeAlias = tuple[int, int, int]
Rectangle: TypeAlias = tuple[int, int, int, int]

FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
TEXT_HEIGHT_SHARE: Final = 1 / 50
"""Height of a capital letter as a share of the picture's shorter side: readable when all of it fills a screen."""
SMALLEST_TEXT_PIXELS: Final = 8
"""Below this height the strokes of FONT run into one another, so smaller text is not drawn."""
CAPITAL_HEIGHT_PIXELS: Final = cv2.getTextSize("M", FONT, 1.0, 1)[0][1]
LINE_SHARE: Final = 1 / 320
JPEG_QUALITY: Final = 95
JPEG_SAMPLING: Final = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
"""Every pixel keeps its colour. With 4:2:0, which OpenCV takes by default, a coloured line of one pixel is off by up to
110 of 255; with these two by 20, for a fifth more bytes. A quality of 80 would save a quarter and be off by 100."""
JPEG: Final = (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, JPEG_SAMPLING)
ENCODINGS: Final[dict[str, tuple[int, ...]]] = {".jpg": JPEG, ".jpeg": JPEG, ".png": ()}
"""Suffix of a picture's file -> what OpenCV is told about its encoding."""
BRIGHT: Final = 140
"""Luma (0..255) from which black text reads better than white."""


def label_colour(label: str) -> Colour:
    """The RGB colour of `label`: the same in every picture, process and release."""
    digest = zlib.crc32(label.encode())
    hue = (digest >> 20) % 180  # these bits set the shipped model's six labels farthest apart
    saturation, value = (255, 180)[digest % 2], (230, 180)[digest // 2 % 2]
    red, green, blue = cv2.cvtColor(np.array([[[hue, saturation, value]]], np.uint8), cv2.COLOR_HSV2RGB)[0, 0]
    return int(red), int(green), int(blue)


def draw_detections(image: UInt8Array, xyxy: FloatArray, labels: Sequence[str], scores: FloatArray) -> UInt8Array:
    """Draws every detection as a box with its label and score.

    Lines and text grow with the picture. A tag stands above its box, or where there is room; one that cannot be
    read at this size loses its score first and is then left out.

    Args:
        image: uint8 (H, W, 3) RGB; left as it is.
        xyxy: (N, 4) boxes in pixels of `image`; parts outside of it are clipped.
        labels: N names.
        scores: (N,) in [0, 1].

    Returns:
        A new uint8 (H, W, 3) RGB picture.

    Raises:
        ValueError: A shape or dtype is another than stated, or a coordinate is not finite.
    """
    _check_arguments(image, xyxy, labels, scores)
    picture = np.ascontiguousarray(image).copy()
    weakest_first = np.argsort(scores, kind="stable")
    boxes = [_clip(box, picture) for box in xyxy]
    thickness = max(1, round(min(picture.shape[:2]) * LINE_SHARE))
    for index in weakest_first:
        x1, y1, x2, y2 = boxes[index]
        cv2.rectangle(picture, (x1, y1), (x2, y2), label_colour(labels[index]), thickness)
    lettering, tags = _lettering(picture), list[Rectangle]()
    for index in weakest_first[::-1]:  # the strongest detection has the first choice of a place
        texts = (f"{labels[index]} {scores[index]:.2f}", labels[index])
        text = next((text for text in texts if _fits(lettering.size_wh(text), picture)), None)
        if text is not None:
            tags.append(_place_tag(boxes[index], lettering.size_wh(text), picture, tags, boxes))
            lettering.write(picture, text, tags[-1], label_colour(labels[index]))
    return picture


def _check_arguments(image: UInt8Array, xyxy: FloatArray, labels: Sequence[str], scores: FloatArray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:  # noqa: PLR2004 (axes)
        raise ValueError(f"image must be uint8 (H, W, 3), not {image.dtype} {image.shape}")
    count = len(labels)
    if xyxy.shape != (count, 4) or scores.shape != (count,):
        raise ValueError(
            f"{count} labels need boxes ({count}, 4) and scores ({count},), not {xyxy.shape}, {scores.shape}"
        )
    if not (np.isfinite(xyxy).all() and np.isfinite(scores).all()):
        raise ValueError("boxes and scores must be finite")


def _clip(box: FloatArray, picture: UInt8Array) -> Rectangle:
    """The box as whole pixels inside the picture, both corners inclusive."""
    height, width = picture.shape[:2]
    x1, x2 = np.clip(np.rint(box[[0, 2]]), 0, width - 1)
    y1, y2 = np.clip(np.rint(box[[1, 3]]), 0, height - 1)
    return int(x1), int(y1), int(x2), int(y2)


class Lettering(NamedTuple):
    """How text is drawn on one picture; lengths in its pixels."""

    text_height: int
    stroke: int
    padding: int

    @property
    def scale(self) -> float:
        """The size of FONT that gives `text_height`."""
        return self.text_height / CAPITAL_HEIGHT_PIXELS

    def size_wh(self, text: str) -> tuple[int, int]:
        """Width and height of a tag with this text."""
        (width, _), descent = cv2.getTextSize(text, FONT, self.scale, self.stroke)
        return width + 2 * self.padding, self.text_height + descent + 2 * self.padding

    def write(self, picture: UInt8Array, text: str, place: Rectangle, colour: Colour) -> None:
        """Draws a tag of that colour, with text that stands out from it."""
        x1, y1, x2, y2 = place
        cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), colour, cv2.FILLED)
        origin = (x1 + self.padding, y1 + self.padding + self.text_height)
        cv2.putText(picture, text, origin, FONT, self.scale, _text_colour(colour), self.stroke, cv2.LINE_AA)


def _lettering(picture: UInt8Array) -> Lettering:
    text_height = max(SMALLEST_TEXT_PIXELS, round(min(picture.shape[:2]) * TEXT_HEIGHT_SHARE))
    return Lettering(text_height, stroke=max(1, text_height // 9), padding=max(2, text_height // 3))


def _fits(size_wh: tuple[int, int], picture: UInt8Array) -> bool:
    height, width, _ = picture.shape
    return bool(size_wh[0] <= width and size_wh[1] <= height)


def _text_colour(ground: Colour) -> Colour:
    luma = float(np.dot(ground, (0.299, 0.587, 0.114)))
    return (0, 0, 0) if luma >= BRIGHT else (255, 255, 255)


def _place_tag(
    box: Rectangle,
    size_wh: tuple[int, int],
    picture: UInt8Array,
    tags: Sequence[Rectangle],
    boxes: Sequence[Rectangle],
) -> Rectangle:
    """The best place for a tag: above, below or in its box, and if possible on no other tag and no other box."""
    (x1, y1, x2, y2), (width, height) = box, size_wh
    corners = [(left, top) for top in (y1 - height, y2 + 1, y1) for left in (x1, x2 + 1 - width)]
    lowest_right = picture.shape[1] - width, picture.shape[0] - height
    kept = [(_limit(left, lowest_right[0]), _limit(top, lowest_right[1])) for left, top in corners]
    # a place that had to be moved into the picture comes last, as it is farther from its box
    order = sorted(range(len(corners)), key=lambda position: corners[position] != kept[position])
    places = [(left, top, left + width, top + height) for left, top in (kept[position] for position in order)]
    clear_of_tags = [place for place in places if not any(_overlap(place, tag) for tag in tags)]
    clear = (place for place in clear_of_tags if not any(_overlap(place, other) for other in boxes if other != box))
    return next(clear, None) or next(iter(clear_of_tags), places[0])


def _limit(value: int, highest: int) -> int:
    return max(0, min(value, highest))


def _overlap(one: Rectangle, other: Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def encode_image(image: UInt8Array, suffix: str) -> bytes:
    """An RGB picture (H, W, 3) as JPEG of `JPEG_QUALITY` or PNG, by the file suffix.

    Raises:
        ValueError: The suffix is none of `.jpg`, `.jpeg` and `.png`.
    """
    if suffix.lower() not in ENCODINGS:
        raise ValueError(f"a picture ends in .jpg, .jpeg or .png, not in {suffix or 'nothing'!r}")
    _, data = cv2.imencode(suffix.lower(), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), ENCODINGS[suffix.lower()])
    return bytes(data)
