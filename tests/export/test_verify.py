"""The verification passes what only rounding changed, and nothing else."""

import numpy as np
import onnx
import pytest
import torch

from export.damoyolo import DamoYolo, ServedDetector
from export.errors import VerificationError
from export.onnx import export_onnx
from export.variants import VARIANTS, Tolerance
from export.verify import BATCHES, check_selection, references, verify

TOLERANCE = VARIANTS["Ns"].tolerance


@pytest.fixture(scope="module")
def proven():
    """(graph, the network's answers) of a small network."""
    torch.manual_seed(0)
    detector = DamoYolo(VARIANTS["Ns"], 3, (64, 64))
    expected = references(detector)
    return export_onnx(ServedDetector(detector.deploy(), 40)), expected


def edited(serialised, edit):
    """The graph after `edit(graph)`."""
    model = onnx.load_model_from_string(serialised)
    edit(model.graph)
    return model.SerializeToString()


def test_right_graph_passes(proven):
    """The differences are measured on a batch of 1 and of 3, and are those of rounding."""
    graph, expected = proven

    differences = verify(graph, expected, TOLERANCE)

    assert BATCHES == (1, 3)
    assert [len(reference.images) for reference in expected] == [1, 3]
    assert 0 < differences.score < 1e-5
    assert 0 < differences.box_pixels < 1e-3


def test_difference_above_tolerance_fails(proven):
    """Any difference above the tolerance fails, and the message tells both numbers."""
    with pytest.raises(VerificationError, match=r"differs from torch by .* in scores .* allowed are 0.0e\+00"):
        verify(*proven, Tolerance(0.0, 1.0))


def test_changed_weight_fails(proven):
    """A graph with one other weight in the head is found out."""

    def change(graph):
        bias = next(tensor for tensor in graph.initializer if tensor.name.endswith("gfl_cls.1.bias"))
        values = onnx.numpy_helper.to_array(bias).copy()
        values[2] += 0.01
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))

    graph, expected = proven
    with pytest.raises(VerificationError, match="differs from torch"):
        verify(edited(graph, change), expected, TOLERANCE)


def test_swapped_colours_fail(proven):
    """A graph that reads the pixels as BGR is found out."""

    def swap(graph):
        reverse = onnx.numpy_helper.from_array(np.array([2, 1, 0]), "bgr")
        graph.initializer.append(reverse)
        first = next(node for node in graph.node if "images" in node.input)
        first.input[0] = "swapped"
        graph.node.insert(0, onnx.helper.make_node("Gather", ["images", "bgr"], ["swapped"], axis=3))

    graph, expected = proven
    with pytest.raises(VerificationError, match="differs from torch"):
        verify(edited(graph, swap), expected, TOLERANCE)


def test_ascending_selection_fails(proven):
    """A graph that selects the worst candidates is found out though its network is right."""

    def reverse(graph):
        for node in graph.node:
            if node.op_type == "TopK":
                node.attribute.extend([onnx.helper.make_attribute("largest", 0)])
                del node.attribute[next(i for i, a in enumerate(node.attribute) if a.name == "largest")]

    graph, expected = proven
    with pytest.raises(VerificationError, match="not the highest"):
        verify(edited(graph, reverse), expected, TOLERANCE)


def selection():
    """One image's right outputs, as arrays that a test may spoil: 3 anchors, 2 classes, K = 4, one tie."""
    all_scores = np.array([[[0.9, 0.1], [0.5, 0.5], [0.2, 0.3]]], np.float32)
    all_boxes = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    anchors, classes = [0, 1, 1, 2], [0, 0, 1, 1]
    return {
        "boxes": all_boxes[:, anchors],
        "scores": all_scores[:, anchors, classes],
        "class_ids": np.array([classes], np.int32),
        "all_boxes": all_boxes,
        "all_scores": all_scores,
    }


def test_selection_passes_with_ties_in_either_order():
    """The order among equal scores is free."""
    outputs = selection()
    check_selection(outputs)

    for name in ("boxes", "scores", "class_ids"):
        outputs[name] = outputs[name][:, [0, 2, 1, 3]]

    check_selection(outputs)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda o: o["scores"][0].sort(), id="ascending"),
        pytest.param(lambda o: o["scores"].__setitem__((0, 3), 0.25), id="a score that no pair has"),
        pytest.param(lambda o: o["scores"].__setitem__((0, 3), np.nan), id="not a number"),
        pytest.param(lambda o: o["boxes"].__setitem__((0, 0), o["boxes"][0, 3]), id="another anchor's box"),
        pytest.param(lambda o: o["class_ids"].__setitem__((0, 0), 1), id="another class"),
        pytest.param(lambda o: o["class_ids"].__setitem__((0, 2), 0), id="one pair twice"),
    ],
)
def test_wrong_selection_fails(spoil):
    """Each way of returning other candidates than the best is found out."""
    outputs = selection()
    spoil(outputs)

    with pytest.raises(VerificationError):
        check_selection(outputs)
