"""A budget of bytes for what callers send, so that memory is bounded however many send at a time."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from gateway.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.metrics import Metrics

_RETRY_AFTER_SECONDS: Final = 1  # uploads come and go faster than that


class ByteBudget:
    """Counts the bytes of requests, from when they arrive until the answer.

    A flow may hold as much as it leaves to all others. So one flow gets half of the budget if it is alone, and there is
    always room for a further one (Choudhury and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory
    Packet Switches", 1998).
    """

    def __init__(self, max_bytes: int, metrics: Metrics) -> None:
        self._max_bytes = max_bytes
        self._metrics = metrics
        self._held: Counter[str] = Counter()
        self._total = 0
        metrics.held_bytes.set_function(lambda: self._total)

    def check(self, flow: str, size: int) -> None:
        """Refuse `size` bytes more of a flow that there is no room for.

        Raises:
            Overloaded: there is none.
        """
        if self._held[flow] + size > self._max_bytes - self._total - size:
            self._metrics.shed.labels("", "memory").inc()
            raise Overloaded(
                f"requests that are not answered yet hold {self._total:,} bytes, which leaves too little room for "
                "this one",
                _RETRY_AFTER_SECONDS,
            )

    def take(self, flow: str, size: int) -> None:
        """Count `size` bytes more of a flow, until they are given back.

        Raises:
            Overloaded: there is no room for them.
        """
        self.check(flow, size)
        self._count(flow, size)

    def give(self, flow: str, size: int) -> None:
        """Give back what was taken."""
        self._count(flow, -size)

    @contextmanager
    def hold(self, flow: str) -> Iterator[Callable[[int], None]]:
        """While the block runs, hold what is taken with the function that this yields."""
        held = 0

        def take(size: int) -> None:
            nonlocal held
            self.take(flow, size)
            held += size

        try:
            yield take
        finally:
            self.give(flow, held)

    def _count(self, flow: str, size: int) -> None:
        self._total += size
        self._held[flow] += size
        if not self._held[flow]:
            del self._held[flow]
