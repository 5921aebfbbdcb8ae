"""The labels file: one class name per line, in the order of the model's classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from export.errors import OptionError

if TYPE_CHECKING:
    from pathlib import Path


def read_labels(path: Path) -> tuple[str, ...]:
    """The class names in `path`, UTF-8; blank lines at its end do not count.

    Raises:
        OptionError: no such file, not text, no label at all, an empty line in between, or a name that occurs twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise OptionError(f"cannot read the labels file {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise OptionError(f"the labels file {path} is not UTF-8 text") from error
    lines = [line.strip() for line in text.rstrip().split("\n")]
    first_seen: dict[str, int] = {}
    for number, label in enumerate(lines, start=1):
        if not label or not label.isprintable():
            raise OptionError(f"the labels file {path} has no readable label in line {number}")
        if label in first_seen:
            raise OptionError(f"the labels file {path} has {label!r} twice, in lines {first_seen[label]} and {number}")
        first_seen[label] = number
    return tuple(lines)
