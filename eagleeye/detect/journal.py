"""What a run notes beside its output, so that a later one can go on with it and never mixes settings."""

from __future__ import annotations

import fcntl
from typing import TYPE_CHECKING, Any, Final, Self

from eagleeye.detect.rows import json_line, read_json_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_SETTINGS: Final = "settings"


class JournalError(Exception):
    """The output belongs to a run that this one cannot go on with; the message is one line for the user."""


class Journal:
    """A file of notes, one JSON object a line: `{kind: value}`. Whoever has it open is the only one to write."""

    def __init__(self, path: Path) -> None:
        """Opens the journal, which may be there.

        Raises:
            JournalError: another run has it open.
            OSError: it cannot be written.
        """
        self.path = path
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise JournalError("another run is writing it") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def begun(self) -> bool:
        """Whether an earlier run has left notes."""
        return self.path.stat().st_size > 0

    def start(self, settings: Mapping[str, Any]) -> None:
        """Forgets an earlier run and notes the settings of this one."""
        self._file.truncate(0)
        self.note(_SETTINGS, dict(settings))

    def go_on(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Makes sure that the settings are those of the earlier run, which it returns.

        Raises:
            JournalError: they differ, or the journal does not say.
        """
        before = next(self.read(_SETTINGS), None)
        if not isinstance(before, dict):
            raise JournalError(f"{self.path}, which would say with which settings it was begun, is missing or damaged")
        changed = [name for name in settings if before.get(name) != settings[name]]
        if changed:
            told = ", ".join(f"{name} was {_said(before.get(name))}, now {_said(settings[name])}" for name in changed)
            raise JournalError(f"it was begun with other settings: {told}")
        self._end_line()
        return before

    def note(self, kind: str, value: Any) -> None:
        """Adds a note, which outlives this process from then on."""
        self._file.write(json_line({kind: value}))
        self._file.flush()

    def read(self, kind: str) -> Iterator[Any]:
        """The values of all notes of a kind, oldest first."""
        with self.path.open("rb") as lines:
            for line in lines:
                note = read_json_line(line)
                if isinstance(note, dict) and kind in note:
                    yield note[kind]

    def _end_line(self) -> None:
        """Ends a line that was torn, so that the next note has one of its own."""
        size = self._file.seek(0, 2)
        self._file.seek(max(0, size - 1))
        if self._file.read(1) not in {b"", b"\n"}:
            self._file.write(b"\n")
            self._file.flush()


def _said(value: Any) -> str:
    return "not given" if value is None else str(value)
