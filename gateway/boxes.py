"""Pure functions on boxes: float32 (N, 4), x1 y1 x2 y2. None of them changes its arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gateway.detections import FloatArray, IntArray

_BLOCK: Final = 128
"""As many boxes meet each other at a time: more would meet boxes that are gone by then, fewer would be slower."""

_TINY: Final = np.finfo(np.float32).tiny
_LATER: Final = np.triu(np.ones((_BLOCK, _BLOCK), dtype=np.bool_), 1)  # [i, k] says whether k comes after i


def clip(xyxy: FloatArray, size_wh: tuple[int, int]) -> FloatArray:
    """Move corners that lie outside an image of `size_wh` onto its border."""
    clipped: FloatArray = np.clip(xyxy, 0, np.array(size_wh * 2, dtype=np.float32))
    return clipped


def area(xyxy: FloatArray) -> FloatArray:
    """Areas (N,); a box that is turned inside out has none."""
    areas: FloatArray = np.maximum(xyxy[..., 2] - xyxy[..., 0], 0) * np.maximum(xyxy[..., 3] - xyxy[..., 1], 0)
    return areas


def iou(xyxy: FloatArray, others: FloatArray) -> FloatArray:
    """Intersection over union of boxes (..., 4) with others (..., 4), broadcast; 0 where both have no area.

    Each with each is `iou(xyxy[:, np.newaxis], others)`, (N, M) of (N, 4) and (M, 4).

    Example: (0, 0, 2, 2) with (1, 0, 3, 2) overlaps in 2 of 6, so 1/3.
    """
    width = np.minimum(xyxy[..., 2], others[..., 2]) - np.maximum(xyxy[..., 0], others[..., 0])
    height = np.minimum(xyxy[..., 3], others[..., 3]) - np.maximum(xyxy[..., 1], others[..., 1])
    intersection = np.maximum(width, 0) * np.maximum(height, 0)
    union = area(xyxy) + area(others) - intersection
    ratios: FloatArray = intersection / np.maximum(union, _TINY)
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

    def suppressed(later: NDArray[np.intp], by: NDArray[np.intp]) -> NDArray[np.bool_]:
        overlaps: NDArray[np.bool_] = iou(xyxy[by][:, np.newaxis], xyxy[later]) > iou_threshold
        return overlaps if agnostic else overlaps & (class_ids[by][:, np.newaxis] == class_ids[later])

    order = np.argsort(-scores, kind="stable")
    kept = order[:0]
    while len(order) and len(kept) < limit:
        block, order = order[:_BLOCK], order[_BLOCK:]
        found = block[_survivors(suppressed(block, by=block) & _LATER[: len(block), : len(block)])]
        kept = np.concatenate([kept, found])
        if len(order):
            order = order[~suppressed(order, by=found).any(axis=0)]
    return kept[:limit]


def _survivors(suppresses: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which boxes (N,) stay, where [i, k] says that box i, if it stays, removes the later box k."""
    stays = np.ones(len(suppresses), dtype=np.bool_)
    for i in np.flatnonzero(suppresses.any(axis=1)):
        if stays[i]:
            stays &= ~suppresses[i]
    return stays
