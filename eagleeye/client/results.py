"""What the gateway answers, as the caller gets it: the same objects over REST and gRPC."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from eagleeye.client.errors import EagleEyeError

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """The objects found in one image, best first.

    Attributes:
        xyxy: float32 (N, 4), x1 y1 x2 y2 in pixels of the image as it was sent, upright by its EXIF orientation.
        scores: float32 (N,) in [0, 1], descending.
        class_ids: int32 (N,), 0-based.
        labels: the N class names.
        image_wh: width and height of the image in pixels.
        model: name of the model that found them.
        version: its version.

    Raises:
        ValueError: the arrays do not belong together, or hold a number that is not finite.
    """

    xyxy: FloatArray
    scores: FloatArray
    class_ids: IntArray
    labels: tuple[str, ...]
    image_wh: tuple[int, int]
    model: str
    version: str

    def __post_init__(self) -> None:
        n = len(self.labels)
        _expect("xyxy", self.xyxy, np.float32, (n, 4))
        _expect("scores", self.scores, np.float32, (n,))
        _expect("class_ids", self.class_ids, np.int32, (n,))
        if not (np.isfinite(self.xyxy).all() and np.isfinite(self.scores).all()):
            raise ValueError("xyxy and scores must be finite numbers")

    def __len__(self) -> int:
        return len(self.labels)

    def to_supervision(self) -> Any:
        """The same objects as `supervision.Detections`, with the class names as `data["class_name"]`.

        Raises:
            ModuleNotFoundError: the extra `supervision` is not installed.
        """
        try:
            import supervision  # noqa: PLC0415 an extra, and large
        except ModuleNotFoundError as error:
            raise missing_extra(error, "supervision") from error
        return supervision.Detections(
            xyxy=self.xyxy.copy(),
            confidence=self.scores.copy(),
            class_id=self.class_ids.copy(),
            data={"class_name": np.array(self.labels, dtype=str)},
        )


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One model as the gateway describes it.

    Attributes:
        name: its name.
        versions: the versions that are served, ascending.
        labels: class names by class id.
        input_wh: width and height of its input in pixels; images of any size are resized to it.
        score_threshold: used where a caller names none.
        iou_threshold: used where a caller names none.
        facts: what else is known, such as variant, precision or measured mAP.
    """

    name: str
    versions: tuple[str, ...]
    labels: tuple[str, ...]
    input_wh: tuple[int, int]
    score_threshold: float
    iou_threshold: float
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the gateway works.

    Attributes:
        live: its process answers.
        ready: it serves a model and is not shutting down.
    """

    live: bool
    ready: bool


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """What came of one frame of a stream.

    Attributes:
        index: the frame's place among those given, from 0.
        detections: what was found; None if there is an error.
        error: why there are none; the stream goes on. None if there are.
        dropped: how many frames a newer one replaced since the answer before; 0 unless the stream is `latest`.
    """

    index: int
    detections: Detections | None
    error: EagleEyeError | None
    dropped: int


def missing_extra(error: ModuleNotFoundError, extra: str) -> ModuleNotFoundError:
    """The error for a package that an extra of this distribution brings, in one line that helps."""
    package = (error.name or "").partition(".")[0]
    return ModuleNotFoundError(
        f"this needs the Python package {package!r}, which is not installed: pip install 'eagleeye[{extra}]'",
        name=package,
    )


def _expect(name: str, array: NDArray[np.generic], dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{name} must be {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}")
