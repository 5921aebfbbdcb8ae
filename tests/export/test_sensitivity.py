"""The search for layers that do not stand INT8."""

import numpy as np
import pytest
from onnx import numpy_helper

from export.calibration import read_calibration
from export.int8 import Int8Graph, layer_name
from export.sensitivity import answers, disagreement, find_float_layers, iou

FRAGILE = ("backbone.block_list.2.block_list.0.conv.conv.3", "neck.merge_5.conv3.conv")


@pytest.fixture(scope="module")
def calibration(calibration_folder):
    return read_calibration(calibration_folder, 64).sample(2)


@pytest.fixture(scope="module")
def fragile(small_graph, calibration):
    """A quantized graph in which two layers have lost their weights, as if their scales had been misjudged."""
    graph = Int8Graph(small_graph, calibration)
    graph.layers = tuple(layer for layer in graph.layers if layer in FRAGILE or layer.startswith("head"))  # for speed
    for layer in FRAGILE:
        ruin(graph._quantized.graph, layer)
    return graph


def ruin(graph, layer):
    """Make the scales of a layer's weights as good as zero."""
    (weights,) = (node.input[1] for node in graph.node if node.op_type == "Conv" and layer_name(node) == layer)
    scale = next(node.input[1] for node in graph.node if weights in node.output)
    tensor = next(tensor for tensor in graph.initializer if tensor.name == scale)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1e-6), scale))


def test_broken_layers_are_found(fragile, small_graph, calibration):
    """Of all layers, the search leaves out those that spoil the result, and says what it is doing."""
    steps = []

    whole = disagreement(answers(small_graph, list(calibration)), answers(fragile.with_float(()), list(calibration)))
    found = find_float_layers(fragile, small_graph, calibration, whole / 4, steps.append)

    assert found == FRAGILE
    assert steps[0].startswith("all 8 layers in INT8 disagree with FP32 by ")
    assert steps[-1].startswith("with ")
    assert any("tried 8 of 8 layers; worst is " in step for step in steps)


def test_no_layer_where_all_is_well(small_graph, calibration):
    """A graph that is close enough in INT8 keeps no layer in floating point, and is looked at only once."""
    graph, steps = Int8Graph(small_graph, calibration), []

    assert find_float_layers(graph, small_graph, calibration, 2.0, steps.append) == ()
    assert len(steps) == 1


def test_all_layers_where_nothing_helps(fragile, small_graph, calibration):
    """Where even one layer in INT8 is too much, all stay in floating point."""
    assert set(find_float_layers(fragile, small_graph, calibration, 0.0, lambda _: None)) == set(fragile.layers)


BOXES = np.array([[0, 0, 10, 10], [5, 5, 5, 5]], np.float32)


def pair(boxes=BOXES, scores=((0.9, 0.1), (0.2, 0.0))):
    return [(np.array(boxes, np.float32), np.array(scores, np.float32))]


@pytest.mark.parametrize(
    "other, expected",
    [
        pytest.param(pair(scores=((0.9, 0.1), (0.2, 0.04))), 0.0, id="what scores low does not count"),
        pytest.param(pair(scores=((0.3, 0.1), (0.2, 0.0))), 0.6 / 1.2, id="half of the score is gone"),
        pytest.param(pair(boxes=[[0, 0, 10, 5], [5, 5, 5, 5]]), 0.5 * 0.9 / 1.1, id="half of the better box is gone"),
        pytest.param(pair(boxes=[[20, 20, 30, 30], [5, 5, 5, 5]]), 0.9 / 1.1, id="the better box is elsewhere"),
    ],
)
def test_disagreement(other, expected):
    """It is the share of score that moved, plus the share of box that moved, weighted by score."""
    good = pair(boxes=[[0, 0, 10, 10], [5, 5, 6, 6]])
    other = [(np.array([boxes[0], [5, 5, 6, 6]], np.float32), scores) for boxes, scores in other]

    assert disagreement(good, other) == pytest.approx(expected, rel=1e-5)


def test_nothing_to_see_is_agreement():
    """Images in which neither graph sees anything are no disagreement."""
    nothing = pair(scores=((0.01, 0.0), (0.0, 0.0)))

    assert disagreement(nothing, nothing) == 0


def test_iou():
    """Row by row; a box without area overlaps nothing."""
    others = np.array([[5, 0, 15, 10], [5, 5, 5, 5]], np.float32)

    np.testing.assert_allclose(iou(BOXES, others), [1 / 3, 0])
