"""Requests that come while no Triton serves anything: held until one does, within their deadline.

For installations that scale to zero. What is held counts as images that wait, of no model: so an autoscaler sees that
somebody asks, and starts a Triton.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.errors import DeadlineExceeded, TritonUnavailable

if TYPE_CHECKING:
    from gateway.deadline import Deadline
    from gateway.detector import Predictor
    from gateway.metrics import Metrics


class Hold:
    """Holds images while nothing is served.

    Their bytes are counted by `gateway.memory.ByteBudget` as those of any request.

    Args:
        predictor: knows what is served, whoever may see it.
        max_images: most images that are held at a time; 0 to hold none, and refuse them at once.
        metrics: the process's instruments.
    """

    def __init__(self, predictor: Predictor, max_images: int, metrics: Metrics) -> None:
        self._predictor = predictor
        self._max_images = max_images
        self._metrics = metrics
        self._held = 0
        self._timeouts: set[asyncio.Timeout] = set()  # of those that wait
        self._is_stopping = False

    @property
    def is_enabled(self) -> bool:
        """Whether anything is ever held: then this process takes requests, whether or not a Triton serves."""
        return self._max_images > 0

    @property
    def is_due(self) -> bool:
        """Whether a request that comes now is held: which model it means is known only when one is served."""
        return self.is_enabled and not self._predictor.models

    def check(self, images: int = 1) -> None:
        """Refuse images that there is no place for.

        Raises:
            TritonUnavailable: there is none, or nothing is held any more.
        """
        if self._is_stopping:
            raise _stopping()
        if self._held + images > self._max_images:
            self._metrics.shed.labels("", "hold").inc(images)
            raise TritonUnavailable(
                f"no Triton serves a detector yet, and {self._held} of the {self._max_images} images that may wait for "
                "one do so already; try again shortly"
            )

    async def until_served(self, images: int, deadline: Deadline) -> None:
        """Hold images until a Triton serves a detector. Returns at once if one does, or if nothing is ever held.

        Raises:
            TritonUnavailable: there is no place for them, no Triton came in time, or `stop` was called.
        """
        if not self.is_due:
            return
        self.check(images)
        waiting = self._metrics.queued.labels("")
        self._held += images
        waiting.inc(images)
        try:
            async with asyncio.timeout(deadline.remaining_seconds()) as timeout:
                self._timeouts.add(timeout)
                try:
                    await self._predictor.until_served()
                finally:
                    self._timeouts.discard(timeout)
        except (TimeoutError, DeadlineExceeded):
            if self._is_stopping:
                raise _stopping() from None
            raise TritonUnavailable(
                f"no Triton has come to serve a detector within the {deadline.timeout_seconds * 1e3:.0f} ms that the "
                "request allows; try again shortly"
            ) from None
        finally:
            self._held -= images
            waiting.dec(images)

    def stop(self) -> None:
        """Refuse what is held, and hold nothing from now on: this process ends before the deadlines do.

        So callers hear of it, and ask another gateway.
        """
        self._is_stopping = True
        now = asyncio.get_running_loop().time()
        for timeout in self._timeouts:
            if not timeout.expired():
                timeout.reschedule(now)


def _stopping() -> TritonUnavailable:
    return TritonUnavailable("no Triton serves a detector yet, and this gateway is stopping; try again shortly")
