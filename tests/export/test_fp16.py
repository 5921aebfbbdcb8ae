"""FP16: half the bytes, the same interface, and nothing rounded that places boxes or ranks them."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from export.damoyolo import DamoYolo, ServedDetector
from export.errors import GraphError, VerificationError
from export.fp16 import to_fp16
from export.onnx import INNER, export_onnx, with_inner_outputs
from export.sensitivity import answers, disagreement
from export.tensorrt_support import require_tensorrt_support
from export.variants import VARIANTS
from export.verify import references, sample_images, verify


@pytest.fixture(scope="module")
def narrow(small_graph):
    """The small graph in FP16."""
    return onnx.load_model_from_string(to_fp16(small_graph))


def types(model):
    """Element type by tensor name, of every tensor in a graph."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    found = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)}
    return found | {tensor.name: tensor.data_type for tensor in inferred.initializer}


@pytest.mark.parametrize("variant, size", [("Ns", 416), ("T", 128)])
def test_recorded_weights(parity, variant, size):
    """With the recorded weights, FP16 is verified against torch and agrees with FP32; TensorRT can take the graph."""
    detector = DamoYolo(VARIANTS[variant], 80, (size, size))
    detector.load_state_dict(parity.state_dict(variant))
    expected = references(detector)
    wide = export_onnx(ServedDetector(detector.deploy(), 1000))
    narrow = to_fp16(wide)

    verify(narrow, expected, VARIANTS[variant].tolerance, "fp16")
    require_tensorrt_support(narrow)

    images = [sample_images(1, (size, size))]
    assert 0 < disagreement(answers(wide, images), answers(narrow, images)) < 0.05
    assert len(narrow) < 0.55 * len(wide)


def test_interface_is_kept(small_graph, narrow):
    """Inputs and outputs are those of the FP32 graph, name by name and type by type."""
    wide = onnx.load_model_from_string(small_graph)

    assert list(narrow.graph.input) == list(wide.graph.input)
    assert list(narrow.graph.output) == list(wide.graph.output)


def test_all_weights_are_halved(narrow):
    """Every convolution computes in FP16, weights and biases included."""
    by_name = types(narrow)
    convolutions = [node for node in narrow.graph.node if node.op_type == "Conv"]

    assert len(convolutions) == 91
    assert {by_name[name] for node in convolutions for name in (*node.input, *node.output)} == {TensorProto.FLOAT16}


def test_boxes_and_scores_stay_whole(narrow):
    """After the head's convolutions nothing is FP16 any more: not the distances, not the boxes, not the scores."""
    by_name = types(narrow)
    after = [
        name
        for node in narrow.graph.node
        if node.name.startswith(("/best_candidates", "/detector/head")) and node.op_type not in {"Conv", "Cast"}
        for name in node.output
    ]

    assert {by_name[name] for name in INNER} == {TensorProto.FLOAT}
    assert TensorProto.FLOAT16 not in {by_name[name] for name in after}


def test_boxes_are_finer_than_fp16(narrow):
    """Coordinates are not numbers that FP16 could hold; a decoder in FP16 would round them all."""
    graph = with_inner_outputs(narrow.SerializeToString())
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (boxes,) = session.run(["all_boxes"], {"images": sample_images(1, (64, 64))})

    assert np.mean(boxes == boxes.astype(np.float16)) < 0.1


def test_same_graph_same_bytes(small_graph):
    """The conversion of equal graphs gives equal bytes, and leaves its argument alone."""
    assert to_fp16(small_graph) == to_fp16(bytes(small_graph))


def test_weight_beyond_fp16_is_refused(small_graph):
    """A number that would become infinite is named, with what to do."""
    model = onnx.load_model_from_string(small_graph)
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + np.float32(1e5), weight.name))

    with pytest.raises(GraphError, match=f"{weight.name} holds a number beyond 65504.*export fp32"):
        to_fp16(model.SerializeToString())


def test_overflow_inside_is_found(parity):
    """Activations that exceed FP16 give NaN or far boxes, and the verification refuses them."""
    detector = DamoYolo(VARIANTS["Ns"], 80, (64, 64))
    detector.load_state_dict(parity.state_dict("Ns"))
    stem = detector.backbone.block_list[0].conv
    stem.bn1.weight.data *= 1e4  # what comes out is far beyond 65504
    expected = references(detector)
    narrow = to_fp16(export_onnx(ServedDetector(detector.deploy(), 100)))

    with pytest.raises(VerificationError, match="differs from torch"):
        verify(narrow, expected, VARIANTS["Ns"].tolerance, "fp16")
