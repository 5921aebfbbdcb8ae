"""Image -> tensor, and the way back for boxes. Preprocessing is the official evaluation's, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from gateway.detections import FloatArray
    from gateway.image import UInt8Array

# Images are worked on side by side as it is. OpenCV's own threads would go on spinning for a while after each of them,
# which takes 0.7 ms of the processors an image where there is little to do.
cv2.setNumThreads(1)


class ResizeMode(StrEnum):
    """How a model wants its input; the value is what a model's config says."""

    STRETCH = "stretch"
    LETTERBOX = "letterbox"


@dataclass(frozen=True, slots=True)
class Resize:
    """How one source image became a tensor: model pixels = source pixels x `scale_wh`.

    Both modes keep the top-left corner in place, so there is no offset.
    """

    source_wh: tuple[int, int]
    scale_wh: tuple[float, float]

    def to_source(self, xyxy: FloatArray) -> FloatArray:
        """Boxes (N, 4) in model pixels -> boxes (N, 4) in source pixels, not clipped."""
        scale: FloatArray = np.array(self.scale_wh * 2, dtype=np.float32)
        return xyxy / scale


def resize(
    image: UInt8Array, size_wh: tuple[int, int], mode: ResizeMode, source_wh: tuple[int, int] | None = None
) -> tuple[UInt8Array, Resize]:
    """Fit uint8 (H, W, 3) into uint8 (h, w, 3) of `size_wh`, bilinear with half-pixel centres and no antialiasing.

    `source_wh` is the size to which boxes go back, where the image was decoded at less than that.

    `STRETCH` ignores the aspect ratio, as DAMO-YOLO is trained and evaluated. `LETTERBOX` is the official `keep_ratio`:
    one scale for both axes, sizes cut to whole pixels, and zeros at the right and the bottom.

    Source: tinyvision/DAMO-YOLO's transforms (Apache-2.0), by description.
    """
    width, height = source_wh or image.shape[1::-1]
    inner_wh = size_wh if mode is ResizeMode.STRETCH else _inside(size_wh, (width, height))
    resized = cv2.resize(image, inner_wh, interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
    if inner_wh != size_wh:
        padding = ((0, size_wh[1] - inner_wh[1]), (0, size_wh[0] - inner_wh[0]), (0, 0))
        resized = np.pad(resized, padding)
    scale_wh = (inner_wh[0] / width, inner_wh[1] / height)
    return resized, Resize((width, height), scale_wh)


def _inside(size_wh: tuple[int, int], source_wh: tuple[int, int]) -> tuple[int, int]:
    """The largest size of the source's shape that fits; at least one pixel, however thin the source is."""
    scale = min(size_wh[0] / source_wh[0], size_wh[1] / source_wh[1])
    return max(1, int(source_wh[0] * scale)), max(1, int(source_wh[1] * scale))
