"""What a caller may ask for beside the image: the same names, ranges and messages on every face.

A face hands over texts. One that gets typed values writes them out, which is exact, so that all faces read alike.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from gateway import access
from gateway.detector import Query
from gateway.errors import InvalidParameter
from gateway.priority import Priority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

NAMES: Final = (
    "score_threshold",
    "iou_threshold",
    "max_detections",
    "classes",
    "agnostic_nms",
    "clip",
    "timeout_ms",
    "priority",
)
"""The parameters of a request; how it names the model and its version is up to the face."""

MAX_TIMEOUT_MS: Final = 600_000

_NUMBERS_AND_FLAGS: Final = {
    "score_threshold": "a number",
    "iou_threshold": "a number",
    "max_detections": "a whole number",
    "timeout_ms": "a number",
    "timeout": "a whole number",
    "agnostic_nms": "true or false",
    "clip": "true or false",
}
"""What a JSON value must be that is not a text."""
_JSON_NAMES: Final = {str: "a text", list: "a list", dict: "an object", type(None): "null"}


def refuse_unknown(names: Iterable[str], allowed: tuple[str, ...]) -> None:
    """Stop a misspelt parameter, which would be ignored otherwise.

    Raises:
        InvalidParameter: a name is not among those allowed, which the message lists.
    """
    for name in names:
        if name not in allowed:
            raise InvalidParameter(f"there is no parameter {name[:100]!r}; allowed are {', '.join(allowed)}")


def read(texts: Mapping[str, str]) -> tuple[Query, float | None]:
    """The query, and the timeout in seconds if one is given; of `texts` only `NAMES`, `model` and `version` count.

    Raises:
        InvalidParameter: a bad value; the message says what is allowed.
    """
    values = {name: _read(name, texts[name]) for name in _READERS if name in texts}
    timeout_ms = values.pop("timeout_ms", None)
    priority = access.permitted_priority(values.pop("priority", None))
    return Query(**values, priority=priority), None if timeout_ms is None else timeout_ms / 1e3


def written(name: str, value: Any) -> str:
    """A parameter's JSON value as `read` takes it.

    Raises:
        InvalidParameter: a value that no such parameter has; the message says what is allowed.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(int(value) if value == int(value) else value)
    if isinstance(value, str) and name not in _NUMBERS_AND_FLAGS:
        return value
    if name == "classes" and isinstance(value, list):
        entries = [str(entry) for entry in value if isinstance(entry, str | int) and "," not in str(entry)]
        if len(entries) == len(value):
            return ",".join(entries)
        raise InvalidParameter("classes must be ids or labels; a label with a comma is named by its id")
    allowed = _NUMBERS_AND_FLAGS.get(name, "a text")
    raise InvalidParameter(f"{name[:100]} must be {allowed}, not {_JSON_NAMES[type(value)]}")


def _read(name: str, text: str) -> Any:
    read_text, allowed = _READERS[name]
    try:
        return read_text(text)
    except (ValueError, KeyError):
        raise InvalidParameter(f"{name} is {text[:100]!r}; it must be {allowed}") from None


def _name(text: str) -> str:
    if not text:
        raise ValueError
    return text


def whole(text: str) -> int:
    """A whole number from 0.

    Raises:
        ValueError: it is none.
    """
    if not (text.isascii() and text.isdecimal()):  # int() would also take "1_000" and other scripts' digits
        raise ValueError
    return int(text)


def _flag(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def _version(text: str) -> int:
    version = whole(text)
    if version < 1:
        raise ValueError
    return version


def _finite(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and text.isascii() and "_" not in text):  # float() takes "1_0" and other digits, too
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


_READERS: Final[dict[str, tuple[Callable[[str], Any], str]]] = {
    "timeout_ms": (_timeout, f"a number of milliseconds, 1 to {MAX_TIMEOUT_MS}"),
    "max_detections": (whole, "a whole number"),
    "clip": (_flag, "true or false"),
    "model": (_name, "the name of a model"),
    "version": (_version, "a whole number from 1"),
    "score_threshold": (_finite, "a number between 0 and 1"),
    "iou_threshold": (_finite, "a number between 0 and 1"),
    "classes": (_classes, "ids or labels, separated by commas"),
    "agnostic_nms": (_flag, "true or false"),
    "priority": (Priority, f"one of {', '.join(Priority)}"),
}
"""How each parameter's text is read, and what it must be, in the order in which they are checked."""
