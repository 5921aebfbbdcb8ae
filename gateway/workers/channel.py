"""What supervisor and worker say to each other: pickled, over a pair of sockets that nobody else holds.

The supervisor asks and the worker answers, as often as it likes and out of turn. The end of the channel is the end of
the one at its other side, however that came.
"""

from __future__ import annotations

import asyncio
import itertools
import pickle
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    import socket

    from gateway.settings import Settings

_SIZE: Final = struct.Struct("!I")

READINESS: Final = "readiness"
METRICS: Final = "metrics"
TRITONS: Final = "tritons"
SHADOW: Final = "shadow"


@dataclass(frozen=True, slots=True)
class Assignment:
    """The first message to a worker.

    Attributes:
        settings: those of the whole gateway, with the ports that it has.
        number: which of its workers this is, from 1.
        buckets: file descriptor of what all workers remember of the keys' rates, see `gateway.buckets`.
    """

    settings: Settings
    number: int
    buckets: int


async def receive(reader: asyncio.StreamReader) -> Any:
    """The next message.

    Raises:
        EOFError: the other side is gone.
        ConnectionError: so it is.
    """
    (size,) = _SIZE.unpack(await reader.readexactly(_SIZE.size))
    return pickle.loads(await reader.readexactly(size))  # noqa: S301 (from a process of our own, on sockets of its own)


def send(writer: asyncio.StreamWriter, message: Any) -> None:
    """Send a message, without waiting for it to be read."""
    data = pickle.dumps(message)
    writer.write(_SIZE.pack(len(data)) + data)


class Channel:
    """The supervisor's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._reading = asyncio.create_task(self._read(), name="read a worker's answers")

    @classmethod
    async def over(cls, ours: socket.socket) -> Self:
        """The channel over one of a pair of sockets, which it closes."""
        return cls(*await asyncio.open_connection(sock=ours))

    def assign(self, assignment: Assignment) -> None:
        """Tell a worker what it is."""
        send(self._writer, assignment)

    async def ask(self, question: str, timeout_seconds: float | None) -> Any:
        """A worker's answer; None if it has none within the time, or is gone."""
        number, answer = next(self._numbers), asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            if self._reading.done():
                return None
            send(self._writer, (number, question))
            async with asyncio.timeout(timeout_seconds):
                return await answer
        except TimeoutError:
            return None
        finally:
            del self._waiting[number]

    def close(self) -> None:
        """Hang up."""
        self._reading.cancel()
        self._writer.close()

    async def _read(self) -> None:
        try:
            with suppress(EOFError, ConnectionError):
                while True:
                    number, content = await receive(self._reader)
                    self._answer(number, content)
        finally:
            for number in self._waiting:
                self._answer(number, None)

    def _answer(self, number: int, content: Any) -> None:
        waiting = self._waiting.get(number)
        if waiting is not None and not waiting.done():
            waiting.set_result(content)
