"""How many calls may be repeated: a share of the recent requests, so that retries can't become a storm.

After the retry budgets of Twitter's Finagle (finagle.github.io/blog/2016/02/08/retry-budgets): each request pays a part
of a retry in, each retry takes a whole one out, and both are forgotten after a while.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_SHARE: Final = 0.2  # retries per request: the work of Triton grows by this much at worst
_RESERVE_PER_SECOND: Final = 10  # for a gateway with too few requests for a share of them to be a whole retry
_WINDOW_SECONDS: Final = 10


class RetryBudget:
    """A balance of retries over the last 10 s."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds: deque[tuple[int, float]] = deque()  # (second, what was paid in less what was taken out in it)
        self._sum = 0.0

    def deposit(self) -> None:
        """Pay in for a request."""
        self._add(_SHARE)

    def grant(self, calls: int) -> None:
        """Pay in for calls that were lost with their endpoint: it does no more work for them, so they add no load."""
        self._add(calls)

    def withdraw(self) -> bool:
        """Take one retry out, if there is one."""
        if self.balance < 1:
            return False
        self._add(-1.0)
        return True

    @property
    def balance(self) -> float:
        """How many retries are left now."""
        self._forget()
        return self._sum + _RESERVE_PER_SECOND * _WINDOW_SECONDS

    def _add(self, amount: float) -> None:
        self._forget()
        second = int(self._clock())
        before = self._seconds.pop()[1] if self._seconds and self._seconds[-1][0] == second else 0.0
        self._seconds.append((second, before + amount))
        self._sum += amount

    def _forget(self) -> None:
        horizon = int(self._clock()) - _WINDOW_SECONDS
        while self._seconds and self._seconds[0][0] <= horizon:
            self._sum -= self._seconds.popleft()[1]
        if not self._seconds:
            self._sum = 0.0  # sheds what rounding has left
