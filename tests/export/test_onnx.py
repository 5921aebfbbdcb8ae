"""The exported graph keeps the served model's contract and computes what the network computes."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto

import export.onnx
from export.damoyolo import DamoYolo, ServedDetector
from export.errors import GraphError
from export.onnx import export_onnx, with_inner_outputs
from export.variants import VARIANTS
from export.verify import references, verify


def served(detector, top_k=1000):
    return export_onnx(ServedDetector(detector.deploy(), top_k))


def session(serialised):
    return onnxruntime.InferenceSession(serialised, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def small():
    """A graph of the smallest variant at its smallest size, with random weights."""
    torch.manual_seed(0)
    return served(DamoYolo(VARIANTS["Ns"], 3, (64, 96)), top_k=50)


@pytest.fixture(scope="module", params=["Ns", "T"])
def recorded(request, parity):
    """(variant, its graph with the recorded weights at its own size)."""
    return request.param, served(parity.detector(request.param))


def test_recorded_answers(parity, recorded):
    """ONNX Runtime gives the official model's recorded scores and boxes for every recorded anchor."""
    variant, graph = recorded
    expected, tolerance = parity.expected(variant), VARIANTS[variant].tolerance

    scores, boxes = session(with_inner_outputs(graph)).run(
        ["all_scores", "all_boxes"], {"images": parity.image(variant)[None]}
    )

    rows = expected["rows"]
    np.testing.assert_allclose(scores[0, rows], expected["scores"], rtol=0, atol=tolerance.score)
    np.testing.assert_allclose(boxes[0, rows], expected["boxes"], rtol=0, atol=tolerance.box_pixels)


def test_recorded_candidates(parity, recorded):
    """The served scores are the highest of the recorded ones; of Ns and T every anchor is recorded."""
    variant, graph = recorded
    best = np.sort(parity.expected(variant)["scores"], axis=None)[::-1][:1000]

    _, scores, _ = session(graph).run(None, {"images": parity.image(variant)[None]})

    np.testing.assert_allclose(scores[0], best, rtol=0, atol=VARIANTS[variant].tolerance.score)


@pytest.mark.parametrize("variant, size", [("Ns", 416), ("N", 128), ("T", 128), ("M", 128)])
def test_verification_passes(parity, variant, size):
    """Plain and CSP backbones, both stems, both head kernels: the graph equals the network in training form."""
    detector = DamoYolo(VARIANTS[variant], 80, (size, size))
    detector.load_state_dict(parity.state_dict(variant))
    expected = references(detector)

    differences = verify(served(detector), expected, VARIANTS[variant].tolerance)

    assert 0 < differences.score < VARIANTS[variant].tolerance.score
    assert 0 < differences.box_pixels < VARIANTS[variant].tolerance.box_pixels


def test_batches_do_not_mix(small):
    """In batches of 1 to 5 every image gets the answer that it gets alone."""
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 96, 3), dtype=np.uint8)
    run = session(small).run
    alone = [run(None, {"images": image[None]}) for image in images]

    for batch in range(1, 6):
        together = run(None, {"images": images[:batch]})
        for i, name in enumerate(("boxes", "scores")):
            expected = np.concatenate([answer[i] for answer in alone[:batch]])
            np.testing.assert_allclose(together[i], expected, rtol=1e-3, atol=1e-4, err_msg=f"{name} of {batch}")


def test_interface(small):
    """Names, types and sizes are the contract's, and only the batch axis is open."""

    def described(value):
        tensor = value.type.tensor_type
        return value.name, tensor.elem_type, [axis.dim_param or axis.dim_value for axis in tensor.shape.dim]

    graph = onnx.load_model_from_string(small)

    assert [described(value) for value in graph.graph.input] == [("images", TensorProto.UINT8, ["batch", 64, 96, 3])]
    assert [described(value) for value in graph.graph.output] == [
        ("boxes", TensorProto.FLOAT, ["batch", 50, 4]),
        ("scores", TensorProto.FLOAT, ["batch", 50]),
        ("class_ids", TensorProto.INT32, ["batch", 50]),
    ]
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 17)]


def test_graph_is_lean(small):
    """BatchNorm is folded, no shape is computed while serving, and the pixels' first operator is a cast."""
    graph = onnx.load_model_from_string(small).graph
    operators = {node.op_type for node in graph.node}

    assert not operators & {"BatchNormalization", "Shape", "If", "Loop", "NonMaxSuppression"}
    assert [node.op_type for node in graph.node if "images" in node.input] == ["Cast"]


def test_candidates_are_clamped():
    """Where K exceeds all anchor-class pairs, all of them are served."""
    graph = served(DamoYolo(VARIANTS["Ns"], 2, (32, 32)), top_k=1000)

    _, scores, _ = session(graph).run(None, {"images": np.zeros((1, 32, 32, 3), np.uint8)})

    assert scores.shape == (1, (16 + 4 + 1) * 2)


def test_same_model_same_bytes(small):
    """Exporting an equal model again gives the same file, without a path of this machine in it."""
    torch.manual_seed(0)
    again = served(DamoYolo(VARIANTS["Ns"], 3, (64, 96)), top_k=50)

    assert again == small
    assert __file__.rpartition("/tests/")[0].encode() not in small


def test_broken_contract_is_refused(monkeypatch):
    """A graph whose real output sizes are not the declared ones does not pass the check."""
    declared = export.onnx._declared_outputs

    def one_too_many(model):
        outputs = declared(model)
        outputs[1].type.tensor_type.shape.dim[1].dim_value += 1
        return outputs

    monkeypatch.setattr(export.onnx, "_declared_outputs", one_too_many)

    with pytest.raises(GraphError, match="not valid ONNX"):
        served(DamoYolo(VARIANTS["Ns"], 2, (32, 32)), top_k=10)


def test_traced_sizes_are_refused():
    """A graph that computes a size while serving, which should be a constant, is found before it is served."""
    detector = DamoYolo(VARIANTS["Ns"], 2, (32, 32)).deploy()
    detector.neck.upsample.forward = lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    with pytest.raises(GraphError, match=r"operators that it should not: .*Shape"):
        export_onnx(ServedDetector(detector, 10))
