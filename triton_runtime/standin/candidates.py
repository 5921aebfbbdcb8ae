"""What the GPU stand-in finds in an image: boxes whose labels spell the image's fingerprint.

There are sixteen labels, the hexadecimal digits. The eight best candidates lie side by side in a grid of four by two
cells, so none suppresses another, and their labels in order of falling score are the eight digits of the fingerprint.
A box's width and the last digits of its score tell the digit once more, so boxes, scores and class ids of two images
can't be mixed up unnoticed. All other candidates repeat the eight with lower scores, for NMS to drop.

So whoever sends an image knows the answer: any score threshold up to 0.58 and any IoU threshold below 1 give it.
Each version of the model has a fingerprint of its own for an image, so that answers tell their version as well.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LABELS: Final = tuple("0123456789abcdef")
DIGITS: Final = 8
"""Of a fingerprint: as many detections has every image."""
BROKEN_FILE: Final = "broken"
"""A version of the stand-in whose folder holds a file of this name can't be loaded."""
CANDIDATES: Final = 4 * DIGITS
"""K: the eight, and three times the same with lower scores."""

_COLUMNS: Final = 4
_ROWS: Final = 2
_SAMPLED_BYTES: Final = 64 * 64 * 3  # of pixels: a checksum of all would cost 0.3 ms of the processor for 640 x 640
_POSITIONS: Final = np.arange(CANDIDATES) % DIGITS  # of the digit that each candidate tells
_SHIFTS: Final = 4 * (DIGITS - 1 - _POSITIONS)  # of that digit in the number that all of them spell
_ENTRIES: Final = len(LABELS) * np.arange(CANDIDATES)
"""Where each candidate's entries begin in a table that has one for each of its digits."""


class Candidates(NamedTuple):
    """Of N images: float32 (N, K, 4) xyxy in model pixels, float32 (N, K) descending, int32 (N, K)."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int32]


def fingerprint(pixels: NDArray[np.uint8], version: int = 1) -> str:
    """Eight hexadecimal digits for the pixels (H, W, 3) of an image at the model's size.

    It is the CRC-32 of whole rows at equal distances, the first one among them, about 12 KB in all: of every row up to
    64 x 64 pixels, of each 43rd for 416 x 416. It begins with the version less one, so that two versions never agree on
    an image.
    """
    return f"{_checksum(pixels, version):0{DIGITS}x}"


def candidates(images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], version: int = 1) -> Candidates:
    """The candidates that a version of the model has for N images (H, W, 3), all of the model's size.

    It costs next to no processor time, as on a GPU: all but the checksums is looked up in tables.
    """
    height, width, _ = images[0].shape
    numbers = np.array([[_checksum(image, version)] for image in images])
    digits = numbers >> _SHIFTS & 0xF
    entries = _ENTRIES + digits
    return Candidates(_boxes(height, width).take(entries, axis=0), _scores().take(entries), digits.astype(np.int32))


def _checksum(pixels: NDArray[np.uint8], version: int) -> int:
    step = -(-pixels.nbytes // _SAMPLED_BYTES)
    return zlib.crc32(pixels[::step].tobytes(), version - 1)


@lru_cache
def _scores() -> NDArray[np.float32]:
    """Of each candidate and each digit it may tell: float32 (`CANDIDATES` * 16,)."""
    scores = np.empty((CANDIDATES, len(LABELS)), np.float32)
    scores[:DIGITS] = np.linspace(0.95, 0.60, DIGITS)[:, np.newaxis] - np.arange(len(LABELS)) / 1000
    scores[DIGITS:] = np.linspace(0.5, 0.01, CANDIDATES - DIGITS)[:, np.newaxis]
    return scores.reshape(-1)


@lru_cache
def _boxes(height: int, width: int) -> NDArray[np.float32]:
    """Of each candidate and each digit it may tell: float32 (`CANDIDATES` * 16, 4)."""
    cell_width, cell_height = width / _COLUMNS, height / _ROWS
    row, column = np.divmod(_POSITIONS[:, np.newaxis], _COLUMNS)
    boxes = np.empty((CANDIDATES, len(LABELS), 4), np.float32)
    boxes[..., 0] = column * cell_width
    boxes[..., 1] = row * cell_height
    boxes[..., 2] = boxes[..., 0] + cell_width * np.arange(1, len(LABELS) + 1) / len(LABELS)
    boxes[..., 3] = boxes[..., 1] + cell_height
    return boxes.reshape(-1, 4)
