"""What a caller asks for: one image and the options, checked before anything is sent."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

    Image: TypeAlias = bytes | bytearray | memoryview | os.PathLike[str]
    """One encoded image: its bytes, or the file that holds them."""

PRIORITIES: Final = ("high", "normal", "low")
"""How urgent an image may be to the gateway, the most urgent first."""
MAX_TIMEOUT_MS = 600_000
"""The longest wait that the gateway takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """The options of a request; None leaves a choice to the gateway.

    Attributes:
        model: the model to ask; by default the only one.
        version: its version; by default the one that the gateway's rollout chooses.
        score_threshold: detections score more than this, 0 to 1.
        iou_threshold: of two boxes of one class that overlap more, the better one stays, 0 to 1.
        max_detections: the most to report, from 1.
        classes: labels or class ids to report.
        agnostic_nms: whether boxes of different classes suppress each other as well.
        clip: whether boxes end at the border of the image; if not, they are as the model gives them.
        priority: one of `PRIORITIES`; the key says how much is allowed.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: an option is out of its range.
    """

    model: str | None = None
    version: int | str | None = None
    score_threshold: float | None = None
    iou_threshold: float | None = None
    max_detections: int | None = None
    classes: str | Iterable[str | int] | None = None
    agnostic_nms: bool | None = None
    clip: bool | None = None
    priority: str | None = None

    def __post_init__(self) -> None:
        _check_model(self.model, self.version)
        for name in ("score_threshold", "iou_threshold"):
            value = getattr(self, name)
            if value is not None and not 0 <= number(name, value) <= 1:
                raise ValueError(f"{name} is {value}; it must be a number from 0 to 1")
        if self.max_detections is not None and whole("max_detections", self.max_detections) < 1:
            raise ValueError(f"max_detections is {self.max_detections}; it must be 1 or more")
        for name in ("agnostic_nms", "clip"):
            if not isinstance(value := getattr(self, name), bool | None):
                raise TypeError(f"{name} must be True or False, not {value!r}")
        _check_priority(self.priority)
        object.__setattr__(self, "classes", _written_classes(self.classes))  # an iterable can be read only once

    def parameters(self) -> dict[str, str]:
        """All that was chosen but model and version, each as the gateway reads it."""
        chosen = {
            "score_threshold": None if self.score_threshold is None else repr(float(self.score_threshold)),
            "iou_threshold": None if self.iou_threshold is None else repr(float(self.iou_threshold)),
            "max_detections": None if self.max_detections is None else str(int(self.max_detections)),
            "classes": self.classes,
            "agnostic_nms": None if self.agnostic_nms is None else str(self.agnostic_nms).lower(),
            "clip": None if self.clip is None else str(self.clip).lower(),
            "priority": self.priority,
        }
        return {name: str(text) for name, text in chosen.items() if text is not None}


def read_image(image: object) -> bytes:
    """The bytes of one encoded image; a file is read.

    Raises:
        OSError: the file can't be read.
        TypeError: it is neither bytes nor a path.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, os.PathLike):
        return Path(image).read_bytes()
    if isinstance(image, str):
        raise TypeError(f"an image is its bytes or a pathlib.Path, not a str; for a file write Path({image[:100]!r})")
    try:
        view = memoryview(image)  # type: ignore[arg-type]  # what is none raises
    except TypeError:
        raise TypeError(f"an image is its bytes or a pathlib.Path, not {type(image).__name__}") from None
    if view.ndim != 1 or view.itemsize != 1:
        raise TypeError(f"an image is given encoded, as JPEG for example, not as an array of shape {view.shape}")
    return view.tobytes()


def seconds(name: str, value: float) -> float:
    """A length of time that is more than none.

    Raises:
        TypeError: it is no number.
        ValueError: it is not positive, or not finite.
    """
    if not (number(name, value) > 0 and math.isfinite(value)):
        raise ValueError(f"{name} is {value}; it must be a positive number of seconds")
    return float(value)


def count(name: str, value: int) -> int:
    """How many of something, 1 or more.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is less than 1.
    """
    if whole(name, value) < 1:
        raise ValueError(f"{name} is {value}; it must be 1 or more")
    return int(value)


def timeout_ms(seconds_left: float) -> str:
    """The time that is left as the gateway reads it: whole milliseconds within its limits."""
    return str(max(1, min(int(seconds_left * 1e3), MAX_TIMEOUT_MS)))


def number(name: str, value: object) -> float:
    """`value` if it is a number.

    Raises:
        TypeError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, not {value!r}")
    return float(value)


def whole(name: str, value: object) -> int:
    """`value` if it is a whole number.

    Raises:
        TypeError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    return int(value)


def _check_model(model: object, version: object) -> None:
    if model is not None and not isinstance(model, str):
        raise TypeError(f"model must be a name, not {model!r}")
    if model == "":
        raise ValueError("model is empty; it must be a name, or None for the only model")
    if version is not None and (isinstance(version, bool) or not isinstance(version, str | Integral)):
        raise TypeError(f"version must be a whole number, not {version!r}")
    if version is not None and not (str(version).isascii() and str(version).isdecimal() and int(version) > 0):
        raise ValueError(f"version is {version!r}; it must be a whole number from 1")


def _check_priority(priority: object) -> None:
    if priority is not None and not isinstance(priority, str):
        raise TypeError(f"priority must be a text, not {priority!r}")
    if priority not in {None, *PRIORITIES}:
        raise ValueError(f"priority is {priority!r}; it must be one of {', '.join(PRIORITIES)}")


def _written_classes(classes: Any) -> str | None:
    """Labels and ids, separated by commas."""
    if classes is None or isinstance(classes, str):
        return classes
    entries = list(classes)
    for entry in entries:
        if isinstance(entry, bool) or not isinstance(entry, str | Integral):
            raise TypeError(f"classes must be labels or class ids, not {entry!r}")
        if "," in str(entry):
            raise ValueError(f"the label {entry!r} has a comma; name the class by its id")
    if not entries:
        raise ValueError("classes is empty; leave it out to report every class")
    return ",".join(map(str, entries))
