"""The state of one stream: which frames wait, which are unanswered, and what happens next. Does no I/O.

A driver, blocking or asynchronous, pulls frames from the caller and offers them, sends what `next_to_send` gives,
reports answers and broken connections, and does what `step` says. Answers come in the order of the frames.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from eagleeye.client.errors import InvalidResponse, TimedOut
from eagleeye.client.results import Frame

if TYPE_CHECKING:
    from eagleeye.client.attempts import RetryPolicy
    from eagleeye.client.errors import EagleEyeError
    from eagleeye.client.rpc import StreamAnswer

WINDOW: Final = 8
"""Frames under way at most: enough to keep a gateway busy over a long line, and few enough to hold in memory."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A frame that is not answered yet."""

    index: int
    image: bytes


class Pause(NamedTuple):
    """Nothing to do until something is reported, or for `seconds`; None for as long as it takes."""

    seconds: float | None


class Connect:
    """Open a call, then tell the state that it is `connected`."""


class Finished:
    """Every frame is answered, and no more will come."""


Step: TypeAlias = Frame | Pause | Connect | Finished


class Frames:
    """What is known of one stream.

    Frames have indices from 0. One that is not answered on a call which broke is sent again on the next, unless it may
    be replaced: with `latest` only the newest is kept wherever one waits, so there the gap before an answer's index is
    the number of frames that were replaced, here or in the gateway.

    Args:
        latest: whether a frame that waits is replaced by a newer one.
        timeout_seconds: longest wait for an answer while any frame is unanswered.
        policy: how often to connect between two answers, and the clock.
    """

    def __init__(self, *, latest: bool, timeout_seconds: float, policy: RetryPolicy) -> None:
        self._latest = latest
        self._timeout = timeout_seconds
        self._policy = policy
        self._unsent: deque[Pending] = deque()
        self._pending: deque[Pending] = deque()
        self._ready: deque[Frame] = deque()
        self._offered = 0
        self._answered = 0  # frames up to here are answered or replaced
        self._waiting_since = 0.0
        self._attempts = 0
        self._retry_at = 0.0
        self._is_connected = False
        self._has_ended = False
        self._source_error: BaseException | None = None
        self._failure: EagleEyeError | None = None

    @property
    def wants_frame(self) -> bool:
        """Whether the caller's next frame is to be pulled."""
        held = len(self._unsent) + len(self._pending) + len(self._ready)
        return not self._has_ended and (self._latest or held < WINDOW)

    @property
    def is_all_sent(self) -> bool:
        """Whether nothing is left to send on this call, now or later."""
        return self._has_ended and not self._unsent

    def offer(self, image: bytes) -> None:
        """Take the caller's next frame."""
        if not self._is_waiting:
            self._waiting_since = self._policy.clock()
        if self._latest:
            self._unsent.clear()
        self._unsent.append(Pending(self._offered, image))
        self._offered += 1

    def end(self, error: BaseException | None = None) -> None:
        """The caller has no more frames, or failed to give the next one."""
        self._has_ended = True
        self._source_error = error

    def next_to_send(self) -> Pending | None:
        """The frame to send now, which is then unanswered; None while none may be sent."""
        if not self._unsent or len(self._pending) >= WINDOW:
            return None
        if self._latest and self._ready:  # whoever is slow to take answers wants fresh ones
            return None
        self._pending.append(self._unsent.popleft())
        return self._pending[-1]

    def connected(self) -> None:
        """A call is open."""
        self._is_connected = True

    def answered(self, answer: StreamAnswer) -> None:
        """An answer has come."""
        place = [str(pending.index) for pending in self._pending].index(answer.id) if self._expects(answer.id) else None
        if place is None:
            self._failure = InvalidResponse(f"the stream answers frame {answer.id[:50]!r}, which it was not asked")
            return
        for _ in range(place):
            self._pending.popleft()  # replaced by the gateway
        index = self._pending.popleft().index
        self._ready.append(Frame(index, answer.detections, answer.error, dropped=index - self._answered))
        self._answered = index + 1
        self._attempts = 0
        self._waiting_since = self._policy.clock()

    def broke(self, error: EagleEyeError) -> None:
        """The call has ended before its time."""
        self._is_connected = False
        self._unsent.extendleft(reversed(self._pending))
        self._pending.clear()
        if self._latest:
            self._unsent = deque(self._unsent, maxlen=1)
        if not self._unsent:  # the next frame brings the next call
            self._failure = None if error.is_retryable or self._has_ended else error
            return
        self._attempts += 1
        wait = self._policy.wait_seconds(self._attempts, error, self._seconds_left)
        if wait is None:
            self._failure = error
        else:
            self._retry_at = self._policy.clock() + wait

    def resumed(self) -> None:
        """The caller waits again: time that it spent elsewhere is not the gateway's."""
        self._waiting_since = self._policy.clock()

    def step(self) -> Step:
        """What happens next; a `Frame` is handed over once.

        Raises:
            EagleEyeError: there will be no more answers.
            BaseException: what the caller's frames raised, after the answers to those before it.
        """
        if self._ready:
            return self._ready.popleft()
        if self._failure:
            raise self._failure
        if not self._is_waiting:
            return self._rest()
        if self._seconds_left <= 0:
            raise TimedOut(f"the stream has not answered for {self._timeout:g} s")
        if self._is_connected:
            return Pause(self._seconds_left)
        wait = self._retry_at - self._policy.clock()
        return Connect() if wait <= 0 else Pause(min(wait, self._seconds_left))

    @property
    def _is_waiting(self) -> bool:
        return bool(self._unsent or self._pending)

    @property
    def _seconds_left(self) -> float:
        return self._waiting_since + self._timeout - self._policy.clock()

    def _rest(self) -> Step:
        """Nothing is unanswered."""
        if self._source_error:
            raise self._source_error
        return Finished() if self._has_ended else Pause(None)

    def _expects(self, request_id: str) -> bool:
        """In order it is the oldest that is answered; of the latest, any."""
        expected = list(self._pending) if self._latest else list(self._pending)[:1]
        return request_id in {str(pending.index) for pending in expected}
