"""Small pieces of Markdown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_BAR_OR_CODE: Final = re.compile(r"`[^`]*`|(?<!\\)\|")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells may hold code and links, and are written on one line."""
    lines = [head, ["---"] * len(head), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(text: str) -> str:
    """A piece of code within a line."""
    return f"`{text}`" if text else ""


def _cell(text: str) -> str:
    """On one line; a bar would begin another column, but within code."""
    return _BAR_OR_CODE.sub(lambda found: r"\|" if found[0] == "|" else found[0], " ".join(text.split()))
