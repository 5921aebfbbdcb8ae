"""Keeps the event loop even: what becomes ready all at once goes on a few at a time."""

from __future__ import annotations

import asyncio
from collections import deque


class Turnstile:
    """Lets at most `at_a_time` tasks through in one round of the event loop, in the order in which they came.

    A batch's answers come from Triton in one moment. If all of them were worked off in one round, everybody else (a
    refusal, a probe) would wait for the last one of them; so the loop looks at its sockets in between.
    """

    def __init__(self, at_a_time: int) -> None:
        self._at_a_time = at_a_time
        self._passed = 0  # in this round
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def turn(self) -> None:
        """Wait for one's turn; most often there is nothing to wait for."""
        if not self._waiting and self._passed < self._at_a_time:
            self._pass()
        else:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter

    def _pass(self) -> None:
        if not self._passed:
            asyncio.get_running_loop().call_soon(self._next_round)
        self._passed += 1

    def _next_round(self) -> None:
        self._passed = 0
        while self._waiting and self._passed < self._at_a_time:
            waiter = self._waiting.popleft()
            if not waiter.done():  # its caller may have left
                waiter.set_result(None)
                self._pass()
