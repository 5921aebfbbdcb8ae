"""The in-graph selection is exactly the plain one: property tests in torch and in ONNX Runtime."""

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from export.damoyolo import BestCandidates
from export.onnx import trace

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 5))
"""(images, anchors, classes): so small that ties, K > anchors and K > anchors * classes come up all the time."""


@st.composite
def problems(draw):
    """Scores (N, A, C) with many ties, boxes (N, A, 4) that tell anchors apart, and K."""
    shape = draw(SHAPES)
    levels = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
    values = levels if draw(st.booleans()) else st.floats(0, 1, width=32)
    scores = draw(st_numpy.arrays(np.float32, shape, elements=values))
    return scores, anchor_boxes(shape), draw(st.integers(1, 50))


def anchor_boxes(shape):
    """Boxes whose first coordinate is the anchor's number and whose last is the image's."""
    images, anchors, _ = shape
    boxes = np.zeros((images, anchors, 4), np.float32)
    boxes[..., 0] = np.arange(anchors)
    boxes[..., 3] = np.arange(images)[:, None]
    return boxes


def in_torch(scores, boxes, top_k):
    module = BestCandidates(top_k, *scores.shape[1:])
    return [x.numpy() for x in module(torch.from_numpy(scores), torch.from_numpy(boxes))]


def in_onnx_runtime(scores, boxes, top_k):
    """As served: traced at batch 1, run at the batch size of `scores`."""
    module = BestCandidates(top_k, *scores.shape[1:])
    example = {"scores": torch.from_numpy(scores[:1]), "boxes": torch.from_numpy(boxes[:1])}
    graph = trace(module, example, ["best_boxes", "best_scores", "class_ids"])
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"scores": scores, "boxes": boxes})


def assert_is_plain_top_k(found, scores, boxes, top_k):
    """Scores equal a full sort's; every candidate is a pair of the input, and none comes twice."""
    found_boxes, found_scores, class_ids = found
    images, anchors, classes = scores.shape
    k = min(top_k, anchors * classes)
    plain = -np.sort(-scores.reshape(images, -1), axis=1)[:, :k]
    anchor_ids = found_boxes[..., 0].astype(int)
    image_ids = np.arange(images)[:, None]

    np.testing.assert_array_equal(found_scores, plain)
    np.testing.assert_array_equal(scores[image_ids, anchor_ids, class_ids], found_scores)
    np.testing.assert_array_equal(found_boxes, boxes[image_ids, anchor_ids])
    assert all(len(set(zip(a, c, strict=True))) == k for a, c in zip(anchor_ids, class_ids, strict=True))
    assert [x.dtype for x in found] == [np.float32, np.float32, np.int32]


@given(problems())
@settings(max_examples=300, deadline=None)
def test_selection_in_torch(problem):
    """Whatever the shape, K and the ties, the best pairs come out, each once."""
    assert_is_plain_top_k(in_torch(*problem), *problem)


@given(problems())
@settings(max_examples=40, deadline=None)
def test_selection_in_onnx_runtime(problem):
    """The exported form does the same, at batch sizes that it was not traced with."""
    assert_is_plain_top_k(in_onnx_runtime(*problem), *problem)


@pytest.mark.parametrize("run", [in_torch, in_onnx_runtime])
@pytest.mark.parametrize(
    "top_k, classes",
    [(1000, 80), (1000, 6), (3840, 1), (10**4, 2)],
    ids=["K < anchors", "K < anchors, few classes", "K > anchors", "K > all pairs"],
)
def test_selection_at_served_size(run, top_k, classes):
    """The same holds for as many anchors as a 416 x 416 image has."""
    scores = np.random.default_rng(0).random((2, 3549, classes), dtype=np.float32)
    boxes = anchor_boxes(scores.shape)

    assert_is_plain_top_k(run(scores, boxes, top_k), scores, boxes, top_k)
