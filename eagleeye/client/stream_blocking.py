"""One stream of `Client`: a thread pulls the caller's frames, another one reads answers, gRPC's own sends."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import grpc

from eagleeye.client.errors import Unreachable
from eagleeye.client.frames import Connect, Finished, Pause
from eagleeye.client.query import read_image
from eagleeye.client.results import Frame
from eagleeye.client.rpc import as_broken, frame_request, read_stream_answer

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from eagleeye.client.frames import Frames, Pending, Step
    from eagleeye.client.query import Image, Query
    from eagleeye.client.rpc_blocking import RpcTransport
    from eagleeye.client.scope import Scope

_LAST_WORDS_SECONDS = 1.0
"""How long the gateway may take to end a call whose frames are all answered."""


class Stream:
    """Sends frames and gives what comes of them, in order.

    The caller's thread decides what happens next, as `Frames.step` says, whenever something has changed.
    """

    def __init__(
        self, transport: RpcTransport, frames: Frames, query: Query, *, latest: bool, timeout_seconds: float
    ) -> None:
        self._transport = transport
        self._frames = frames
        self._query = query
        self._latest = latest
        self._timeout = timeout_seconds
        self._changed = threading.Condition()  # holds for all below, and for `frames`
        self._is_over = False
        self._calls = 0
        self._call: Any = None
        self._reader: threading.Thread | None = None

    def run(self, images: Iterable[Image], scope: Scope) -> Generator[Frame, None, None]:
        """What comes of each image, in order; leaving it ends the call."""
        puller = threading.Thread(target=self._pull, args=(images,), name="eagleeye frames", daemon=True)
        with scope.aborting(self._end):
            try:
                puller.start()
                while isinstance(step := self._next(scope), Frame):
                    yield step
                    with self._changed:
                        self._frames.resumed()
                self._finish()
            finally:
                self._end()
                self._join()

    def _next(self, scope: Scope) -> Frame | None:
        while True:
            with self._changed:
                scope.check()
                step: Step = self._frames.step()
                if isinstance(step, Pause):
                    self._changed.wait(step.seconds)
                    continue
                self._changed.notify_all()  # there may be room for another frame
            if isinstance(step, Connect):
                self._connect()
            else:
                return None if isinstance(step, Finished) else step

    def _connect(self) -> None:
        self._join()
        with self._changed:
            self._calls += 1
            self._frames.connected()
            try:
                self._call = self._transport.stream(self._requests(self._calls))
            except ValueError as error:  # how gRPC says that the channel is closed
                self._frames.broke(Unreachable(f"the connection was closed: {error}"))
                return
        self._reader = threading.Thread(
            target=self._read, args=(self._call, self._calls), name="eagleeye answers", daemon=True
        )
        self._reader.start()

    def _pull(self, images: Iterable[Image]) -> None:
        """Offer the caller's frames as they are wanted, until there are no more."""
        failure: BaseException | None = None
        try:
            for given in images:
                image = read_image(given)
                with self._changed:
                    self._changed.wait_for(lambda: self._is_over or self._frames.wants_frame)
                    if self._is_over:
                        return
                    self._frames.offer(image)
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 the caller's own code failed, and its thread is to know
            failure = error
        with self._changed:
            self._frames.end(failure)
            self._changed.notify_all()

    def _requests(self, number: int) -> Iterator[Any]:
        """The messages of one call; gRPC asks for each when the one before has left."""
        while (pending := self._next_to_send(number)) is not None:
            yield frame_request(
                str(pending.index), pending.image, self._query, latest=self._latest, timeout_seconds=self._timeout
            )

    def _next_to_send(self, number: int) -> Pending | None:
        """The next frame of one call, as soon as there is one; None when there will be no more."""
        with self._changed:
            while not self._is_over and number == self._calls and not self._frames.is_all_sent:
                if (pending := self._frames.next_to_send()) is not None:
                    return pending
                self._changed.wait()
        return None

    def _read(self, call: Any, number: int) -> None:
        """Report the answers of one call, and how it ends."""
        failure: Exception = Unreachable("the gateway ended the stream early", is_retryable=True)
        try:
            for message in call:
                with self._changed:
                    self._frames.answered(read_stream_answer(message))
                    self._changed.notify_all()
        except grpc.RpcError:
            failure = self._transport.explained(call)
        with self._changed:
            self._calls += number == self._calls  # whatever still sends for this call stops
            self._frames.broke(as_broken(failure))
            self._changed.notify_all()

    def _finish(self) -> None:
        """All is answered: the gateway has the last word, so that its log tells of no cancelled call."""
        if self._reader is not None:
            self._reader.join(_LAST_WORDS_SECONDS)

    def _end(self) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        if self._call is not None:
            self._call.cancel()

    def _join(self) -> None:
        if self._reader is not None:
            self._reader.join()
