"""From a checkpoint to a verified graph in memory: the part of an export that needs torch and seconds."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from export.checkpoint import load_detector
from export.damoyolo import DamoYolo, ServedDetector
from export.onnx import export_onnx
from export.verify import BATCHES, Differences, references, verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from export.variants import Variant


@dataclass(frozen=True, slots=True)
class BuiltModel:
    """A graph that was verified, with its figures."""

    onnx: bytes
    differences: Differences
    parameters: int
    """Trainable numbers of the deployed form, as the official tables count them."""
    gflops: float
    """Twice the multiply-accumulates of the convolutions for one image, in 10^9."""


def build(
    checkpoint: Path, variant: Variant, *, labels: int, size: int, top_k: int, progress: Callable[[str], None]
) -> BuiltModel:
    """Load, deploy, export, verify.

    Args:
        checkpoint: an official file.
        variant: the structure that it must fit.
        labels: number of class names.
        size: side of the square input in pixels, a multiple of 32.
        top_k: candidates per image.
        progress: called with a phrase before each step.

    Raises:
        CheckpointError: the checkpoint does not fit.
        GraphError: the exported graph breaks the contract.
        VerificationError: the exported graph does not compute what the network computes.
    """
    progress(f"loading {checkpoint.name} as variant {variant.name} with {labels} classes")
    detector = load_detector(checkpoint, variant, labels, (size, size))
    progress(f"running the network on batches of {' and '.join(map(str, BATCHES))}, for the comparison")
    expected = references(detector)  # before deploy, which is compared too
    detector.deploy()
    progress("exporting to ONNX and checking the graph")
    served = export_onnx(ServedDetector(detector, top_k))
    progress("comparing ONNX Runtime with torch")
    differences = verify(served, expected, variant.tolerance)
    return BuiltModel(served, differences, count_parameters(detector), count_gflops(detector))


def count_parameters(detector: DamoYolo) -> int:
    """Number of trainable numbers."""
    return sum(parameter.numel() for parameter in detector.parameters())


def count_gflops(detector: DamoYolo) -> float:
    """Twice the multiply-accumulates of all convolutions for one image, in 10^9."""
    shadow = copy.deepcopy(detector).to("meta")  # shapes without numbers
    with FlopCounterMode(display=False) as counter:
        shadow(torch.empty((1, 3, *detector.input_hw), device="meta"))
    return float(counter.get_total_flops()) / 1e9
