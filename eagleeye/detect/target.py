"""Opens an output: new, over an old one, or where an interrupted run stopped."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from eagleeye.detect import rows
from eagleeye.detect.journal import Journal, JournalError
from eagleeye.detect.outputs import Coco, Csv, Format, Images, JsonLines, Output, Video, drawn_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from eagleeye.detect.inputs import Source
    from eagleeye.detect.rows import Key

_URL: Final = "url"
_ANSWERED_BY: Final = "answered_by"
_FINISHED: Final = {Format.JSONL: rows.finished_json, Format.CSV: rows.finished_csv}


class TargetError(Exception):
    """The output cannot be had; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user wants to have.

    Attributes:
        form: the format.
        path: the file or folder; None is standard output.
        resume: go on with what is there.
        overwrite: replace what is there.
        fps: frames per second of a video that is written; None for other formats.
    """

    form: Format
    path: Path | None
    resume: bool = False
    overwrite: bool = False
    fps: float | None = None


@dataclass(slots=True)
class Target:
    """An open output.

    Attributes:
        output: takes the answers.
        done: the pictures that it has already.
        journal: notes for a later run; None where none can go on.
        answered_by: the models, as name/version, that the answers come from.
        notes: what the user should know, a line each.
        is_void: nothing came of the run, so that a new output shall not stay.
    """

    output: Output
    done: set[Key] = field(default_factory=set)
    journal: Journal | None = None
    answered_by: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    is_void: bool = False

    def answered(self, model: str) -> str | None:
        """Remembers who answered; gives a warning for the first answer of a second model."""
        if model in self.answered_by:
            return None
        others = ", ".join(sorted(self.answered_by))
        self.answered_by.add(model)
        if self.journal:
            self.journal.note(_ANSWERED_BY, model)
        return f"answers of {others} and of {model} are mixed; name one with --model and --version" if others else None


@contextlib.contextmanager
def opened(
    wanted: Wanted, settings: Mapping[str, Any], url: str, labels: Mapping[str, Sequence[str]]
) -> Iterator[Target]:
    """An output that is ready to be written to.

    Args:
        wanted: which one; `check_place` has no objection.
        settings: what all answers of it must have been asked for with.
        url: the gateway's address, which may change between two runs.
        labels: class names of each model, by class id.

    Raises:
        TargetError: it was begun with other settings, or another run is writing it.
        OSError: it cannot be read or written.
    """
    if wanted.path is None:
        yield Target(_lines(wanted.form, sys.stdout.buffer, is_new=True))
    elif wanted.form is Format.VIDEO:
        with _video(wanted.path, wanted.fps or 0.0) as output:
            yield Target(output)
    else:
        try:
            with Journal(_journal_path(wanted.path)) as journal:
                before = journal.go_on(settings) if wanted.resume and journal.begun else None
                with _kept(wanted, wanted.path, journal, labels, goes_on=before is not None) as target:
                    if before is None:
                        journal.start({**settings, _URL: url})
                    elif before.get(_URL) != url:
                        target.notes.append(f"{wanted.path} was begun with {before.get(_URL)}")
                    yield target
                if before is None and target.is_void:
                    _remove(wanted.path, journal)
        except JournalError as error:
            raise TargetError(f"cannot go on with {wanted.path}: {error}") from error


@contextlib.contextmanager
def _video(path: Path, fps: float) -> Iterator[Output]:
    from eagleeye.detect.video import VideoWriter  # noqa: PLC0415 (OpenCV, which other formats do not need)

    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield Video(path, VideoWriter(partial, fps))
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _kept(
    wanted: Wanted, path: Path, journal: Journal, labels: Mapping[str, Sequence[str]], *, goes_on: bool
) -> Iterator[Target]:
    """An output of a format that can go on, and what an earlier run has put there."""
    answered_by = set(journal.read(_ANSWERED_BY)) if goes_on else set()
    if wanted.form is Format.COCO:
        yield Target(Coco(path, journal, labels), Coco.done(journal) if goes_on else set(), journal, answered_by)
    elif wanted.form is Format.IMAGES:
        path.mkdir(exist_ok=True)
        yield Target(Images(path, journal), Images.done(journal) if goes_on else set(), journal, answered_by)
    else:
        done = rows.recover(path, _FINISHED[wanted.form]) if goes_on and path.exists() else set()
        with path.open("ab" if goes_on else "wb") as file:
            yield Target(_lines(wanted.form, file, is_new=file.tell() == 0), done, journal, answered_by)


def _remove(path: Path, journal: Journal) -> None:
    """Takes away what was made for nothing."""
    with contextlib.suppress(OSError):  # a folder that has something in it
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
    journal.path.unlink()


def _lines(form: Format, file: BinaryIO, *, is_new: bool) -> Output:
    return Csv(file, is_new=is_new) if form is Format.CSV else JsonLines(file)


def check_place(wanted: Wanted, inputs: Iterable[Source]) -> None:
    """Makes sure that the output can be written where it shall be, and that nothing is lost by it.

    Raises:
        TargetError: it cannot.
        OSError: its folder cannot be read.
    """
    path = wanted.path
    if path is None:
        return
    if not path.parent.is_dir():
        raise TargetError(f"cannot write {path}: there is no folder {path.parent}")
    if wanted.form is Format.IMAGES and path.exists() and not path.is_dir():
        raise TargetError(f"{path} is a file; annotated images need a folder")
    if wanted.form is not Format.IMAGES and path.is_dir():
        raise TargetError(f"{path} is a folder; name the file to write")
    if wanted.form is not Format.IMAGES and path.exists() and not path.is_file():
        raise TargetError(f"{path} is not a regular file; without --output, results go to standard output")
    _check_inputs_stay(wanted, path, inputs)
    _check_begun(wanted, path)


def _check_inputs_stay(wanted: Wanted, path: Path, inputs: Iterable[Source]) -> None:
    if not path.exists():
        return
    files = [source for source in inputs if source.path is not None]
    written = [path / drawn_name(source.relative) for source in files] if wanted.form is Format.IMAGES else [path]
    lost = {os.path.realpath(each) for each in written} & {os.path.realpath(str(source.path)) for source in files}
    if lost:
        raise TargetError(f"{min(lost)} is an input and would be overwritten; write somewhere else")


def _check_begun(wanted: Wanted, path: Path) -> None:
    is_there = any(path.iterdir()) if path.is_dir() else path.exists()
    begun = _journal_path(path).exists()
    if wanted.resume and is_there and not begun:
        raise TargetError(
            f"cannot go on with {path}: {_journal_path(path)}, which told what it was begun with, is gone; "
            "--overwrite begins anew"
        )
    if (is_there or begun) and not (wanted.resume or wanted.overwrite):
        state = "exists" if is_there else "was begun"
        raise TargetError(f"{path} {state}; --resume goes on with it, --overwrite replaces it")


def _journal_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.run")
