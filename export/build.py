"""From a checkpoint to a verified graph in memory: the part of an export that needs torch and seconds."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch.utils.flop_counter import FlopCounterMode

from export.checkpoint import load_detector
from export.damoyolo import DamoYolo, ServedDetector
from export.onnx import export_onnx
from export.precision import Precision, convert
from export.verify import BATCHES, Differences, references, verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from export.variants import Variant

FP32: Final = Precision()


@dataclass(frozen=True, slots=True)
class BuiltModel:
    """A graph that was verified, with its figures."""

    onnx: bytes
    """In its precision."""
    fp32: bytes
    """The same graph in FP32, from which it was converted."""
    float_layers: tuple[str, ...]
    """Layers of an INT8 graph that are not INT8."""
    differences: Differences
    parameters: int
    """Trainable numbers of the deployed form, as the official tables count them."""
    gflops: float
    """Twice the multiply-accumulates of the convolutions for one image, in 10^9."""


def build(
    checkpoint: Path,
    variant: Variant,
    *,
    labels: int,
    size: int,
    top_k: int,
    progress: Callable[[str], None],
    precision: Precision = FP32,
) -> BuiltModel:
    """Load, deploy, export, verify; for a lower precision, convert and verify once more.

    Args:
        checkpoint: an official file.
        variant: the structure that it must fit.
        labels: number of class names.
        size: side of the square input in pixels, a multiple of 32.
        top_k: candidates per image.
        progress: called with a phrase before each step.
        precision: what to compute in.

    Raises:
        OptionError: what a precision needs is not there.
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
    converted = convert(served, precision, progress)
    if converted.onnx != served:
        progress(f"comparing ONNX Runtime in {precision.name} with torch")
        differences = verify(converted.onnx, expected, variant.tolerance, precision.name)
    return BuiltModel(
        converted.onnx, served, converted.float_layers, differences, count_parameters(detector), count_gflops(detector)
    )


def count_parameters(detector: DamoYolo) -> int:
    """Number of trainable numbers."""
    return sum(parameter.numel() for parameter in detector.parameters())


def count_gflops(detector: DamoYolo) -> float:
    """Twice the multiply-accumulates of all convolutions for one image, in 10^9."""
    shadow = copy.deepcopy(detector).to("meta")  # shapes without numbers
    with FlopCounterMode(display=False) as counter:
        shadow(torch.empty((1, 3, *detector.input_hw), device="meta"))
    return float(counter.get_total_flops()) / 1e9
