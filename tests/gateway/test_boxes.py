"""Pure box functions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gateway import boxes

CORNERS = hnp.arrays(np.float32, st.tuples(st.integers(0, 40), st.just(4)), elements=st.floats(-50, 150, width=16))


def box_array(*rows):
    return np.array(rows, dtype=np.float32).reshape(-1, 4)


@pytest.mark.parametrize(
    "other, expected",
    [
        ((0, 0, 2, 2), 1.0),
        ((1, 0, 3, 2), 1 / 3),
        ((2, 0, 4, 2), 0.0),
        ((5, 5, 6, 6), 0.0),
        ((0.5, 0.5, 1.5, 1.5), 1 / 4),
        ((1, 1, 1, 1), 0.0),
    ],
)
def test_iou_of_known_pairs(other, expected):
    """Intersection over union, by hand."""
    assert boxes.iou(box_array((0, 0, 2, 2)), box_array(other))[0] == pytest.approx([expected])


def test_iou_of_two_points_is_zero():
    """Boxes without area overlap in nothing, and divide by nothing."""
    assert boxes.iou(box_array((1, 1, 1, 1)), box_array((1, 1, 1, 1))).tolist() == [[0]]


def test_clip_moves_corners_onto_the_border():
    """Each corner lands inside the image, and the argument stays as it was."""
    given_boxes = box_array((-5, -1, 30, 12), (2, 3, 4, 5))
    before = given_boxes.copy()
    assert boxes.clip(given_boxes, (20, 10)).tolist() == [[0, 0, 20, 10], [2, 3, 4, 5]]
    assert (given_boxes == before).all()


def test_nms_keeps_an_overlap_that_equals_the_threshold():
    """Only an IoU strictly greater than the threshold suppresses."""
    xyxy = box_array((0, 0, 2, 2), (0, 0, 2, 1))  # IoU exactly 1/2
    scores, classes = np.array([0.9, 0.8], np.float32), np.zeros(2, np.int32)
    assert boxes.nms(xyxy, scores, classes, 0.5, 10).tolist() == [0, 1]
    assert boxes.nms(xyxy, scores, classes, 0.4999, 10).tolist() == [0]


def test_nms_leaves_other_classes_alone():
    """The same box may be two things."""
    xyxy = box_array((0, 0, 2, 2), (0, 0, 2, 2), (0, 0, 2, 2))
    scores, classes = np.array([0.5, 0.9, 0.7], np.float32), np.array([0, 1, 0], np.int32)
    assert boxes.nms(xyxy, scores, classes, 0.5, 10).tolist() == [1, 2]


def test_agnostic_nms_does_not_ask_for_the_class():
    """The better of two things on one box stays, whatever they are."""
    xyxy = box_array((0, 0, 2, 2), (0, 0, 2, 2), (5, 5, 6, 6))
    scores, classes = np.array([0.5, 0.9, 0.7], np.float32), np.array([0, 1, 0], np.int32)
    assert boxes.nms(xyxy, scores, classes, 0.5, 10, agnostic=True).tolist() == [1, 2]


def test_nms_of_nothing_is_nothing():
    """No candidates is an everyday case."""
    assert boxes.nms(box_array(), np.zeros(0, np.float32), np.zeros(0, np.int32), 0.5, 10).tolist() == []


def test_nms_stops_at_the_limit():
    """The best `limit` boxes are kept, not the first."""
    xyxy = box_array(*((i * 10, 0, i * 10 + 5, 5) for i in range(5)))
    scores = np.array([0.1, 0.5, 0.3, 0.9, 0.2], np.float32)
    assert boxes.nms(xyxy, scores, np.zeros(5, np.int32), 0.5, 2).tolist() == [3, 1]


@given(corners=CORNERS, seed=st.integers(0, 1000), threshold=st.floats(0, 1))
def test_nms_equals_the_definition(corners, seed, threshold):
    """Kept is exactly what no better kept box of its class overlaps too much: checked pair by pair in plain Python."""
    rng = np.random.default_rng(seed)
    n = len(corners)
    xyxy = np.concatenate([corners[:, :2], corners[:, :2] + np.abs(corners[:, 2:])], axis=1)
    scores, classes = rng.permutation(n).astype(np.float32), rng.integers(0, 3, n).astype(np.int32)

    expected = []
    for i in np.argsort(-scores):
        overlaps = [boxes.iou(xyxy[k : k + 1], xyxy[i : i + 1])[0, 0] for k in expected if classes[k] == classes[i]]
        if not any(overlap > threshold for overlap in overlaps):
            expected.append(i)

    assert boxes.nms(xyxy, scores, classes, threshold, n + 1).tolist() == expected
