"""The proof that an exported graph computes what the network computes. Every export runs it.

Two halves, so that nothing hides behind near-equal scores, whose order rounding may change:

1. Before the selection: every anchor's scores and box from ONNX Runtime against torch's, within the tolerance.
2. The selection: the candidates that the graph returns are exactly the best pairs of the graph's own scores, each with
   its own box. Only the order among equal scores is free.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnxruntime
import torch

from export.contract import INPUT, OUTPUTS
from export.errors import VerificationError
from export.onnx import INNER, with_inner_outputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from export.damoyolo import DamoYolo
    from export.variants import Tolerance

    Float32Array = NDArray[np.float32]
    UInt8Array = NDArray[np.uint8]

SLACK: Final = {"fp32": 1.0, "fp16": 2.0**10, "int8": 1e9}
"""How many times the variant's tolerance a precision may differ from torch. FP16 rounds 2^13 times as coarsely as FP32,
and was found 500 to 1200 times as far away (random weights, all variants; FP32 itself keeps far below its tolerance).
INT8 has no such bound, the accuracy gate judges it: here any finite number will do, and the selection must be right."""

BATCHES: Final = (1, 3)
"""1 shows the plain case, 3 that the batch axis is really open."""


@dataclass(frozen=True, slots=True)
class Differences:
    """Largest absolute differences between torch and ONNX Runtime, over all anchors, classes, images."""

    score: float
    box_pixels: float

    def within(self, tolerance: Tolerance) -> bool:
        """Whether both are small enough; a NaN is not."""
        return self.score <= tolerance.score and self.box_pixels <= tolerance.box_pixels


@dataclass(frozen=True, slots=True)
class Reference:
    """What the network says about one batch."""

    images: UInt8Array  # (N, H, W, 3)
    scores: Float32Array  # (N, A, C)
    boxes: Float32Array  # (N, A, 4)


def references(detector: DamoYolo) -> list[Reference]:
    """The network's own answers for one batch of each size in `BATCHES`.

    Taken before `deploy`, they let the comparison cover the re-parameterisation too.
    """
    return [_reference(detector, sample_images(batch, detector.input_hw)) for batch in BATCHES]


@torch.inference_mode()
def _reference(detector: DamoYolo, images: UInt8Array) -> Reference:
    scores, boxes = detector(torch.from_numpy(images).float().permute(0, 3, 1, 2))
    return Reference(images, scores.numpy(), boxes.numpy())


def sample_images(batch: int, input_hw: tuple[int, int]) -> UInt8Array:
    """Seeded images (batch, H, W, 3): flat squares of all colours under noise, so no two cells look alike."""
    random = np.random.default_rng(batch)
    height, width = input_hw
    squares = random.integers(0, 192, (batch, height // 32, width // 32, 3), dtype=np.uint8)
    noise = random.integers(0, 64, (batch, height, width, 3), dtype=np.uint8)
    return squares.repeat(32, axis=1).repeat(32, axis=2) + noise


def verify(served: bytes, expected: list[Reference], tolerance: Tolerance, precision: str = "fp32") -> Differences:
    """Compare the served graph, run by ONNX Runtime on the CPU, with the network's answers.

    Args:
        served: the graph, in any precision.
        expected: what `references` found.
        tolerance: the variant's, for FP32.
        precision: the graph's; a low one may differ more.

    Returns:
        The largest differences found.

    Raises:
        VerificationError: a difference above the tolerance, or a candidate that should not be there.
    """
    served_session, inspected_session = _session(served), _session(with_inner_outputs(served))
    score_differences, box_differences = [], []
    for reference in expected:
        inspected = _run(inspected_session, (*OUTPUTS, *INNER), reference.images)
        score_differences.append(_largest(inspected["all_scores"], reference.scores))
        box_differences.append(_largest(inspected["all_boxes"], reference.boxes))
        check_selection(inspected)
        # Once more on the very bytes that are served: more outputs may change what the runtime fuses.
        as_served = _run(served_session, OUTPUTS, reference.images)
        score_differences.append(_largest(as_served["scores"], inspected["scores"]))
    worst = Differences(float(np.max(score_differences)), float(np.max(box_differences)))
    tolerance = tolerance.times(SLACK[precision])
    if not worst.within(tolerance):
        raise VerificationError(
            f"ONNX Runtime differs from torch by {worst.score:.1e} in scores and {worst.box_pixels:.1e} pixels in "
            f"boxes; allowed are {tolerance.score:.1e} and {tolerance.box_pixels:.1e}"
        )
    return worst


def check_selection(outputs: dict[str, NDArray[Any]]) -> None:
    """Require that the candidates are the best pairs of all, exactly.

    Args:
        outputs: `boxes` (N, K, 4), `scores` (N, K), `class_ids` (N, K), `all_boxes` (N, A, 4), `all_scores` (N, A, C),
            from one run.

    Raises:
        VerificationError: scores that are not the K highest in descending order, or a candidate that is no pair of the
            network's, or one pair returned twice.
    """
    for boxes, scores, class_ids, all_boxes, all_scores in zip(
        *(outputs[name] for name in (*OUTPUTS, *INNER)), strict=True
    ):
        if not np.array_equal(scores, np.sort(all_scores, axis=None)[::-1][: len(scores)]):
            raise VerificationError("the graph's scores are not the highest ones in descending order")
        anchors, classes = np.nonzero(all_scores >= scores[-1])
        offered = _counted(all_boxes[anchors], all_scores[anchors, classes], classes)
        if _counted(boxes, scores, class_ids) - offered:
            raise VerificationError("the graph returns a candidate whose box, score and class do not belong together")


def _counted(boxes: Float32Array, scores: Float32Array, class_ids: NDArray[Any]) -> Counter[bytes]:
    """How often each (box, score, class) occurs, compared bit by bit."""
    rows = np.column_stack([boxes, scores, class_ids.astype(np.float32)])  # class numbers are exact in float32
    return Counter(row.tobytes() for row in rows)


def _largest(found: NDArray[Any], expected: NDArray[Any]) -> float:
    if found.shape != expected.shape:
        raise VerificationError(f"ONNX Runtime answers with shape {found.shape} where torch has {expected.shape}")
    return float(np.abs(found - expected).max())


def _session(serialised: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(serialised, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, names: tuple[str, ...], images: UInt8Array) -> dict[str, NDArray[Any]]:
    return dict(zip(names, session.run(names, {INPUT: images}), strict=True))
