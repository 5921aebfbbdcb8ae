"""Two structs of parallel arrays: what the network says, and what the caller gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class RawPredictions:
    """The K best (anchor, class) pairs of one image, before thresholds and NMS.

    Attributes:
        boxes: float32 (K, 4), x1 y1 x2 y2 in model pixels; may reach past the image.
        scores: float32 (K,) in [0, 1], after the sigmoid.
        class_ids: int32 (K,), 0-based.

    Raises:
        ValueError: the three do not belong together, a score is not in [0, 1], or a box is not finite.
    """

    boxes: FloatArray
    scores: FloatArray
    class_ids: IntArray

    def __post_init__(self) -> None:
        k = len(self.scores)
        _expect("boxes", self.boxes, np.float32, (k, 4))
        _expect("scores", self.scores, np.float32, (k,))
        _expect("class_ids", self.class_ids, np.int32, (k,))
        if not np.isfinite(self.boxes).all():
            raise ValueError("boxes must be finite numbers")
        if not (self.scores.min(initial=0) >= 0 and self.scores.max(initial=0) <= 1):  # nor is NaN
            raise ValueError("scores must be from 0 to 1")


@dataclass(frozen=True, slots=True)
class Detections:
    """The objects found in one image, best first.

    Attributes:
        xyxy: float32 (N, 4), x1 y1 x2 y2 in source pixels, inside the image.
        scores: float32 (N,), descending.
        class_ids: int32 (N,), 0-based.
    """

    xyxy: FloatArray
    scores: FloatArray
    class_ids: IntArray

    def __len__(self) -> int:
        return len(self.scores)


def _expect(name: str, array: NDArray[np.generic], dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{name} must be {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}")
