"""Post-processing against the official one's fixtures."""

import numpy as np
import pytest

from gateway.detections import RawPredictions
from gateway.postprocess import Thresholds, postprocess
from gateway.resize import Resize

IDENTITY = Resize((100, 100), (1.0, 1.0))


def candidates(scores, boxes):
    """Every (anchor, class) pair of (A, C) scores, as the network hands them over: best first."""
    anchors, classes = np.unravel_index(np.argsort(-scores, axis=None), scores.shape)
    return RawPredictions(boxes[anchors], scores[anchors, classes], classes.astype(np.int32))


@pytest.mark.parametrize("variant", ["Ns", "T"])
def test_equals_the_official_postprocessing(shared_dir, variant):
    """Same boxes, scores and classes in the same order, once the official boxes are clipped as ours are."""
    with np.load(shared_dir / "damo-yolo" / "parity" / f"postprocess_{variant}.npz") as archive:
        official = dict(archive)
    width, height = official["orig_wh"].tolist()
    resize = Resize((width, height), tuple((official["input_wh"] / official["orig_wh"]).tolist()))
    thresholds = Thresholds(float(official["conf"]), float(official["iou"]), max_detections=500)

    found = postprocess(candidates(official["scores"], official["boxes"]), resize, thresholds)

    expected = np.clip(official["det_boxes_orig"], 0, [width, height, width, height])
    inside = (expected[:, 2:] > expected[:, :2]).all(axis=1)
    assert len(official["det_scores"]) == 500
    assert found.class_ids.tolist() == official["det_labels"][inside].tolist()
    assert found.scores.tolist() == official["det_scores"][inside].tolist()
    assert found.xyxy == pytest.approx(expected[inside], abs=1e-2)


def test_a_score_that_equals_the_threshold_does_not_count():
    """Strictly greater, as in the official code."""
    box = np.array([[1, 1, 5, 5], [20, 20, 30, 30]], np.float32)
    predictions = RawPredictions(box, np.array([0.75, 0.5], np.float32), np.zeros(2, np.int32))
    assert postprocess(predictions, IDENTITY, Thresholds(0.5, 0.7)).scores.tolist() == [0.75]


def test_one_box_may_be_found_as_two_classes():
    """The official evaluation is multi-label."""
    box = np.array([[1, 1, 5, 5]] * 2, np.float32)
    predictions = RawPredictions(box, np.array([0.75, 0.5], np.float32), np.array([2, 0], np.int32))
    assert postprocess(predictions, IDENTITY, Thresholds(0.1, 0.7)).class_ids.tolist() == [2, 0]


def test_unwanted_classes_are_left_out():
    """A class filter acts before the cap, so it can't be starved by other classes."""
    box = np.array([[1, 1, 5, 5], [20, 20, 30, 30]], np.float32)
    predictions = RawPredictions(box, np.array([0.75, 0.5], np.float32), np.array([2, 0], np.int32))
    thresholds = Thresholds(0.1, 0.7, max_detections=1, class_ids=frozenset({0}))
    assert postprocess(predictions, IDENTITY, thresholds).class_ids.tolist() == [0]


def test_a_box_outside_the_image_is_no_detection():
    """Boxes are clipped to the image; what has no area left is dropped."""
    box = np.array([[-9, -9, -1, -1], [90, 90, 120, 95]], np.float32)
    predictions = RawPredictions(box, np.array([0.75, 0.5], np.float32), np.zeros(2, np.int32))
    assert postprocess(predictions, IDENTITY, Thresholds(0.1, 0.7)).xyxy.tolist() == [[90, 90, 100, 95]]


def test_without_clipping_boxes_are_as_the_model_gives_them():
    """The same ones survive the suppression, which has never known the border."""
    box = np.array([[-9, -9, -1, -1], [90, 90, 120, 95], [90, 90, 121, 95], [90, 90, 100, 95]], np.float32)
    predictions = RawPredictions(box, np.array([0.9, 0.8, 0.7, 0.6], np.float32), np.zeros(4, np.int32))
    kept = postprocess(predictions, IDENTITY, Thresholds(0.1, 0.7, clip=False)).xyxy
    assert kept.tolist() == box[[0, 1, 3]].tolist()
    clipped = postprocess(predictions, IDENTITY, Thresholds(0.1, 0.7)).xyxy
    assert clipped.tolist() == [[90, 90, 100, 95]] * 2


@pytest.mark.parametrize(
    "boxes, scores, class_ids",
    [
        (np.zeros((2, 4), np.float32), np.zeros(3, np.float32), np.zeros(3, np.int32)),
        (np.zeros((3, 4), np.float64), np.zeros(3, np.float32), np.zeros(3, np.int32)),
        (np.zeros((3, 4), np.float32), np.full(3, np.nan, np.float32), np.zeros(3, np.int32)),
        (np.full((3, 4), np.inf, np.float32), np.zeros(3, np.float32), np.zeros(3, np.int32)),
    ],
    ids=["lengths differ", "wrong dtype", "score is not a number", "box is infinite"],
)
def test_broken_predictions_are_refused(boxes, scores, class_ids):
    """What comes from Triton is checked before anybody computes with it."""
    with pytest.raises(ValueError, match="must be"):
        RawPredictions(boxes, scores, class_ids)
