"""What a caller may ask for beside the image: the same names, ranges and messages on every face.

A face hands over texts. One that gets typed values writes them out, which is exact, so that all faces read alike.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, TypeVar

from gateway.detector import Query
from gateway.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

T = TypeVar("T")

NAMES: Final = ("score_threshold", "iou_threshold", "max_detections", "classes", "timeout_ms")
"""The parameters of a request; how it names the model and its version is up to the face."""

MAX_TIMEOUT_MS: Final = 600_000


def refuse_unknown(names: Iterable[str], allowed: tuple[str, ...]) -> None:
    """Stop a misspelt parameter, which would be ignored otherwise.

    Raises:
        InvalidParameter: a name is not among those allowed, which the message lists.
    """
    for name in names:
        if name not in allowed:
            raise InvalidParameter(f"there is no parameter {name[:100]!r}; allowed are {', '.join(allowed)}")


def read(texts: Mapping[str, str]) -> tuple[Query, float | None]:
    """The query, and the timeout in seconds if one is given; `texts` holds `NAMES`, `model` and `version` or fewer.

    Raises:
        InvalidParameter: a bad value; the message says what is allowed.
    """
    timeout_ms = _get(texts, "timeout_ms", _timeout, f"a number of milliseconds, 1 to {MAX_TIMEOUT_MS}")
    max_detections = _get(texts, "max_detections", _whole, "a whole number")
    query = Query(
        model=_get(texts, "model", _name, "the name of a model"),
        version=_get(texts, "version", _version, "a whole number from 1"),
        score_threshold=_get(texts, "score_threshold", _finite, "a number between 0 and 1"),
        iou_threshold=_get(texts, "iou_threshold", _finite, "a number between 0 and 1"),
        classes=_get(texts, "classes", _classes, "ids or labels, separated by commas"),
        **({} if max_detections is None else {"max_detections": max_detections}),
    )
    return query, None if timeout_ms is None else timeout_ms / 1e3


def _get(texts: Mapping[str, str], name: str, read_text: Callable[[str], T], allowed: str) -> T | None:
    text = texts.get(name)
    if text is None:
        return None
    try:
        return read_text(text)
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
    if not 1 <= value <= MAX_TIMEOUT_MS:
        raise ValueError
    return value


def _classes(text: str) -> tuple[str, ...]:
    classes = tuple(entry.strip() for entry in text.split(","))
    if not all(classes):
        raise ValueError
    return classes
