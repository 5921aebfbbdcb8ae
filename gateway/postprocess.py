"""Raw predictions -> detections, with the official semantics and the caller's thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from gateway import boxes
from gateway.detections import Detections

if TYPE_CHECKING:
    from gateway.detections import RawPredictions
    from gateway.resize import Resize


_FEW: Final = 128  # some 0.2 ms


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What the caller wants to see.

    Attributes:
        score: only candidates with a score strictly greater count.
        iou: of two boxes of one class that overlap by more than this, the better one stays.
        max_detections: the best this many, 500 in the official evaluation.
        class_ids: only these classes, or all when None.
        agnostic_nms: whether a box also makes way for a better one of another class.
        clip: whether boxes end at the border of the image.
    """

    score: float
    iou: float
    max_detections: int = 500
    class_ids: frozenset[int] | None = None
    agnostic_nms: bool = False
    clip: bool = True


def is_quick(predictions: RawPredictions, thresholds: Thresholds) -> bool:
    """Whether so few candidates count (an everyday image) that `postprocess` takes less than the change to a thread."""
    return int(np.count_nonzero(predictions.scores > thresholds.score)) <= _FEW


def postprocess(predictions: RawPredictions, resize: Resize, thresholds: Thresholds) -> Detections:
    """Threshold, NMS, cap, back to source pixels, clip if asked to.

    A box may appear under several classes unless NMS is agnostic (the official evaluation is multi-label). NMS
    works on model pixels, as the official one does, and on boxes as the model gives them. Those that lie outside the
    image altogether have no area left after clipping, and are dropped; without clipping, all are given as they are.

    Source: tinyvision/DAMO-YOLO's post-processing (Apache-2.0), by description.
    """
    is_wanted = predictions.scores > thresholds.score
    if thresholds.class_ids is not None:
        is_wanted &= np.isin(predictions.class_ids, list(thresholds.class_ids))
    (wanted,) = is_wanted.nonzero()
    xyxy = predictions.boxes.take(wanted, axis=0)
    scores, class_ids = predictions.scores.take(wanted), predictions.class_ids.take(wanted)
    kept = boxes.nms(
        xyxy, scores, class_ids, thresholds.iou, thresholds.max_detections, agnostic=thresholds.agnostic_nms
    )
    source_xyxy = resize.to_source(xyxy.take(kept, axis=0))
    if thresholds.clip:
        source_xyxy = boxes.clip(source_xyxy, resize.source_wh)
        visible = boxes.area(source_xyxy) > 0
        source_xyxy, kept = source_xyxy[visible], kept[visible]
    return Detections(source_xyxy, scores[kept], class_ids[kept])
