"""Pure functions on boxes: float32 (N, 4), x1 y1 x2 y2. None of them changes its arguments.

There are most often few boxes, so what costs is the number of calls of NumPy, and not what each of them does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gateway.detections import FloatArray, IntArray

_BLOCK: Final = 128
"""As many boxes meet each other at a time: more would meet boxes that are gone by then, fewer would be slower."""

_TINY: Final = np.finfo(np.float32).tiny


def clip(xyxy: FloatArray, size_wh: tuple[int, int]) -> FloatArray:
    """Move corners that lie outside an image of `size_wh` onto its border."""
    clipped: FloatArray = np.minimum(np.maximum(xyxy, 0), np.array(size_wh * 2, dtype=np.float32))
    return clipped


def area(xyxy: FloatArray) -> FloatArray:
    """Areas (N,); a box that is turned inside out has none."""
    return _areas(_planes(xyxy))


def iou(xyxy: FloatArray, others: FloatArray) -> FloatArray:
    """Intersection over union of each box (N, 4) with each other one (M, 4): (N, M); 0 where both have no area.

    Example: (0, 0, 2, 2) with (1, 0, 3, 2) overlaps in 2 of 6, so 1/3.
    """
    planes, other_planes = _planes(xyxy), _planes(others)
    return _iou(planes, _areas(planes), other_planes, _areas(other_planes))


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

    def suppressed(later: _Ranked, by: _Ranked) -> NDArray[np.bool_]:
        overlaps: NDArray[np.bool_] = _iou(by.planes, by.areas, later.planes, later.areas) > iou_threshold
        return overlaps if agnostic else overlaps & (by.class_ids[:, np.newaxis] == later.class_ids)

    order = (-scores).argsort(kind="stable")
    planes = _planes(xyxy.take(order, axis=0))
    left = _Ranked(order, planes, _areas(planes), class_ids.take(order))
    kept = order[:0]
    while len(left.order) and len(kept) < limit:
        block, left = left.pick(slice(_BLOCK)), left.pick(slice(_BLOCK, None))
        found = block.pick(np.array(_survivors(suppressed(block, by=block))))
        kept = np.concatenate([kept, found.order])
        if len(left.order):
            left = left.pick(~np.logical_or.reduce(suppressed(left, by=found)))
    return kept[:limit]


class _Ranked(NamedTuple):
    """Boxes, best score first.

    Attributes:
        order: where each was before, (N,).
        planes: see `_planes`, (4, N).
        areas: (N,).
        class_ids: (N,).
    """

    order: NDArray[np.intp]
    planes: FloatArray
    areas: FloatArray
    class_ids: IntArray

    def pick(self, which: slice | NDArray[np.generic]) -> _Ranked:
        """Some of them."""
        return _Ranked(self.order[which], self.planes[:, which], self.areas[which], self.class_ids[which])


def _planes(xyxy: FloatArray) -> FloatArray:
    """Boxes (N, 4) as (4, N), each plane in one piece: x1, y1, x2, y2."""
    planes: FloatArray = np.ascontiguousarray(xyxy.T)
    return planes


def _areas(planes: FloatArray) -> FloatArray:
    width, height = np.maximum(planes[2:] - planes[:2], 0)
    areas: FloatArray = width * height
    return areas


def _iou(planes: FloatArray, areas: FloatArray, others: FloatArray, other_areas: FloatArray) -> FloatArray:
    """As `iou`, of boxes as planes (4, N) and (4, M)."""
    planes = planes[..., np.newaxis]
    others = others[:, np.newaxis]
    sides = np.minimum(planes[2:], others[2:])
    sides -= np.maximum(planes[:2], others[:2])
    width, height = np.maximum(sides, 0, out=sides)
    intersection = np.multiply(width, height, out=width)
    union = areas[:, np.newaxis] + other_areas
    union -= intersection
    ratios: FloatArray = np.divide(intersection, np.maximum(union, _TINY, out=union), out=union)
    return ratios


def _survivors(suppresses: NDArray[np.bool_]) -> list[int]:
    """Which boxes of N stay, where [i, k] says that box i, if it stays, removes the box k if that comes later.

    A row is read as one number, with a bit for each box: so much for so few are quicker by Python than by NumPy.
    """
    rows = np.packbits(suppresses, axis=1, bitorder="little")
    row_bytes, data = rows.shape[1], rows.tobytes()
    stays = []
    removed = 0
    for i in range(len(rows)):
        if not removed >> i & 1:
            stays.append(i)
            removed |= int.from_bytes(data[i * row_bytes : (i + 1) * row_bytes], "little")
    return stays
