"""The served graph with INT8 convolutions, as QuantizeLinear and DequantizeLinear around them (QDQ).

ONNX Runtime's static quantization, set as TensorRT wants it and the official study did it:

- symmetric (all zero points 0), weights per output channel, activations per tensor;
- weights are stored in INT8, biases stay FP32: TensorRT refuses INT32 ones;
- only the inputs of convolutions and max-pools are quantized. A convolution, its activation and the next quantization
  fuse into one kernel then. With outputs quantized as well, Ns's `sensitivity.disagreement` is 0.14 instead of 0.11;
- ranges are the least and greatest values seen. Cutting them to the 99.9th percentile ruins the model: what is rare in
  a calibration image are the objects.

Layers that lose too much stay in floating point: `Variant.float_layers` has what the official study found,
`export.sensitivity` finds them for any other model.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from export.contract import INPUT
from export.errors import GraphError, OptionError
from export.onnx import check_graph

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from export.calibration import CalibrationSet, UInt8Array

QUANTIZED: Final = ("Conv", "MaxPool")
"""Operators that are worth it. The rest is cheap, or part of a convolution's kernel."""


class Int8Graph:
    """A served graph and its fully quantized twin; any mixture of their layers can be had from it.

    Args:
        served: the graph in FP32.
        calibration: images to measure the ranges of activations on.

    Raises:
        OptionError: a calibration image cannot be read.
    """

    def __init__(self, served: bytes, calibration: CalibrationSet) -> None:
        self._original = onnx.load_model_from_string(served)
        self._quantized = _quantize_all(self._original, calibration)
        self.layers: tuple[str, ...] = tuple(layers(self._original))
        """Names of all layers that can be INT8, in the order of the graph: `backbone.block_list.1.conv1` and so on."""

    def with_float(self, float_layers: Collection[str]) -> bytes:
        """The graph with these layers in FP32 and all others in INT8; equal requests give equal bytes.

        Raises:
            GraphError: what comes out is no valid graph.
        """
        model = onnx.ModelProto()
        model.CopyFrom(self._quantized)
        inputs = {node.name: list(node.input) for node in self._original.graph.node}
        for node in model.graph.node:
            if node.name in inputs and (node.op_type not in QUANTIZED or layer_name(node) in float_layers):
                node.input[:] = inputs[node.name]  # the tool gives a quantized tensor to all that take it, sums as well
        model.graph.initializer.extend(self._original.graph.initializer)  # the weights of those layers
        _remove_unused(model.graph)
        check_graph(model)
        return bytes(model.SerializeToString(deterministic=True))


def layers(model: onnx.ModelProto) -> list[str]:
    """Names of all layers that can be INT8, in the order of the graph."""
    return [layer_name(node) for node in model.graph.node if node.op_type in QUANTIZED]


def layer_name(node: onnx.NodeProto) -> str:
    """A layer's name, much as in a checkpoint: `/detector/neck/bu_conv13/conv/Conv` is `neck.bu_conv13.conv`."""
    return node.name.removeprefix("/detector/").rpartition("/")[0].replace("/", ".")


def resolve(wanted: Iterable[str], known: Sequence[str]) -> tuple[str, ...]:
    """The layers that `wanted` names: each is a layer, or a part of the network with all layers in it.

    Args:
        wanted: such as `neck` or `neck.merge_3.conv1`.
        known: all layers, in the order of the graph.

    Raises:
        OptionError: one names nothing.
    """
    wanted = tuple(wanted)
    for name in wanted:
        if not any(_within(layer, name) for layer in known):
            raise OptionError(
                f"there is no layer {name!r} to keep in floating point; layers are {known[0]}, {known[1]}, ..."
            )
    return tuple(layer for layer in known if any(_within(layer, name) for name in wanted))


def _within(layer: str, part: str) -> bool:
    return f"{layer}.".startswith(f"{part}.")


class _Images(CalibrationDataReader):  # type: ignore[misc]
    """The images as ONNX Runtime's calibration asks for them."""

    def __init__(self, images: Iterable[UInt8Array]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, UInt8Array] | None:
        """The next image by the name of the graph's input, or None."""
        image = next(self._images, None)
        return None if image is None else {INPUT: image}


def _quantize_all(original: onnx.ModelProto, calibration: CalibrationSet) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(original)
    add_pre_process_metadata(model)  # spares a warning: the exported graph is folded already
    options: dict[str, Any] = {
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        "QuantizeBias": False,
        "ForceQuantizeNoInputCheck": True,  # max-pools too, whose input nobody else quantizes
        "OpTypesToExcludeOutputQuantization": list(QUANTIZED),
    }
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.onnx"
        quantize_static(
            model,
            path,
            _Images(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options=options,
        )
        quantized = onnx.load_model(path)
    quantized.producer_name, quantized.producer_version = original.producer_name, original.producer_version
    del quantized.metadata_props[:]
    del quantized.graph.value_info[:]
    _require_layers(original, quantized)
    return quantized


def _require_layers(original: onnx.ModelProto, quantized: onnx.ModelProto) -> None:
    """Require that every layer takes dequantized input; the tool leaves out without a word what it cannot do."""
    dequantized = {node.output[0] for node in quantized.graph.node if node.op_type == "DequantizeLinear"}
    done = {layer_name(n) for n in quantized.graph.node if n.op_type in QUANTIZED and n.input[0] in dequantized}
    missing = set(layers(original)) - done
    if missing:
        raise GraphError(f"ONNX Runtime left layers unquantized: {', '.join(sorted(missing))}")


def _remove_unused(graph: onnx.GraphProto) -> None:
    """Drop nodes and numbers that lead to no output."""
    used = {value.name for value in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if used & set(node.output):
            nodes.append(node)
            used |= set(node.input)
    del graph.node[:]
    graph.node.extend(reversed(nodes))
    numbers = {tensor.name: tensor for tensor in graph.initializer if tensor.name in used}
    del graph.initializer[:]
    graph.initializer.extend(numbers.values())
