"""The frames of one stream: which is worked on next, which a newer one replaces, and whose answer goes out next.

A sequence is one camera. Its answers go out in the order of its frames; those of different sequences don't wait for
each other. Nothing here waits, and nothing knows a protocol: whoever reads the stream asks, and does what is said.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from gateway.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Iterator

WINDOW: Final = 4
"""Frames of a stream that are in work at a time, from the start until the answer is handed over: one decodes, one is
with Triton, one in post-processing, and one is sent. Further ones would wait in the same queues, only further on."""

MAX_SEQUENCES: Final = 64
"""Sequences of a stream with frames that are not answered yet: as many frames may wait, and no more."""

SequenceId = int | str


@dataclass(slots=True, eq=False, kw_only=True)
class Frame:
    """One frame, from when it is read until its answer is handed over.

    Attributes:
        sequence: whose frame it is.
        is_replaceable: whether a newer frame of the sequence takes its place while it waits.
        size_bytes: what it takes in memory.
        dropped: frames of the sequence between the one that is answered before this one and this one.
        is_finished: whether its answer is there.
    """

    sequence: SequenceId
    is_replaceable: bool
    size_bytes: int
    dropped: int = field(default=0, init=False)
    is_finished: bool = field(default=False, init=False)


F = TypeVar("F", bound=Frame)


class Sequences(Generic[F]):
    """The frames of one stream that are not answered yet.

    A replaceable frame is begun when nothing of its sequence is in work, so that it is the newest there is; any other
    as soon as there is a place. Sequences take turns. One of which no frame is left is forgotten.

    Args:
        max_bytes: no frame is read while those that are here take so much.
        window: see `WINDOW`.
    """

    def __init__(self, max_bytes: int, window: int = WINDOW) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._places = window
        self._waiting: dict[SequenceId, F] = {}  # in the order of their turns
        self._begun: dict[SequenceId, deque[F]] = {}  # each in the order of arrival
        self._answers: deque[F] = deque()  # finished, with nothing of their sequence before them

    @property
    def may_read(self) -> bool:
        """Whether the stream may be read on: no frame waits that can't be replaced, and there is room."""
        return self._bytes < self._max_bytes and all(frame.is_replaceable for frame in self._waiting.values())

    def __iter__(self) -> Iterator[F]:
        """All frames that are not answered yet."""
        return chain(self._waiting.values(), *self._begun.values())

    def add(self, frame: F) -> F | None:
        """Take in a frame that was read, while `may_read`. It replaces the one of its sequence that waits, if any.

        Returns:
            The frame that it replaced.

        Raises:
            InvalidParameter: there are too many sequences.
        """
        replaced = self._waiting.get(frame.sequence)
        if replaced is None:
            self._refuse_too_many(frame.sequence)
        else:
            frame.dropped = replaced.dropped + 1
            self._bytes -= replaced.size_bytes
        self._waiting[frame.sequence] = frame
        self._bytes += frame.size_bytes
        return replaced

    def begin(self) -> F | None:
        """The frame to begin now, if there is one; it is in work from here on."""
        if not self._places:
            return None
        for sequence, frame in self._waiting.items():
            if not frame.is_replaceable or sequence not in self._begun:
                del self._waiting[sequence]
                self._begun.setdefault(sequence, deque()).append(frame)
                self._places -= 1
                return frame
        return None

    def finish(self, frame: F) -> None:
        """Note that the answer of a frame in work is there."""
        frame.is_finished = True
        if self._begun[frame.sequence][0] is frame:
            self._answers.append(frame)

    def answer(self) -> F | None:
        """The frame whose answer goes out next, if there is one. It is asked for until it is `handed_over`."""
        return self._answers[0] if self._answers else None

    def handed_over(self) -> None:
        """Note that what `answer` named has been sent: its place is free."""
        frame = self._answers.popleft()
        self._places += 1
        self._bytes -= frame.size_bytes
        line = self._begun[frame.sequence]
        line.popleft()
        if not line:
            del self._begun[frame.sequence]
        elif line[0].is_finished:
            self._answers.append(line[0])

    def _refuse_too_many(self, sequence: SequenceId) -> None:
        known = self._begun.keys() | self._waiting.keys()
        if sequence not in known and len(known) >= MAX_SEQUENCES:
            raise InvalidParameter(
                f"frames of {len(known)} sequences wait for their answers, the most that one stream may have; open "
                "another stream for further ones"
            )
