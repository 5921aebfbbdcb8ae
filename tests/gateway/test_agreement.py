"""Served boxes and a candidate's: what is matched with what, and the sums. By hand."""

import numpy as np
import pytest

from gateway.agreement import Outcome, Tally, agreement, match
from gateway.detections import Detections

A = (0, 0, 10, 10)
A_SHIFTED = (0, 0, 10, 8)  # overlaps A by 80 of 100
A_HALF = (0, 0, 10, 5)  # by 50 of 100
A_LESS = (0, 0, 10, 4.9)
B = (20, 20, 30, 30)
C = (50, 50, 60, 60)
CAT, DOG, COW = 0, 1, 2
LABELS = ("cat", "dog", "cow")


def found(*boxes):
    """Detections of (xyxy, class, score)."""
    return Detections(
        np.array([box for box, _, _ in boxes], np.float32).reshape(-1, 4),
        np.array([score for _, _, score in boxes], np.float32),
        np.array([class_id for _, class_id, _ in boxes], np.int32),
    )


@pytest.mark.parametrize(
    "served, candidate, counts, relabelled",
    [
        ([], [], {}, {}),
        ([(A, CAT, 0.9)], [], {(CAT, "missing"): 1}, {}),
        ([], [(A, CAT, 0.9)], {(CAT, "extra"): 1}, {}),
        ([(A, CAT, 0.9)], [(A, CAT, 0.8)], {(CAT, "agreed"): 1}, {}),
        ([(A, CAT, 0.9)], [(A, DOG, 0.8)], {(CAT, "relabelled"): 1}, {(CAT, DOG): 1}),
        ([(A, CAT, 0.9)], [(A_HALF, CAT, 0.9)], {(CAT, "agreed"): 1}, {}),
        ([(A, CAT, 0.9)], [(A_LESS, CAT, 0.9)], {(CAT, "missing"): 1, (CAT, "extra"): 1}, {}),
        # the one that overlaps more, whatever their scores; the other is extra
        ([(A, CAT, 0.9)], [(A_SHIFTED, CAT, 0.9), (A, CAT, 0.5)], {(CAT, "agreed"): 1, (CAT, "extra"): 1}, {}),
        # even where the better overlap has another class
        (
            [(A, CAT, 0.9)],
            [(A_SHIFTED, CAT, 0.9), (A, DOG, 0.5)],
            {(CAT, "relabelled"): 1, (CAT, "extra"): 1},
            {(CAT, DOG): 1},
        ),
        # one box under two classes, in either order
        (
            [(A, CAT, 0.9), (A, DOG, 0.6)],
            [(A, DOG, 0.8), (A, CAT, 0.7)],
            {(CAT, "agreed"): 1, (DOG, "agreed"): 1},
            {},
        ),
        # all at once
        (
            [(A, CAT, 0.9), (B, DOG, 0.8), (C, COW, 0.7)],
            [(B, CAT, 0.9), (A_SHIFTED, CAT, 0.6), ((80, 80, 90, 90), DOG, 0.5)],
            {(CAT, "agreed"): 1, (DOG, "relabelled"): 1, (COW, "missing"): 1, (DOG, "extra"): 1},
            {(DOG, CAT): 1},
        ),
    ],
)
def test_boxes_agree_as_worked_out_by_hand(served, candidate, counts, relabelled):
    """Each box of either side counts once, or a pair of them once."""
    image = agreement(found(*served), found(*candidate))
    assert dict(image.counts) == counts
    assert dict(image.relabelled) == relabelled


def test_only_agreed_boxes_tell_shift_and_overlap():
    """The candidate's score less the served one."""
    image = agreement(found((A, CAT, 0.9), (B, DOG, 0.8)), found((A_SHIFTED, CAT, 0.6), (B, CAT, 0.8)))
    assert image.score_shifts == pytest.approx((-0.3,))
    assert image.ious == pytest.approx((0.8,))


def test_boxes_that_overlap_alike_are_told_apart_by_class():
    """A difference below a hundredth is rounding: it must not make two agreed boxes two relabelled ones."""
    nearly = (0, 0, 10, 9.99)
    served = found((A, CAT, 0.9), (nearly, DOG, 0.8))
    candidate = found((nearly, CAT, 0.9), (A, DOG, 0.8))
    assert [(i, j) for i, j, _ in match(served, candidate)] == [(0, 0), (1, 1)]


def test_each_box_is_matched_once_for_any_boxes():
    """One to one, never below half, and none that could be matched is left on both sides."""
    random = np.random.default_rng(7)
    corners = random.uniform(0, 40, (2, 30, 2))
    one, other = (
        Detections(
            np.concatenate([xy, xy + random.uniform(5, 25, (30, 2))], axis=1).astype(np.float32),
            random.uniform(0, 1, 30).astype(np.float32),
            random.integers(0, 3, 30).astype(np.int32),
        )
        for xy in corners
    )
    pairs = match(one, other)
    assert len(pairs) > 3
    assert len({i for i, _, _ in pairs}) == len({j for _, j, _ in pairs}) == len(pairs)
    assert all(iou >= 0.5 for _, _, iou in pairs)
    left = (
        found(*((one.xyxy[i], 0, 1) for i in range(30) if i not in {i for i, _, _ in pairs})),
        found(*((other.xyxy[j], 0, 1) for j in range(30) if j not in {j for _, j, _ in pairs})),
    )
    assert match(*left) == []


def test_the_sums_of_two_images_are_told_by_label():
    """As in the report: counts, the agreed part, pairs, and how values are spread."""
    tally = Tally()
    tally.add(agreement(found((A, CAT, 0.9), (B, DOG, 0.8)), found((A, CAT, 0.7), (B, COW, 0.8))), 0.010, 0.030)
    tally.add(agreement(found((A, CAT, 0.5), (C, DOG, 0.8)), found((A, CAT, 0.5), (B, COW, 0.6))), 0.010, 0.050)
    assert tally.boxes() == {"agreed": 2, "relabelled": 1, "missing": 1, "extra": 1, "agreement": 0.4}
    assert [(each["label"], each["agreement"]) for each in tally.labels(LABELS)] == [
        ("cat", 1.0),
        ("dog", 0.0),
        ("cow", 0.0),
    ]
    assert tally.relabellings(LABELS) == [{"served": "dog", "candidate": "cow", "boxes": 1}]
    assert tally.score_shifts.spread() == {
        "mean": -0.1,
        "quantiles": {"0.05": -0.19, "0.25": -0.15, "0.5": -0.1, "0.75": -0.05, "0.95": -0.01},
    }
    latency = tally.latency_ms()
    assert [latency[role]["mean"] for role in ("served", "candidate", "difference")] == [10, 40, 30]


def test_without_images_there_is_nothing_to_tell():
    """And no division by zero."""
    tally = Tally()
    assert tally.boxes()["agreement"] is None
    assert (tally.score_shifts.spread(), tally.latency_ms()) == (None, None)


def test_outcomes_are_what_metrics_call_them():
    """Dashboards depend on these names."""
    assert [str(outcome) for outcome in Outcome] == ["agreed", "relabelled", "missing", "extra"]
