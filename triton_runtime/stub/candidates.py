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
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
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
_SAMPLED_ROWS: Final = 64  # of pixels: a checksum of all would cost 0.3 ms of the processor for 640 x 640
_BEST_SCORES: Final = np.linspace(0.95, 0.60, DIGITS)
_DROPPED_SCORES: Final = np.linspace(0.5, 0.01, CANDIDATES - DIGITS)


class Candidates(NamedTuple):
    """Of N images: float32 (N, K, 4) xyxy in model pixels, float32 (N, K) descending, int32 (N, K)."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int32]


def fingerprint(pixels: NDArray[np.uint8], version: int = 1) -> str:
    """Eight hexadecimal digits for the pixels (H, W, 3) of an image at the model's size.

    It is the CRC-32 of at most 64 whole rows at equal distances, the first one among them. It begins with the version
    less one, so that two versions never agree on an image.
    """
    step = -(-len(pixels) // _SAMPLED_ROWS)
    return f"{zlib.crc32(pixels[::step].tobytes(), version - 1):0{DIGITS}x}"


def candidates(images: NDArray[np.uint8], version: int = 1) -> Candidates:
    """The candidates that a version of the model has for N images (N, H, W, 3) at the model's size."""
    count, height, width, _ = images.shape
    digits = np.array([[int(digit, 16) for digit in fingerprint(image, version)] for image in images], np.int32)
    row, column = np.divmod(np.arange(DIGITS), _COLUMNS)
    cell_width, cell_height = width / _COLUMNS, height / _ROWS
    boxes = np.empty((count, DIGITS, 4), np.float32)
    boxes[..., 0] = column * cell_width
    boxes[..., 1] = row * cell_height
    boxes[..., 2] = boxes[..., 0] + cell_width * (digits + 1) / len(LABELS)
    boxes[..., 3] = boxes[..., 1] + cell_height
    scores = np.concatenate([_BEST_SCORES - digits / 1000, np.tile(_DROPPED_SCORES, (count, 1))], axis=1)
    repeats = CANDIDATES // DIGITS
    return Candidates(np.tile(boxes, (1, repeats, 1)), scores.astype(np.float32), np.tile(digits, (1, repeats)))
