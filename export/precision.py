"""The precisions that a model can be served in, and the step from the verified FP32 graph to each of them."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from export.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from export.calibration import CalibrationSet
    from export.variants import Variant

PrecisionName = Literal["fp32", "fp16", "int8"]
PRECISIONS: Final[tuple[PrecisionName, ...]] = ("fp32", "fp16", "int8")

FloatLayersRule = Literal["published", "search", "none"]
FLOAT_LAYERS_RULES: Final[tuple[FloatLayersRule, ...]] = ("published", "search", "none")


@dataclass(frozen=True, slots=True)
class Precision:
    """How to compute, and what a conversion needs to know."""

    name: PrecisionName = "fp32"
    calibration: CalibrationSet | None = None
    """For INT8 only."""
    float_layers: tuple[str, ...] | None = ()
    """For INT8: layers, or parts of the network, that stay in floating point; None has them searched for."""

    def decisive(self) -> list[Any]:
        """All of it that decides what a converted graph holds, for a digest. FP32 adds nothing."""
        if self.calibration is None:
            return [] if self.name == "fp32" else [self.name]
        return [self.name, self.calibration.digest(), self.float_layers, importlib.metadata.version("onnxruntime")]


def int8(calibration: CalibrationSet, variant: Variant, rule: FloatLayersRule | None) -> Precision:
    """INT8 with the layers in floating point that a rule names.

    Args:
        calibration: images like those that will be served.
        variant: whose published list may be used.
        rule: `published` is the variant's list, `search` finds the layers for this very model, `none` keeps none; by
            default what is published, and a search for a variant of which nothing is.

    Raises:
        OptionError: nothing is published for the variant.
    """
    if rule is None:
        rule = "search" if variant.float_layers is None else "published"
    if rule == "published" and variant.float_layers is None:
        raise OptionError(
            f"no layers to keep in floating point are published for variant {variant.name}; search for them"
        )
    layers = {"published": variant.float_layers, "search": None, "none": ()}[rule]
    return Precision("int8", calibration, layers)


@dataclass(frozen=True, slots=True)
class Converted:
    """A graph in its precision, and for INT8 the layers that are not."""

    onnx: bytes
    float_layers: tuple[str, ...] = ()


def convert(served: bytes, precision: Precision, progress: Callable[[str], None]) -> Converted:
    """A verified graph in FP32 -> the same graph in its precision, with the same interface.

    Args:
        served: the graph.
        precision: what to make of it.
        progress: called with a phrase before each step.

    Raises:
        GraphError: what comes out would be no valid graph, or a weight does not fit.
        OptionError: a calibration image cannot be read, or a layer to keep in floating point does not exist.
    """
    if precision.name == "fp16":
        from export.fp16 import to_fp16  # noqa: PLC0415 (each precision needs packages that the others do without)

        progress("converting to FP16")
        return Converted(to_fp16(served))
    if precision.calibration is not None:
        return _to_int8(served, precision.calibration, precision.float_layers, progress)
    return Converted(served)


def _to_int8(
    served: bytes, calibration: CalibrationSet, wanted: tuple[str, ...] | None, progress: Callable[[str], None]
) -> Converted:
    from export.int8 import Int8Graph, resolve  # noqa: PLC0415
    from export.sensitivity import ALLOWED_DISAGREEMENT, find_float_layers  # noqa: PLC0415

    progress(f"quantizing to INT8 by {len(calibration)} images")
    graph = Int8Graph(served, calibration)
    if wanted is None:
        progress("looking for the layers that have to stay in floating point")
        kept = find_float_layers(graph, served, calibration, ALLOWED_DISAGREEMENT, progress)
    else:
        kept = resolve(wanted, graph.layers)
    progress(f"{len(graph.layers) - len(kept)} layers in INT8, {len(kept)} in floating point")
    return Converted(graph.with_float(kept), kept)
