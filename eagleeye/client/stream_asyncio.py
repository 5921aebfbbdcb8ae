"""One stream of `AsyncClient`: a task pulls the caller's frames, another one reads answers, gRPC's own sends."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

from eagleeye.client.errors import EagleEyeError, Unreachable
from eagleeye.client.frames import Connect, Finished, Pause
from eagleeye.client.query import read_image
from eagleeye.client.results import Frame
from eagleeye.client.rpc import as_broken, frame_request, read_stream_answer
from eagleeye.client.rpc_asyncio import is_cancelled
from eagleeye.client.sources import each

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable

    from eagleeye.client.frames import Frames, Step
    from eagleeye.client.query import Image, Query
    from eagleeye.client.rpc_asyncio import RpcTransport, StreamCall

_LAST_WORDS_SECONDS = 1.0
"""How long the gateway may take to end a call whose frames are all answered."""


class Stream:
    """Sends frames and gives what comes of them, in order.

    The caller's task decides what happens next, as `Frames.step` says, whenever something has changed.
    """

    def __init__(
        self, transport: RpcTransport, frames: Frames, query: Query, *, latest: bool, timeout_seconds: float
    ) -> None:
        self._transport = transport
        self._frames = frames
        self._query = query
        self._latest = latest
        self._timeout = timeout_seconds
        self._waiters: set[asyncio.Event] = set()
        self._calls = 0
        self._call: StreamCall | None = None
        self._reader: asyncio.Task[None] | None = None

    async def run(
        self, images: Iterable[Image] | AsyncIterable[Image], check: Callable[[], None]
    ) -> AsyncGenerator[Frame, None]:
        """What comes of each image, in order; leaving it ends the call. `check` raises if the client is closed."""
        puller = asyncio.create_task(self._pull(images), name="eagleeye frames")
        try:
            while isinstance(step := await self._next(check), Frame):
                yield step
                self._frames.resumed()
            await self._finish()
        finally:
            await self._end(puller)

    async def _next(self, check: Callable[[], None]) -> Frame | None:
        while True:
            check()
            step: Step = self._frames.step()
            if isinstance(step, Pause):
                with suppress(TimeoutError):
                    async with asyncio.timeout(step.seconds):
                        await self._change()
                continue
            self._notify()  # there may be room for another frame
            if isinstance(step, Connect):
                self._connect()
            else:
                return None if isinstance(step, Finished) else step

    def _connect(self) -> None:
        self._calls += 1
        self._frames.connected()
        self._call = self._transport.stream(self._requests(self._calls))
        self._reader = asyncio.create_task(self._read(self._call), name="eagleeye answers")

    async def _pull(self, images: Iterable[Image] | AsyncIterable[Image]) -> None:
        """Offer the caller's frames as they are wanted, until there are no more."""
        failure: Exception | None = None
        try:
            async with aclosing(each(images)) as given:
                async for one in given:
                    image = one if isinstance(one, bytes) else await asyncio.to_thread(read_image, one)
                    while not self._frames.wants_frame:
                        await self._change()
                    self._frames.offer(image)
                    self._notify()
        except Exception as error:  # noqa: BLE001 the caller's own code failed, and its task is to know
            failure = error
        self._frames.end(failure)
        self._notify()

    async def _requests(self, number: int) -> AsyncIterator[Any]:
        """The messages of one call; gRPC asks for each when the one before has left."""
        while number == self._calls:
            if (pending := self._frames.next_to_send()) is not None:
                yield frame_request(
                    str(pending.index), pending.image, self._query, latest=self._latest, timeout_seconds=self._timeout
                )
            elif self._frames.is_all_sent:
                return
            else:
                await self._change()

    async def _read(self, call: StreamCall) -> None:
        """Report the answers of one call, and how it ends."""
        failure: Exception = Unreachable("the gateway ended the stream early", is_retryable=True)
        try:
            async for message in call.messages():
                self._frames.answered(read_stream_answer(message))
                self._notify()
        except (EagleEyeError, TimeoutError) as error:
            failure = error
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            failure = Unreachable("the connection was closed", is_retryable=True)  # by the client's `aclose`
        self._calls += 1  # whatever still sends for this call stops
        self._frames.broke(as_broken(failure))
        self._notify()

    async def _finish(self) -> None:
        """All is answered: the gateway has the last word, so that its log tells of no cancelled call."""
        if self._reader is not None:
            await asyncio.wait({self._reader}, timeout=_LAST_WORDS_SECONDS)

    async def _end(self, puller: asyncio.Task[None]) -> None:
        self._calls += 1
        self._notify()
        if self._call is not None:
            self._call.cancel()
        tasks = [puller] if self._reader is None else [puller, self._reader]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _change(self) -> None:
        """Wait until something has changed after this call."""
        self._waiters.add(event := asyncio.Event())
        try:
            await event.wait()
        finally:
            self._waiters.discard(event)

    def _notify(self) -> None:
        for event in self._waiters:
            event.set()
