"""Whether an answer is the right one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from eagleeye import Detections

SCORE_TOLERANCE: Final = 0.02
"""Batches of other sizes, and pods with other kernels, round differently, but not by so much."""
BOX_TOLERANCE: Final = 0.01
"""Of the image's longer side. Boxes of another image are off by much more."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What was found on one image.

    Attributes:
        labels: the N class names.
        numbers: float32 (N, 5): score, then x1 y1 x2 y2 in pixels.
    """

    labels: tuple[str, ...]
    numbers: NDArray[np.float32]

    @classmethod
    def of_client(cls, detections: Detections) -> Self:
        """From what the Python client gives."""
        return cls(detections.labels, np.column_stack([detections.scores, detections.xyxy]))

    @classmethod
    def of_json(cls, detections: Sequence[dict[str, Any]]) -> Self:
        """From `detections` of the gateway's JSON, or of a line of `eagleeye detect`.

        Raises:
            KeyError, TypeError, ValueError: they are none.
        """
        rows = [(each["score"], *(each["box"][name] for name in ("x1", "y1", "x2", "y2"))) for each in detections]
        return cls(tuple(each["label"] for each in detections), np.array(rows, np.float32).reshape(-1, 5))


@dataclass(frozen=True, slots=True)
class Reference:
    """The right answer to one image.

    Attributes:
        answer: what it is.
        threshold: what scores less is not reported: so near it, a detection may be there or not.
        box_pixels: how far a box's sides may be off.
    """

    answer: Answer
    threshold: float
    box_pixels: float

    def pack(self) -> list[Any]:
        """As JSON has it."""
        return [list(self.answer.labels), self.answer.numbers.tolist(), self.threshold, self.box_pixels]

    @classmethod
    def unpack(cls, packed: list[Any]) -> Self:
        """From what `pack` gave."""
        labels, numbers, threshold, box_pixels = packed
        return cls(Answer(tuple(labels), np.array(numbers, np.float32).reshape(-1, 5)), threshold, box_pixels)

    def is_met_by(self, answer: Answer) -> bool:
        """Whether each detection has its counterpart in the other answer, but for those near the threshold."""
        if answer.labels == self.answer.labels and np.array_equal(answer.numbers, self.answer.numbers):
            return True
        return self._covers(self.answer, answer) and self._covers(answer, self.answer)

    def _covers(self, wanted: Answer, given: Answer) -> bool:
        """Whether what was wanted is there; each of what was given stands for one only."""
        free = np.ones(len(given.labels), bool)
        labels = np.array(given.labels, object)
        for label, numbers in zip(wanted.labels, wanted.numbers, strict=True):
            off = np.abs(given.numbers - numbers)
            near = free & (labels == label) & (off[:, 0] <= SCORE_TOLERANCE) & (off[:, 1:] <= self.box_pixels).all(1)
            if near.any():
                free[int(np.argmin(np.where(near, off.sum(1), np.inf)))] = False
            elif numbers[0] > self.threshold + SCORE_TOLERANCE:
                return False
        return True
