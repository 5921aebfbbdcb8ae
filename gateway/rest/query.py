"""The query string of `/v1/detect` -> `Query` and `Deadline`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, TypeVar

from gateway.deadline import Deadline
from gateway.detector import Query
from gateway.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Callable

    from multidict import MultiMapping

T = TypeVar("T")

_KNOWN: Final = (
    "model", "version", "score_threshold", "iou_threshold", "max_detections", "classes", "timeout_ms",
)  # fmt: skip
_MAX_TIMEOUT_MS: Final = 600_000


def parse(parameters: MultiMapping[str], default_timeout_seconds: float) -> tuple[Query, Deadline]:
    """Read and check every parameter. The deadline's clock starts here.

    Raises:
        InvalidParameter: an unknown name, a name given twice, or a bad value; the message says what is allowed.
    """
    for name in set(parameters):
        if name not in _KNOWN:
            raise InvalidParameter(f"there is no parameter {name!r}; allowed are {', '.join(_KNOWN)}")
        if len(parameters.getall(name)) > 1:
            raise InvalidParameter(f"{name} is given more than once")
    timeout_ms = _get(parameters, "timeout_ms", _timeout, f"a number of milliseconds, 1 to {_MAX_TIMEOUT_MS}")
    max_detections = _get(parameters, "max_detections", _whole, "a whole number")
    query = Query(
        model=_get(parameters, "model", _name, "the name of a model"),
        version=_get(parameters, "version", _version, "a whole number from 1"),
        score_threshold=_get(parameters, "score_threshold", _finite, "a number between 0 and 1"),
        iou_threshold=_get(parameters, "iou_threshold", _finite, "a number between 0 and 1"),
        classes=_get(parameters, "classes", _classes, "ids or labels, separated by commas"),
        **({} if max_detections is None else {"max_detections": max_detections}),
    )
    return query, Deadline.after(default_timeout_seconds if timeout_ms is None else timeout_ms / 1e3)


def _get(parameters: MultiMapping[str], name: str, read: Callable[[str], T], allowed: str) -> T | None:
    text = parameters.get(name)
    if text is None:
        return None
    try:
        return read(text)
    except ValueError:
        raise InvalidParameter(f"{name} is {text[:100]!r}; it must be {allowed}") from None


def _name(text: str) -> str:
    if not text:
        raise ValueError
    return text


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):  # int() would also take "1_000" and other scripts' digits
        raise ValueError
    return int(text)


def _version(text: str) -> int:
    version = _whole(text)
    if version < 1:
        raise ValueError
    return version


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _timeout(text: str) -> float:
    value = _finite(text)
    if not 1 <= value <= _MAX_TIMEOUT_MS:
        raise ValueError
    return value


def _classes(text: str) -> tuple[str, ...]:
    classes = tuple(entry.strip() for entry in text.split(","))
    if not all(classes):
        raise ValueError
    return classes
