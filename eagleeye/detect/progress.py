"""How far a run is, for a person at a terminal."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any, Self

import click

if TYPE_CHECKING:
    from collections.abc import Iterator


class Progress:
    """A bar with rate and time left on standard error, and lines of text above it."""

    def __init__(self, bar: Any = None) -> None:
        self._bar = bar

    @classmethod
    @contextlib.contextmanager
    def shown(cls, total: int | None, *, is_wanted: bool) -> Iterator[Self]:
        """A progress whose bar is on the screen if it is wanted; `total` is None where nobody knows."""
        if not is_wanted:
            yield cls()
            return
        from tqdm import tqdm  # noqa: PLC0415 (only a terminal needs it)

        with tqdm(total=total, unit=" images", file=sys.stderr, dynamic_ncols=True, leave=False) as bar:
            yield cls(bar)

    def advance(self) -> None:
        """One picture more is done."""
        if self._bar is not None:
            self._bar.update()

    def say(self, line: str) -> None:
        """Writes a line to standard error."""
        if self._bar is None:
            click.echo(line, err=True)
        else:
            self._bar.write(line, file=sys.stderr)
