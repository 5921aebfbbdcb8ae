"""One run from the first question to its exit code: everything is opened here, and every way to end is told here."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from eagleeye import EagleEyeError, streams
from eagleeye.connection import NOTHING_DONE, NothingDone
from eagleeye.detect.interrupts import Interrupts
from eagleeye.detect.outputs import Format
from eagleeye.detect.pictures import read_pictures
from eagleeye.detect.progress import Progress
from eagleeye.detect.run import Tally, ask_as_stream, ask_one_by_one, detect_all
from eagleeye.detect.target import Target, TargetError, Wanted, check_place, opened

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from eagleeye import Client
    from eagleeye.connection import Connection
    from eagleeye.detect.inputs import Source, Sources
    from eagleeye.detect.rows import Key

ALL_DONE: Final = 0
SOME_FAILED: Final = 1
INTERRUPTED: Final = 130
"""As a shell tells of a program that SIGINT ended."""
NOBODY_READS: Final = 141
"""As a shell tells of a program that SIGPIPE ended."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be looked at and how, as the options say.

    Attributes:
        connection: to the gateway.
        sources: where the pictures are.
        wanted: the output.
        query: what the gateway is asked, by the client's names.
        every: N, to take each N-th frame of a video.
        concurrency: requests at a time.
    """

    connection: Connection
    sources: Sources
    wanted: Wanted
    query: dict[str, Any]
    every: int
    concurrency: int

    @property
    def settings(self) -> dict[str, Any]:
        """What all answers of one output must have in common."""
        asked = {name: value for name, value in self.query.items() if name != "priority"}  # says when, and not what
        settings = {"format": str(self.wanted.form), **asked, "every": self.every}
        return {**settings, "folder": str(self.sources.root)} if self.wanted.form is Format.IMAGES else settings


def carry_out(plan: Plan) -> int:
    """Looks at everything, tells on standard error what came of it, and gives the exit code.

    Raises:
        NothingDone: it could not begin.
    """
    tally = Tally()
    try:
        check_place(plan.wanted, plan.sources.files)
        labels = _labels(plan.connection)
        with (
            plan.connection.client(concurrency=plan.concurrency) as client,
            opened(plan.wanted, plan.settings, plan.connection.url, labels) as target,
        ):
            stopped = _detect(plan, client, target, tally)
            target.is_void = stopped is not None and not tally.done + tally.failed
            if not target.is_void or target.done:
                target.output.finish()
    except (TargetError, EagleEyeError) as error:
        raise NothingDone(str(error)) from error
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        streams.silence(sys.stdout)
        return NOBODY_READS
    except OSError as error:
        if plan.wanted.path is None:
            streams.silence(sys.stdout)
        click.echo(f"Error: cannot write {_written(plan.wanted, error)}: {error.strerror or error}", err=True)
        return SOME_FAILED if tally.done else NOTHING_DONE
    if not target.is_void:
        _sum_up(plan, target, tally)
    return _end(stopped, target, tally)


def _labels(connection: Connection) -> dict[str, tuple[str, ...]]:
    """Class names of each model that is served; asked once, so that no run begins with a gateway that is not there.

    Raises:
        EagleEyeError: the gateway does not say.
    """
    with connection.client(max_attempts=1) as client:
        return {model.name: model.labels for model in client.models()}


def _detect(plan: Plan, client: Client, target: Target, tally: Tally) -> KeyboardInterrupt | EagleEyeError | None:
    """Looks at what is not done yet; gives the reason if it had to stop."""
    for note in target.notes:
        click.echo(f"Note: {note}", err=True)
    # rows that scroll by on the same screen are progress enough
    has_bar = sys.stderr.isatty() and not (plan.wanted.path is None and sys.stdout.isatty())
    total = _total(plan.sources.files, plan.every, target.done) if has_bar else None
    with Progress.shown(total, is_wanted=has_bar) as progress, Interrupts() as interrupts:
        # a reader of standard output may take its time, and `less` is left by Ctrl-C
        in_one = nullcontext if plan.wanted.path is None else interrupts.held_back
        try:
            for is_video, pictures in read_pictures(plan.sources.files, plan.every, target.done):
                ask = ask_as_stream if is_video and plan.connection.is_grpc else ask_one_by_one
                detect_all(pictures, ask(client, plan.query), target, tally, progress, in_one=in_one)
        except (KeyboardInterrupt, EagleEyeError) as stop:
            return stop
    return None


def _total(sources: Iterable[Source], every: int, done: Container[Key]) -> int | None:
    """How many pictures there are to look at; None if a video does not say."""
    total = 0
    for source in sources:
        count: int | None = 1
        if source.is_video and source.path is not None:
            from eagleeye.detect.video import count_frames  # noqa: PLC0415 (OpenCV, which images do not need)

            count = count_frames(source.path, every)
        if count is None:
            return None
        frames = range(0, count * every, every) if source.is_video else (None,)
        total += sum((source.name, frame) not in done for frame in frames)
    return total


def _written(wanted: Wanted, error: OSError) -> str:
    return str(error.filename or wanted.path or "standard output")


def _sum_up(plan: Plan, target: Target, tally: Tally) -> None:
    seen = tally.done + tally.failed
    parts = [f"{tally.done} of {seen} images done, {tally.detections} detections"]
    parts += [f"{tally.failed} failed"] * (tally.failed > 0)
    parts += [f"{len(target.done)} were done before"] * bool(target.done)
    parts += [f"written to {path}" for path in [plan.wanted.path] if path is not None and path.exists()]
    click.echo("; ".join(parts), err=True)


def _end(stopped: KeyboardInterrupt | EagleEyeError | None, target: Target, tally: Tally) -> int:
    """The exit code, after a line about an end that came too early."""
    go_on = "; the same command with --resume goes on" if target.journal else ""
    if isinstance(stopped, KeyboardInterrupt):
        click.echo(f"interrupted{go_on}", err=True)
        return INTERRUPTED
    if stopped is not None:
        click.echo(f"Error: {stopped}{go_on}", err=True)
        return SOME_FAILED if tally.done else NOTHING_DONE
    return SOME_FAILED if tally.failed else ALL_DONE
