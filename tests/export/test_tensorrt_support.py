"""What TensorRT's documentation allows: every variant's graph passes, and each thing it rules out is told."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from export.damoyolo import DamoYolo, ServedDetector
from export.errors import GraphError
from export.fp16 import to_fp16
from export.onnx import export_onnx
from export.tensorrt_support import SUPPORTED_TYPES, require_tensorrt_support, unsupported
from export.variants import VARIANTS

IMAGES = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 4, 4, 3])


def graph(*nodes, opset=17, inputs=(IMAGES,), constants=None, outputs=("y",), output_type=TensorProto.FLOAT):
    return helper.make_model(
        helper.make_graph(
            [helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT, name="pixels"), *nodes],
            "graph",
            inputs,
            [helper.make_tensor_value_info(name, output_type, None) for name in outputs],
            [numpy_helper.from_array(np.array(value), name) for name, value in (constants or {}).items()],
        ),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)],
    )


def node(operator, *inputs, outputs=("y",), **attributes):
    return helper.make_node(operator, list(inputs), list(outputs), name="it", **attributes)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_fits(name):
    """Each variant's served graph passes, with the most candidates that there may be, and so it does in FP16."""
    with torch.no_grad():
        detector = DamoYolo(VARIANTS[name], 80, (256, 256)).deploy()
        served = export_onnx(ServedDetector(detector, 3840))

    require_tensorrt_support(served)
    require_tensorrt_support(to_fp16(served))


def test_shipped_model_fits(exported):
    """So does what is really published."""
    require_tensorrt_support(exported.model.model_file.read_bytes())


def test_uint8_input_and_quantization_fit():
    """Pixels that are cast, and symmetric INT8 quantization."""
    constants = {"scale": np.float32(0.1), "zero": np.int8(0)}
    model = graph(
        node("QuantizeLinear", "x", "scale", "zero", outputs=["q"]),
        node("DequantizeLinear", "q", "scale", "zero"),
        constants=constants,
    )

    assert list(unsupported(model)) == []


@pytest.mark.parametrize(
    "model, words",
    [
        (graph(node("Relu", "x"), opset=8), "its opset is 8, and 9 to 24 are read"),
        (graph(node("NonZero", "x")), "NonZero it: there is no such operator"),
        (graph(node("Gelu", "x", domain="com.microsoft")), "of the domain com.microsoft"),
        (
            graph(node("Transpose", "images"), output_type=TensorProto.UINT8),
            "reads the UINT8 input, which only a Cast may",
        ),
        (graph(node("Cast", "images", to=TensorProto.INT32)), "casts UINT8 to INT32; possible are FLOAT and FLOAT16"),
        (graph(node("Cast", "x", to=TensorProto.DOUBLE)), "it casts to DOUBLE"),
        (
            graph(node("Cast", "x", to=TensorProto.UINT8, outputs=["u"]), node("Cast", "u", to=1)),
            "u is UINT8, which only",
        ),
        (
            graph(node("TopK", "x", "k", outputs=["y", "i"]), constants={"k": np.array([3841])}),
            "its K is 3841, and at most 3840 are possible",
        ),
        (
            graph(node("TopK", "x", "k", outputs=["y", "i"], sorted=0), constants={"k": np.array([3])}),
            "its results must be sorted",
        ),
        (
            graph(node("Cast", "x", to=TensorProto.INT64, outputs=["k"]), node("TopK", "x", "k", outputs=["y", "i"])),
            "its input k must be a constant",
        ),
        (
            graph(node("QuantizeLinear", "x", "s", "z"), constants={"s": np.float32(1), "z": np.uint8(0)}),
            "its zero point is uint8; only int8 is possible",
        ),
        (
            graph(node("QuantizeLinear", "x", "s", "z"), constants={"s": np.float32(1), "z": np.int8(3)}),
            "its zero point must be a constant 0",
        ),
        (
            graph(node("QuantizeLinear", "x", "s"), constants={"s": np.float32(1)}),
            "without a zero point it gives UINT8",
        ),
        (
            graph(node("DequantizeLinear", "b", "s"), constants={"b": np.int32([1]), "s": np.float32(1)}),
            "b is INT32; it takes INT8",
        ),
        (
            graph(node("Sigmoid", "b"), constants={"b": np.float64([1])}),
            "b is DOUBLE; it takes BFLOAT16, FLOAT, FLOAT16",
        ),
        (graph(node("Add", "x", "b"), constants={"b": np.uint8([1])}), "b is UINT8; it takes"),
        (
            graph(node("MaxPool", "b", kernel_shape=[2]), constants={"b": np.float32([[[1, 2]]])}),
            "its input has 3 axes",
        ),
        (graph(node("MaxPool", "x", kernel_shape=[2, 2], dilations=[2, 2])), "it is dilated"),
        (graph(node("MaxPool", "x", kernel_shape=[2, 2], outputs=["y", "i"])), "it returns indices"),
        (
            graph(node("Resize", "x", "", "s", mode="cubic"), constants={"s": np.float32([1, 1, 2, 2])}),
            "its mode is cubic; possible are linear, nearest",
        ),
    ],
)
def test_what_is_ruled_out(model, words):
    """Each restriction is found, and told with the node or tensor."""
    with pytest.raises(GraphError, match=r"TensorRT could not take the graph: ") as failure:
        require_tensorrt_support(model.SerializeToString())

    assert words in str(failure.value)


def test_all_reasons_at_once():
    """A graph with several faults tells all of them, each once."""
    model = graph(node("NonZero", "x", outputs=["a"]), node("OneHot", "x", "x", "x"))

    assert [reason.split(":")[0] for reason in unsupported(model)] == ["NonZero it", "OneHot it"]


def test_table_names_operators_of_onnx():
    """No entry of the table is a misspelling."""
    known = {schema.name for schema in onnx.defs.get_all_schemas()}

    assert set(SUPPORTED_TYPES) <= known
