"""How one Triton is doing, judged from what is seen of it. Decides only: knows no network and no event loop."""

from __future__ import annotations

import time
from enum import StrEnum
from random import Random
from typing import TYPE_CHECKING, Final

from gateway.triton.latency import UsualLatency

if TYPE_CHECKING:
    from collections.abc import Callable

_SLOW_START_SECONDS: Final = 3.0  # the first batches meet cold caches and clocks; later, all is as it will be
_FIRST_SHARE: Final = 0.1  # enough calls to warm up with
_MOST_ERRORS: Final = 3  # in a row: one may be the request's fault, three different ones hardly
_FIRST_EJECTION_SECONDS: Final = 1.0
_LAST_EJECTION_SECONDS: Final = 30.0  # one that was mended is found out within half a minute
_JITTER: Final = 0.2  # so that several gateways do not come back to it at the same moment
_FORGIVEN_AFTER_SECONDS: Final = 60.0  # well for so long, its next ejection is a first one again
_SHORTEST_STALL_SECONDS: Final = 1.0  # shorter ones are a garbage collection, a swapped page, a busy processor
_COLD_STALL_SECONDS: Final = 3.0  # before the first answer nothing is known, and loading kernels takes its time


class State(StrEnum):
    """What an endpoint is good for now."""

    CONNECTING = "connecting"
    """It has not answered yet."""
    WARMING = "warming"
    """It serves, and gets less than its share for a few seconds."""
    SERVING = "serving"
    UNREADY = "unready"
    """It answers and serves no detector: it is loading, or stopping. It finishes what it has and gets nothing new."""
    LOST = "lost"
    """It does not answer; the first probe that it answers brings it back."""
    EJECTED = "ejected"
    """It answers probes, but its inference fails or stalls; it gets nothing for a time that grows every time."""
    DRAINING = "draining"
    """It was taken from the list of endpoints. It finishes what it has and gets nothing new."""


class Health:
    """The state of one endpoint; `reason` says in words why it is no better."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, random: Random | None = None) -> None:
        self._clock = clock
        self._random = random or Random()  # noqa: S311 (jitter is no secret)
        self._answer = State.CONNECTING
        self._since = clock()  # the current slow start, once it serves
        self._errors = 0
        self._ejected_until: float | None = None
        self._answered_at = clock()
        self._waiting_since = clock()  # when its calls became one from none
        self._is_cold = True
        self._latency = UsualLatency()
        self.is_draining = False
        self.is_stalled = False
        self.outstanding = 0
        self.ejections = 0
        self.reason = ""

    @property
    def state(self) -> State:
        """What it is good for now."""
        if self.is_draining:
            return State.DRAINING
        if self._answer is not State.SERVING:
            return self._answer
        if self.is_ejected:
            return State.EJECTED
        return State.SERVING if self.share >= 1 else State.WARMING

    @property
    def is_serving(self) -> bool:
        """Whether its last probe found it ready, ejected or not."""
        return self._answer is State.SERVING and not self.is_draining

    @property
    def is_ejected(self) -> bool:
        """Whether it should get nothing although its probes find it ready."""
        return self._ejected_until is not None

    @property
    def share(self) -> float:
        """The part of its calls that it should get, growing in the seconds after it came; one call until it answers."""
        if self._is_cold and self.outstanding:
            return 0.0
        return min(1.0, max(_FIRST_SHARE, (self._clock() - self._since) / _SLOW_START_SECONDS))

    @property
    def latency_seconds(self) -> float | None:
        """The usual time of an inference, None before the first."""
        return self._latency.mean_seconds if self._latency.is_known else None

    def ready(self) -> bool:
        """A probe found it serving a detector; whether that changes anything."""
        if self._ejected_until is not None and self._clock() < self._ejected_until:
            is_new = self._answer is not State.SERVING
            self._answer = State.SERVING
            return is_new
        if self._answer is State.SERVING and self._ejected_until is None:
            return False
        if self._ejected_until is not None:  # kept otherwise: one that breaks with each call would always begin anew
            self._errors = 0
        self._answer, self._ejected_until, self.reason = State.SERVING, None, ""
        self._since = self._clock()
        self._is_cold = True
        return True

    def unready(self, reason: str) -> bool:
        """It said that it takes no inference; whether that is news."""
        return self._leave(State.UNREADY, reason)

    def lost(self, reason: str, *, is_stalled: bool = False) -> bool:
        """It can't be reached or does not answer; whether that is news. A broken connection may hide a new process."""
        self.is_stalled |= is_stalled and self.outstanding > 0
        if not is_stalled:
            self._latency = UsualLatency()
        return self._leave(State.LOST, reason)

    def began(self) -> None:
        """A call goes out."""
        if not self.outstanding:
            self._waiting_since = self._clock()
        self.outstanding += 1

    def ended(self) -> None:
        """A call is over, however."""
        self.outstanding -= 1
        if not self.outstanding:
            self.is_stalled = False

    def answered(self, seconds: float) -> None:
        """An inference took `seconds` and gave what it should."""
        self._latency.add(seconds)
        self._errors = 0
        self._is_cold = False
        self.progressed()

    def progressed(self) -> None:
        """It has answered a call, well or not: it does not stand still."""
        self._answered_at = self._clock()
        self.is_stalled = False

    def failed(self, reason: str) -> bool:
        """An inference went wrong on it; whether that was one too many, and it is ejected now."""
        self._errors += 1
        return self._errors >= _MOST_ERRORS and self._eject(f"{self._errors} errors in a row, the last: {reason}")

    def timed_out(self, seconds: float) -> bool:
        """A call was given up after `seconds`; whether it is ejected now.

        An impatient caller is no fault of it, nor is a long queue, of which others were answered meanwhile.
        """
        longest = self._latency.longest_seconds
        if longest is None or seconds <= longest or self.has_progressed_since(self._clock() - seconds):
            return False
        return self.failed(f"no answer within {seconds:.1f} s")

    def stalls(self) -> bool:
        """Look whether it stands still: calls wait, and none has ended for longer than it usually takes.

        Returns:
            Whether it was found out just now, and is ejected.
        """
        silent = self._clock() - max(self._answered_at, self._waiting_since)
        if not self.outstanding or self.is_stalled or silent < self._longest_silence():
            return False
        self.is_stalled = True
        return self._eject(f"{self.outstanding} calls wait and none has ended for {silent:.1f} s")

    def has_progressed_since(self, moment: float) -> bool:
        """Whether a call has ended after that moment of the clock."""
        return self._answered_at > moment

    def _longest_silence(self) -> float:
        longest = self._latency.longest_seconds
        return _COLD_STALL_SECONDS if longest is None else max(_SHORTEST_STALL_SECONDS, longest)

    def _leave(self, answer: State, reason: str) -> bool:
        is_news = self._answer is not answer
        self._answer, self.reason = answer, reason
        return is_news

    def _eject(self, reason: str) -> bool:
        if self.is_ejected:
            return False
        now = self._clock()
        if now - self._since > _FORGIVEN_AFTER_SECONDS:
            self.ejections = 0
        seconds = min(_FIRST_EJECTION_SECONDS * 2**self.ejections, _LAST_EJECTION_SECONDS)
        self._ejected_until = now + seconds * self._random.uniform(1 - _JITTER, 1 + _JITTER)
        self.ejections += 1
        self.reason = reason
        return True
