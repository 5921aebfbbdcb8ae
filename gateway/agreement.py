"""How far a candidate's boxes agree with the served ones, image by image and in sum. Pure.

The sums are told as JSON, see `ShadowReport`: it is what `GET /v1/shadow` answers.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypedDict

import numpy as np

from gateway import boxes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.detections import Detections

MIN_IOU: Final = 0.5
"""Two boxes that overlap by less mean different objects, as in PASCAL VOC and COCO's mAP50."""

QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)

_IOU_DIGITS: Final = 2  # a hundredth is what rounding in another precision makes; below it the class decides
_REMEMBERED: Final = 10_000  # the latest values that quantiles are taken of
_MOST_PAIRS: Final = 50  # of labels, in a report


class Outcome(StrEnum):
    """What became of a box."""

    AGREED = "agreed"
    RELABELLED = "relabelled"
    """The candidate found it, as another class."""
    MISSING = "missing"
    """The candidate did not find it."""
    EXTRA = "extra"
    """The candidate alone found it."""


class Spread(TypedDict):
    """How values are spread: `mean` of all, and `quantiles` ("0.05" to "0.95") of the latest 10,000."""

    mean: float
    quantiles: dict[str, float]


class BoxCounts(TypedDict):
    """Boxes by outcome; `agreement` is the agreed part of all of them, null without any."""

    agreed: int
    relabelled: int
    missing: int
    extra: int
    agreement: float | None


class LabelCounts(BoxCounts):
    """The boxes of one label: the served one's, or for `extra` the candidate's."""

    label: str


class Relabelling(TypedDict):
    """How many boxes of the label `served` the candidate calls `candidate`."""

    served: str
    candidate: str
    boxes: int


class Latencies(TypedDict):
    """Inference of the same images in ms, from tensor to answer; `difference` is what the candidate takes more."""

    served: Spread
    candidate: Spread
    difference: Spread


class Comparison(TypedDict):
    """A candidate beside a version that answered.

    `images` counts by outcome: `compared`; `dropped`, for Triton had enough to do; `unserved`, nobody serves the
    candidate with the same interface; `failed`. `is_running` tells whether the rollout still asks for it, `since` is
    when its first image came (ISO 8601, UTC). `labels` are all labels of the model, in their order; `relabelled` the
    most frequent pairs first, 50 at most. `score_shift` (candidate's score less the served one) and `iou` are those of
    the agreed boxes. What has no values is null.
    """

    model: str
    served_version: str
    candidate_version: str
    is_running: bool
    since: str
    images: dict[str, int]
    boxes: BoxCounts
    labels: list[LabelCounts]
    relabelled: list[Relabelling]
    score_shift: Spread | None
    iou: Spread | None
    latency_ms: Latencies | None


class ShadowReport(TypedDict):
    """What one gateway has seen since it started; a new candidate of a model begins anew."""

    comparisons: list[Comparison]


@dataclass(frozen=True, slots=True)
class Agreement:
    """The boxes of one image, matched.

    Attributes:
        counts: boxes by (class id, outcome); of relabelled ones the served class.
        relabelled: boxes by (served class id, candidate's class id), where these differ.
        score_shifts: for each agreed box, the candidate's score less the served one, in [-1, 1].
        ious: for each agreed box, in [`MIN_IOU`, 1].
    """

    counts: Counter[tuple[int, Outcome]]
    relabelled: Counter[tuple[int, int]]
    score_shifts: tuple[float, ...]
    ious: tuple[float, ...]


def match(served: Detections, candidate: Detections) -> list[tuple[int, int, float]]:
    """Pairs (index among `served`, index among `candidate`, IoU) of boxes that mean one object, of whatever class.

    One to one and greedily: the pair that overlaps most is taken first. Where two overlap alike to a hundredth, the
    one of equal class goes first: a box may stand there once for each of several classes.
    """
    if not (len(served) and len(candidate)):
        return []
    overlaps = boxes.iou(served.xyxy, candidate.xyxy)
    is_alike = served.class_ids[:, np.newaxis] == candidate.class_ids
    i, j = np.nonzero(overlaps >= MIN_IOU)
    best_first = np.lexsort((-overlaps[i, j], ~is_alike[i, j], -overlaps[i, j].round(_IOU_DIGITS)))
    pairs: list[tuple[int, int, float]] = []
    taken: tuple[set[int], set[int]] = set(), set()
    for one, other in zip(i[best_first].tolist(), j[best_first].tolist(), strict=True):
        if one not in taken[0] and other not in taken[1]:
            taken[0].add(one)
            taken[1].add(other)
            pairs.append((one, other, float(overlaps[one, other])))
    return pairs


