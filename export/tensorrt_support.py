"""What TensorRT can take, as data, and a look at a graph with it: no GPU and no TensorRT is needed to know.

Sources: the operator table of onnx-tensorrt (docs/operators.md for TensorRT 10.15, opsets 9 to 24) and NVIDIA's
operator documentation (TopK: k <= 3840). Of the table only those operators are here that a detector may have; one that
is missing here is refused, which is a line to add after reading there.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from export.contract import INPUT, MAX_TOP_K
from export.errors import GraphError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

OPSETS: Final = range(9, 25)

_FLOATS: Final = frozenset({"FLOAT", "FLOAT16", "BFLOAT16"})
_NUMBERS: Final = _FLOATS | {"INT32", "INT64"}
_ALL: Final = _NUMBERS | {"BOOL"}

_BY_TYPES: Final[tuple[tuple[frozenset[str], str], ...]] = (
    (_FLOATS, "AveragePool BatchNormalization Clip Conv ConvTranspose Exp Floor Gemm GlobalAveragePool HardSigmoid"),
    (_FLOATS, "HardSwish LeakyRelu MatMul MaxPool QuantizeLinear Resize Round Sigmoid Softmax Sqrt Tanh"),
    (_NUMBERS, "Abs Add Div Equal Greater Less Max Min Mod Mul Neg Pad Pow ReduceMax ReduceMean ReduceMin ReduceSum"),
    (_NUMBERS, "Relu Sub TopK"),
    (_ALL, "Concat Expand Flatten Gather GatherElements Identity Reshape Slice Split Squeeze Tile Transpose Unsqueeze"),
    (_ALL, "Constant Where"),
    (_ALL | {"UINT8"}, "Cast"),
    (frozenset({"INT8"}), "DequantizeLinear"),
)

SUPPORTED_TYPES: Final = {operator: types for types, operators in _BY_TYPES for operator in operators.split()}
"""Operator -> element types of the tensors that it works on."""

_MIXED: Final = {"Where": slice(1, 3), "Concat": slice(None)} | dict.fromkeys(
    ["Add", "Div", "Equal", "Greater", "Less", "Max", "Min", "Mod", "Mul", "Pow", "Sub"], slice(None)
)
"""Operators that work on other inputs than the first alone."""

_CONSTANT_INPUTS: Final = {
    "TopK": 1, "Squeeze": 1, "Unsqueeze": 1,
    "ReduceMax": 1, "ReduceMean": 1, "ReduceMin": 1, "ReduceSum": 1,
    "QuantizeLinear": 1, "DequantizeLinear": 1,
}  # fmt: skip
"""Operator -> the input that must be known when the plan is built, where it is given."""

_RESIZE_COORDINATES: Final = frozenset(
    {"half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"}
)
_RESIZE_ROUNDINGS: Final = frozenset({"floor", "ceil", "round_prefer_floor", "round_prefer_ceil"})
_IMAGE_RANKS: Final = frozenset({4, 5})  # batch, channels, and 2 or 3 axes


class _Facts(NamedTuple):
    """What is known about the tensors of a graph."""

    types: dict[str, str]
    ranks: dict[str, int]
    constants: dict[str, NDArray[Any]]


def require_tensorrt_support(serialised: bytes) -> None:
    """Require a graph that TensorRT can take, by its documentation.

    Raises:
        GraphError: it can't; the message names each reason once.
    """
    reasons = list(dict.fromkeys(unsupported(onnx.load_model_from_string(serialised))))
    if reasons:
        raise GraphError(f"TensorRT could not take the graph: {'; '.join(reasons)}")


def unsupported(model: onnx.ModelProto) -> Iterator[str]:
    """Each reason why TensorRT would refuse the graph; none: it should take it."""
    opset = next((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), 0)
    if opset not in OPSETS:
        yield f"its opset is {opset}, and {OPSETS.start} to {OPSETS.stop - 1} are read"
    facts = _facts(model)
    yield from _uint8_beyond_the_cast(model, facts)
    for node in model.graph.node:
        for reason in _node_reasons(node, facts):
            yield f"{node.op_type} {node.name or node.output[0]}: {reason}"


def _facts(model: onnx.ModelProto) -> _Facts:
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    types = {tensor.name: TensorProto.DataType.Name(tensor.data_type) for tensor in graph.initializer}
    ranks = {name: array.ndim for name, array in constants.items()}
    for value in chain(graph.input, graph.value_info, graph.output):
        types[value.name] = TensorProto.DataType.Name(value.type.tensor_type.elem_type)
        if value.type.tensor_type.HasField("shape"):
            ranks[value.name] = len(value.type.tensor_type.shape.dim)
    return _Facts(types, ranks, constants)


def _uint8_beyond_the_cast(model: onnx.ModelProto, facts: _Facts) -> Iterator[str]:
    """UINT8 is for inputs and outputs of the network only, and a cast must stand between them and all else."""
    ends = {value.name for value in chain(model.graph.input, model.graph.output)}
    for name, kind in facts.types.items():
        if kind == "UINT8" and name not in ends:
            yield f"{name} is UINT8, which only the network's own inputs and outputs may be"
    for node in model.graph.node:
        if INPUT in node.input and facts.types.get(INPUT) == "UINT8" and node.op_type != "Cast":
            yield f"{node.op_type} {node.name or node.output[0]} reads the UINT8 input, which only a Cast may"


def _node_reasons(node: onnx.NodeProto, facts: _Facts) -> Iterator[str]:
    if node.domain not in {"", "ai.onnx"}:
        yield f"it is of the domain {node.domain}, not of ONNX itself"
    elif node.op_type not in SUPPORTED_TYPES:
        yield "there is no such operator"
    else:
        yield from _type_reasons(node, facts)
        yield from _constant_reasons(node, facts)
        yield from _RESTRICTIONS.get(node.op_type, _unrestricted)(node, facts)


def _type_reasons(node: onnx.NodeProto, facts: _Facts) -> Iterator[str]:
    names = node.output if node.op_type == "Constant" else node.input[_MIXED.get(node.op_type, slice(1))]
    for name in names:
        kind = facts.types.get(name, "unknown")
        if kind not in SUPPORTED_TYPES[node.op_type]:
            yield f"{name} is {kind}; it takes {', '.join(sorted(SUPPORTED_TYPES[node.op_type]))}"


def _constant_reasons(node: onnx.NodeProto, facts: _Facts) -> Iterator[str]:
    index = _CONSTANT_INPUTS.get(node.op_type)
    if index is None or index >= len(node.input) or not node.input[index]:
        return
    if node.input[index] not in facts.constants:
        yield f"its input {node.input[index]} must be a constant"


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    values = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def _unrestricted(_node: onnx.NodeProto, _facts: _Facts) -> Iterator[str]:
    yield from ()


def _cast(node: onnx.NodeProto, facts: _Facts) -> Iterator[str]:
    target = TensorProto.DataType.Name(_attributes(node)["to"])
    if target not in SUPPORTED_TYPES["Cast"]:
        yield f"it casts to {target}; possible are {', '.join(sorted(SUPPORTED_TYPES['Cast']))}"
    elif facts.types.get(node.input[0]) == "UINT8" and target not in {"FLOAT", "FLOAT16"}:
        yield f"it casts UINT8 to {target}; possible are FLOAT and FLOAT16"


def _top_k(node: onnx.NodeProto, facts: _Facts) -> Iterator[str]:
    k = facts.constants.get(node.input[1])
    if k is not None and int(k.item()) > MAX_TOP_K:
        yield f"its K is {int(k.item())}, and at most {MAX_TOP_K} are possible"
    if _attributes(node).get("sorted", 1) != 1:
        yield "its results must be sorted"


def _quantization(node: onnx.NodeProto, facts: _Facts) -> Iterator[str]:
    if len(node.input) < 3 or not node.input[2]:  # noqa: PLR2004 (data, scale, zero point)
        if node.op_type == "QuantizeLinear":
            yield "without a zero point it gives UINT8; give one of INT8"
        return
    zero_point = facts.constants.get(node.input[2])
    if zero_point is None or np.any(zero_point):
        yield "its zero point must be a constant 0 (symmetric quantization)"
    elif zero_point.dtype != np.int8:
        yield f"its zero point is {zero_point.dtype.name}; only int8 is possible"


def _resize(node: onnx.NodeProto, _facts: _Facts) -> Iterator[str]:
    attributes = _attributes(node)
    for name, default, possible in (
        ("coordinate_transformation_mode", "half_pixel", _RESIZE_COORDINATES),
        ("mode", "nearest", frozenset({"nearest", "linear"})),
        ("nearest_mode", "round_prefer_floor", _RESIZE_ROUNDINGS),
        ("antialias", 0, frozenset({0})),
        ("keep_aspect_ratio_policy", "stretch", frozenset({"stretch"})),
    ):
        if attributes.get(name, default) not in possible:
            yield f"its {name} is {attributes[name]}; possible are {', '.join(map(str, sorted(possible)))}"


def _on_images(node: onnx.NodeProto, facts: _Facts) -> Iterator[str]:
    rank = facts.ranks.get(node.input[0])
    if rank not in _IMAGE_RANKS:
        yield f"its input has {'unknown' if rank is None else rank} axes, and only 4 and 5 are possible"


def _pooling(node: onnx.NodeProto, facts: _Facts) -> Iterator[str]:
    yield from _on_images(node, facts)
    if len(node.output) > 1 and node.output[1]:
        yield "it returns indices"
    if set(_attributes(node).get("dilations", [])) - {1}:
        yield "it is dilated"


_RESTRICTIONS: Final[dict[str, Callable[[onnx.NodeProto, _Facts], Iterator[str]]]] = {
    "AveragePool": _pooling,
    "Cast": _cast,
    "Conv": _on_images,
    "ConvTranspose": _on_images,
    "DequantizeLinear": _quantization,
    "MaxPool": _pooling,
    "QuantizeLinear": _quantization,
    "Resize": _resize,
    "TopK": _top_k,
}
