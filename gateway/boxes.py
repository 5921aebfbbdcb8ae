"""Pure functions on boxes: float32 (N, 4), x1 y1 x2 y2. None of them changes its arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gateway.detections import FloatArray, IntArray


def clip(xyxy: FloatArray, size_wh: tuple[int, int]) -> FloatArray:
    """Move corners that lie outside an image of `size_wh` onto its border."""
    clipped: FloatArray = np.clip(xyxy, 0, np.array(size_wh * 2, dtype=np.float32))
    return clipped


def area(xyxy: FloatArray) -> FloatArray:
    """Areas (N,); a box that is turned inside out has none."""
    areas: FloatArray = np.clip(xyxy[:, 2:] - xyxy[:, :2], 0, None).prod(axis=1)
    return areas


def iou(box: FloatArray, others: FloatArray) -> FloatArray:
    """Intersection over union (N,) of one box (4,) with each of `others` (N, 4); 0 where both have no area.

    Example: (0, 0, 2, 2) with (1, 0, 3, 2) overlaps in 2 of 6, so 1/3.
    """
    intersection_xyxy = np.concatenate([np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])], axis=1)
    intersection = area(intersection_xyxy)
    union = area(box[np.newaxis]) + area(others) - intersection
    ratios: FloatArray = intersection / np.maximum(union, np.finfo(np.float32).tiny)
    return ratios


def nms(
    xyxy: FloatArray,
    scores: FloatArray,
    class_ids: IntArray,
    iou_threshold: float,
    limit: int,
    *,
    agnostic: bool = False,
) -> NDArray[np.intp]:
    """Greedy non-maximum suppression, class by class, or over all classes together if it is `agnostic`.

    Walks the boxes from the best score down, keeps a box, and drops every later one of the same class whose IoU with it
    is strictly greater than `iou_threshold`. Equal scores keep their order.

    Returns:
        Indices of the boxes kept, best score first, at most `limit`.
    """
    order = np.argsort(-scores, kind="stable")
    kept: list[np.intp] = []
    while len(order) and len(kept) < limit:
        best, rest = order[0], order[1:]
        kept.append(best)
        suppressed = iou(xyxy[best], xyxy[rest]) > iou_threshold
        if not agnostic:
            suppressed &= class_ids[rest] == class_ids[best]
        order = rest[~suppressed]
    return np.array(kept, dtype=np.intp)