def agreement(served: Detections, candidate: Detections) -> Agreement:
    """How far what a candidate found in an image agrees with what was served; boxes of both in the same pixels."""
    pairs = match(served, candidate)
    classes, candidate_classes = served.class_ids.tolist(), candidate.class_ids.tolist()
    agreed = [(i, j, iou) for i, j, iou in pairs if classes[i] == candidate_classes[j]]
    relabelled = Counter((classes[i], candidate_classes[j]) for i, j, _ in pairs if classes[i] != candidate_classes[j])
    missing = set(range(len(served))) - {i for i, _, _ in pairs}
    extra = set(range(len(candidate))) - {j for _, j, _ in pairs}
    counts = Counter((classes[i], Outcome.AGREED) for i, _, _ in agreed)
    counts += Counter((classes[i], Outcome.MISSING) for i in missing)
    counts += Counter((candidate_classes[j], Outcome.EXTRA) for j in extra)
    for (class_id, _), number in relabelled.items():
        counts[class_id, Outcome.RELABELLED] += number
    return Agreement(
        counts=counts,
        relabelled=relabelled,
        score_shifts=tuple(float(candidate.scores[j] - served.scores[i]) for i, j, _ in agreed),
        ious=tuple(iou for _, _, iou in agreed),
    )


@dataclass(slots=True)
class _Values:
    """Numbers as they come: the mean of all, and the latest for quantiles."""

    count: int = 0
    total: float = 0.0
    latest: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    def add(self, values: Iterable[float]) -> None:
        for value in values:
            self.count += 1
            self.total += value
            self.latest.append(value)

    def join(self, others: _Values) -> None:
        self.count += others.count
        self.total += others.total
        self.latest = deque([*self.latest, *others.latest])  # the latest of each

    def spread(self) -> Spread | None:
        if not self.count:
            return None
        values = np.quantile(np.array(self.latest), QUANTILES)
        quantiles = {str(at): round(float(value), 4) for at, value in zip(QUANTILES, values, strict=True)}
        return {"mean": round(self.total / self.count, 4), "quantiles": quantiles}


@dataclass(slots=True)
class Tally:
    """Agreements in sum. Memory is bounded: by the square of the number of labels, and by what quantiles need."""

    counts: Counter[tuple[int, Outcome]] = field(default_factory=Counter)
    relabelled: Counter[tuple[int, int]] = field(default_factory=Counter)
    score_shifts: _Values = field(default_factory=_Values)
    ious: _Values = field(default_factory=_Values)
    served_ms: _Values = field(default_factory=_Values)
    candidate_ms: _Values = field(default_factory=_Values)
    difference_ms: _Values = field(default_factory=_Values)

    def add(self, image: Agreement, served_seconds: float, candidate_seconds: float) -> None:
        """Count one image, and how long inference took both times."""
        self.counts.update(image.counts)
        self.relabelled.update(image.relabelled)
        self.score_shifts.add(image.score_shifts)
        self.ious.add(image.ious)
        self.served_ms.add([served_seconds * 1e3])
        self.candidate_ms.add([candidate_seconds * 1e3])
        self.difference_ms.add([(candidate_seconds - served_seconds) * 1e3])

    def join(self, other: Tally) -> None:
        """Take in the sums of another process; quantiles are then those of the latest values of each."""
        self.counts.update(other.counts)
        self.relabelled.update(other.relabelled)
        self.score_shifts.join(other.score_shifts)
        self.ious.join(other.ious)
        self.served_ms.join(other.served_ms)
        self.candidate_ms.join(other.candidate_ms)
        self.difference_ms.join(other.difference_ms)

    def boxes(self) -> BoxCounts:
        """All boxes."""
        sums = Counter[Outcome]()
        for (_, outcome), number in self.counts.items():
            sums[outcome] += number
        return _box_counts(sums)

    def labels(self, labels: Sequence[str]) -> list[LabelCounts]:
        """The boxes of each label."""
        return [
            {
                "label": label,
                **_box_counts(Counter({outcome: self.counts[class_id, outcome] for outcome in Outcome})),
            }
            for class_id, label in enumerate(labels)
        ]

    def relabellings(self, labels: Sequence[str]) -> list[Relabelling]:
        """The most frequent pairs of labels, the first ones first."""
        return [
            {"served": labels[served], "candidate": labels[candidate], "boxes": number}
            for (served, candidate), number in self.relabelled.most_common(_MOST_PAIRS)
        ]

    def latency_ms(self) -> Latencies | None:
        """How long inference took."""
        served, candidate = self.served_ms.spread(), self.candidate_ms.spread()
        difference = self.difference_ms.spread()
        if served is None or candidate is None or difference is None:
            return None
        return {"served": served, "candidate": candidate, "difference": difference}


def _box_counts(boxes: Counter[Outcome]) -> BoxCounts:
    total = boxes.total()
    return {
        "agreed": boxes[Outcome.AGREED],
        "relabelled": boxes[Outcome.RELABELLED],
        "missing": boxes[Outcome.MISSING],
        "extra": boxes[Outcome.EXTRA],
        "agreement": round(boxes[Outcome.AGREED] / total, 4) if total else None,
    }
