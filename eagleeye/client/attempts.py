"""When to try again, and for how long. Decides, and does nothing: what it yields, a client does.

A *flow* is a generator that asks for what it needs. It yields `Send` and is sent the reply, or has the failure thrown
into it; it yields `Wait` and goes on when the time is over; its return value is the caller's. So one place decides for
the blocking and the asynchronous client alike, and tests play the network's part without one.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from eagleeye.client.errors import EagleEyeError, TimedOut

T = TypeVar("T")

FIRST_BACKOFF_SECONDS: Final = 0.2
LONGEST_BACKOFF_SECONDS: Final = 10.0
"""With the default eight attempts a client waits some ten seconds in all, which a gateway needs to start again."""


class Send(NamedTuple):
    """Send `request`; its reply must be there within `seconds`."""

    request: Any
    seconds: float


class Wait(NamedTuple):
    """Do nothing for `seconds`."""

    seconds: float


Flow: TypeAlias = Generator[Send | Wait, Any, T]


@dataclass(frozen=True, slots=True)
class Exchange(Generic[T]):
    """One request and the meaning of its reply.

    Attributes:
        request: makes the request, given the seconds that are left for it.
        read: the reply's meaning; raises an `EagleEyeError` if that is an error.
    """

    request: Callable[[float], Any]
    read: Callable[[Any], T]


class Run(Protocol):
    """Turns an exchange into a flow, within whatever deadline it keeps."""

    def __call__(self, exchange: Exchange[T], /) -> Flow[T]:
        """The flow of one exchange."""
        ...


@dataclass(frozen=True, slots=True)
class Deadline:
    """When the caller's patience ends: `at` by the policy's clock, `timeout_seconds` as the caller set it."""

    at: float
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how fast to try again.

    The wait before attempt n + 1 is drawn evenly between 0 and a bound that doubles with n ("full jitter"), so that
    callers who failed together do not come back together; see Brooker, "Exponential Backoff And Jitter" (AWS
    Architecture Blog, 2015). A longer wait that the gateway asks for is kept.

    Attributes:
        max_attempts: attempts in all, the first one included.
        clock: seconds that only go forward.
        uniform: a random number between two.
    """

    max_attempts: int
    clock: Callable[[], float] = time.monotonic
    uniform: Callable[[float, float], float] = random.uniform

    def deadline(self, timeout_seconds: float) -> Deadline:
        """The deadline that lies `timeout_seconds` ahead."""
        return Deadline(self.clock() + timeout_seconds, timeout_seconds)

    def wait_seconds(self, attempts: int, error: EagleEyeError, seconds_left: float) -> float | None:
        """How long to wait after `attempts` that failed, the last one with `error`; None to give up."""
        if not error.is_retryable or attempts >= self.max_attempts:
            return None
        bound = min(FIRST_BACKOFF_SECONDS * 2.0 ** min(attempts - 1, 30), LONGEST_BACKOFF_SECONDS)
        wait = max(self.uniform(0, bound), error.retry_after_seconds or 0)
        return wait if wait < seconds_left else None


def ask(exchange: Exchange[T], policy: RetryPolicy, deadline: Deadline) -> Flow[T]:
    """The reply to one request, tried again within the policy and the deadline.

    Raises:
        EagleEyeError: the last attempt's, as soon as there is no point in another.
    """
    last: EagleEyeError | None = None
    for attempts in itertools.count(1):
        left = deadline.at - policy.clock()
        if left <= 0:
            raise _timed_out(deadline) from last
        try:
            return exchange.read((yield Send(exchange.request(left), left)))
        except TimeoutError as error:
            raise _timed_out(deadline) from (last or error)
        except EagleEyeError as error:
            wait = policy.wait_seconds(attempts, error, deadline.at - policy.clock())
            if wait is None:
                raise
            last = error
        yield Wait(wait)
    raise AssertionError  # the loop has no end


def _timed_out(deadline: Deadline) -> TimedOut:
    return TimedOut(f"the gateway did not answer within {deadline.timeout_seconds:g} s")
