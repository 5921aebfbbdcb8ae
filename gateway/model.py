"""What the core must know about a served detector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.resize import ResizeMode


@dataclass(frozen=True, slots=True)
class Model:
    """One detector as Triton serves it; every fact comes from Triton's model config.

    Attributes:
        name: the model's name in Triton.
        versions: the versions that are ready, ascending, never empty.
        input_wh: width and height of the input in pixels.
        candidates: K, how many (anchor, class) pairs leave Triton per image.
        labels: class names by class id.
        resize: how an image becomes the input.
        score_threshold: used when the caller names none.
        iou_threshold: used when the caller names none.
        facts: further parameters for people, such as variant, precision or measured mAP.
    """

    name: str
    versions: tuple[int, ...]
    input_wh: tuple[int, int]
    candidates: int
    labels: tuple[str, ...]
    resize: ResizeMode
    score_threshold: float
    iou_threshold: float
    facts: dict[str, str]

    @property
    def latest(self) -> int:
        """The version that serves a caller who names none."""
        return self.versions[-1]
