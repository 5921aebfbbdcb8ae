"""Which layers of a network do not stand INT8: found by trying each one, without any annotation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import onnxruntime

from export.contract import INPUT
from export.onnx import INNER, with_inner_outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from export.calibration import CalibrationSet, UInt8Array
    from export.int8 import Int8Graph

    Float32Array = NDArray[np.float32]
    Answers = list[tuple[Float32Array, Float32Array]]  # for each image boxes (A, 4) and scores (A, C)

NOTABLE_SCORE: Final = 0.05
"""Pairs that neither graph scores higher say nothing about detections. The official evaluation cuts there, too."""

SEARCH_IMAGES: Final = 16
"""The time of a search is proportional to it: about a minute for the 94 layers of Ns on two processors."""

ALLOWED_DISAGREEMENT: Final = 0.04
"""Where the search stops. By the 20 boards that DAMO-YOLO-Ns was calibrated on it could be 0.05: from there down they
lose at most 0.005 mAP, and 0.009 at 0.058. The 40 others lose at most 0.002 from 0.05 down, and 0.007 at 0.065. FP16 is
at 0.001."""


def find_float_layers(
    graph: Int8Graph,
    served: bytes,
    calibration: CalibrationSet,
    allowed: float,
    progress: Callable[[str], None],
) -> tuple[str, ...]:
    """The layers to keep in floating point, so that the rest in INT8 disagrees with FP32 by no more than `allowed`.

    Each layer is tried as the only one in INT8. Then, beginning with the worst, as few as possible are kept in floating
    point; how many is found by bisection, as each more lowers the disagreement of the whole but for noise.

    Args:
        graph: the quantized graph.
        served: the graph in FP32.
        calibration: some of its images are the judge.
        allowed: as `disagreement` counts.
        progress: called with a phrase now and then.

    Returns:
        Layers in the order of the graph, none if all may be INT8. All, if nothing else is close enough.
    """
    images = list(calibration.sample(SEARCH_IMAGES))
    expected = answers(served, images)

    def measure(float_layers: set[str]) -> float:
        return disagreement(expected, answers(graph.with_float(float_layers), images))

    whole = measure(set())
    progress(f"all {len(graph.layers)} layers in INT8 disagree with FP32 by {whole:.3f}, allowed is {allowed:g}")
    if whole <= allowed:
        return ()
    alone = {}
    for number, layer in enumerate(graph.layers, start=1):
        alone[layer] = measure(set(graph.layers) - {layer})
        if number % 10 == 0 or number == len(graph.layers):
            worst = max(alone, key=alone.__getitem__)
            progress(f"tried {number} of {len(graph.layers)} layers; worst is {worst} with {alone[worst]:.3f}")
    ranked = sorted(graph.layers, key=alone.__getitem__, reverse=True)
    low, high = 0, len(ranked)  # too few, and enough, layers in floating point
    while high - low > 1:
        middle = (low + high) // 2
        found = measure(set(ranked[:middle]))
        progress(f"with {middle} layers in floating point the disagreement is {found:.3f}")
        low, high = (low, middle) if found <= allowed else (middle, high)
    chosen = set(ranked[:high])
    return tuple(layer for layer in graph.layers if layer in chosen)


def answers(graph: bytes, images: Sequence[UInt8Array]) -> Answers:
    """What a graph says about every anchor of each image (1, H, W, 3)."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(with_inner_outputs(graph), options, providers=["CPUExecutionProvider"])
    found = (session.run(INNER, {INPUT: image}) for image in images)
    return [(boxes[0], scores[0]) for boxes, scores in found]


def disagreement(expected: Answers, found: Answers) -> float:
    """How far two graphs are apart, from 0 (equal) up: the mean over images of two shares added.

    The first is how much score moved: the sum of |difference| over the sum of scores, over all notable (anchor, class)
    pairs. The second is how much box moved: 1 - IoU, averaged over anchors by their best score. It needs no ground
    truth, and is far smoother than mAP, which hangs on the order of a few detections.
    """
    return float(np.mean([_moved(*pair) for pair in zip(expected, found, strict=True)]))


def _moved(expected: tuple[Float32Array, Float32Array], found: tuple[Float32Array, Float32Array]) -> float:
    (boxes, scores), (other_boxes, other_scores) = expected, found
    notable = np.maximum(scores, other_scores) >= NOTABLE_SCORE
    if not notable.any():
        return 0.0
    score = np.abs(scores - other_scores)[notable].sum() / np.maximum(scores, other_scores)[notable].sum()
    weights = np.maximum(scores, other_scores).max(1) * notable.any(1)
    box = (weights * (1 - iou(boxes, other_boxes))).sum() / weights.sum()
    return float(score + box)


def iou(boxes: Float32Array, others: Float32Array) -> Float32Array:
    """Overlap of each box (N, 4) xyxy with the one in the same row of `others` (N, 4); 0 where both are empty."""
    top_left, bottom_right = np.maximum(boxes[:, :2], others[:, :2]), np.minimum(boxes[:, 2:], others[:, 2:])
    inner = np.clip(bottom_right - top_left, 0, None).prod(1)
    both = sum(np.clip(each[:, 2:] - each[:, :2], 0, None).prod(1) for each in (boxes, others))
    overlap: Float32Array = inner / np.maximum(both - inner, np.finfo(np.float32).tiny)
    return overlap
