"""One of several gateway processes: it serves as a single one would, and answers its supervisor."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import structlog

from gateway.buckets import SharedBuckets
from gateway.workers.channel import METRICS, READINESS, SHADOW, TRITONS, receive, send

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from gateway.core import Core
    from gateway.workers.channel import Assignment

_log = structlog.get_logger()


class Worker:
    """The worker that this process is.

    Args:
        assignment: what it was told to be.
        reader: where the supervisor asks.
        writer: where it is answered.
        stop: set when the supervisor is gone, so that nothing is left behind. While this process drains already, that
            means at once: the supervisor waits for its workers unless it was told not to.
    """

    def __init__(
        self, assignment: Assignment, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stop: asyncio.Event
    ) -> None:
        self.buckets = SharedBuckets(assignment.buckets)
        self._reader = reader
        self._writer = writer
        self._stop = stop
        self._is_open = asyncio.Event()

    def opened(self) -> None:
        """Both faces are open: only from now on the supervisor is answered."""
        self._is_open.set()

    @asynccontextmanager
    async def answering(self, core: Core, describe_tritons: Callable[[], Mapping[str, Any]]) -> AsyncIterator[None]:
        """Answer the supervisor in the block."""
        answers: dict[str, Callable[[], Any]] = {
            READINESS: lambda: core.lifecycle.readiness(core.predictor.models),
            METRICS: lambda: list(core.metrics.registry.collect()),
            TRITONS: describe_tritons,
            SHADOW: core.shadowing.pairs,
        }
        task = asyncio.create_task(self._keep_answering(answers), name="answer the supervisor")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _keep_answering(self, answers: Mapping[str, Callable[[], Any]]) -> None:
        await self._is_open.wait()
        while True:
            try:
                number, question = await receive(self._reader)
            except (EOFError, ConnectionError):
                break
            try:
                send(self._writer, (number, answers[question]()))
            except Exception:  # noqa: BLE001 (what nobody thought of must not keep it from seeing the supervisor's end)
                _log.exception("unexpected error")
        if self._stop.is_set():
            os._exit(1)
        _log.error("the supervisor is gone; so this worker stops")
        self._stop.set()
