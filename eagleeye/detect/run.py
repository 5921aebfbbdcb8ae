"""The run itself: pictures to the gateway, answers to the output, and how many there were."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from eagleeye import EagleEyeError
from eagleeye.detect.pictures import Failure, Picture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from eagleeye import Client, Detections
    from eagleeye.detect.progress import Progress
    from eagleeye.detect.target import Target

Outcome: TypeAlias = "Detections | EagleEyeError"
Ask: TypeAlias = "Callable[[Iterator[bytes]], Iterator[Outcome]]"
"""Asks about encoded images, a few at a time, and gives what came of each, in order."""

ENDING: Final = frozenset(
    {"unreachable", "unauthorized", "model_not_found", "not_found", "invalid_parameter", "triton_unavailable"}
)
"""Codes of errors that the next picture would meet as well; others are about one picture."""


@dataclass(slots=True)
class Tally:
    """What came of the pictures so far."""

    done: int = 0
    failed: int = 0
    detections: int = 0


def ask_one_by_one(client: Client, query: dict[str, Any]) -> Ask:
    """One request for each image, as many at a time as the client sends."""
    return lambda images: client.detect_many(images, return_errors=True, **query)


def ask_as_stream(client: Client, query: dict[str, Any]) -> Ask:
    """One gRPC stream for all images."""

    def ask(images: Iterator[bytes]) -> Iterator[Outcome]:
        for frame in client.stream(images, **query):
            outcome = frame.detections if frame.error is None else frame.error
            assert outcome is not None  # noqa: S101 (a frame has one of the two)
            yield outcome

    return ask


def detect_all(
    pictures: Iterable[Picture],
    ask: Ask,
    target: Target,
    tally: Tally,
    progress: Progress,
    *,
    in_one: Callable[[], AbstractContextManager[None]],
) -> None:
    """Asks about all pictures and writes what came of them, in order; what fails alone is told and passed over.

    A picture is written and counted `in_one` block.

    Raises:
        EagleEyeError: no further picture can be answered.
        OSError: the output cannot be written any more.
    """
    for picture, outcome in _answers(pictures, ask):
        with in_one():
            _write(picture, outcome, target, tally, progress)
        progress.advance()


def _write(picture: Picture, outcome: Detections | Failure, target: Target, tally: Tally, progress: Progress) -> None:
    try:
        if isinstance(outcome, Failure):
            raise outcome
        if warning := target.answered(f"{outcome.model}/{outcome.version}"):
            progress.say(f"Warning: {warning}")
        target.output.write(picture, outcome)
    except Failure as failure:
        tally.failed += 1
        progress.say(f"{picture}: {failure}")
        target.output.fail(picture, failure)
    else:
        tally.done += 1
        tally.detections += len(outcome)


def _answers(pictures: Iterable[Picture], ask: Ask) -> Iterator[tuple[Picture, Detections | Failure]]:
    """Each picture with what came of it; only as many are held as are on their way."""
    waiting = deque[Picture]()

    def images() -> Iterator[bytes]:
        for picture in pictures:
            waiting.append(picture)
            if not isinstance(picture.data, Failure):
                yield picture.data

    for outcome in ask(images()):
        while isinstance(waiting[0].data, Failure):
            yield _unsent(waiting)
        yield waiting.popleft(), _judge(outcome)
    while waiting:
        yield _unsent(waiting)


def _unsent(waiting: deque[Picture]) -> tuple[Picture, Failure]:
    picture = waiting.popleft()
    assert isinstance(picture.data, Failure)  # noqa: S101 (what was sent has been answered)
    return picture, picture.data


def _judge(outcome: Outcome) -> Detections | Failure:
    """The detections, or an error of this picture alone.

    Raises:
        EagleEyeError: the error is of all that would follow.
    """
    if not isinstance(outcome, EagleEyeError):
        return outcome
    if outcome.code in ENDING:
        raise outcome
    return Failure(str(outcome).removeprefix(f"{outcome.code}: "), outcome.code, outcome.request_id)
