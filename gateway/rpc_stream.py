"""ModelStreamInfer: frames of cameras, each answered as ModelInfer answers one image, in the order of its sequence.

What is decided is in `gateway.sequences`; here is what waits. A stream has one task, which reads, and one for each
frame in work. The frame's task that finds nobody sending sends what is ready, so that an idle stream costs little.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

import grpc
from tritonclient.grpc import service_pb2

from gateway import rpc_messages
from gateway.access import flow, presented
from gateway.deadline import Deadline
from gateway.errors import GatewayError, InvalidParameter, Overloaded, Unauthorized
from gateway.sequences import WINDOW, Frame, Sequences

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from gateway.access import Caller
    from gateway.core import Core
    from gateway.sequences import SequenceId

    Infer = Callable[["StreamFrame", "FrameContext"], Awaitable[Any]]

_REPLACED_PAUSE_SECONDS: Final = 0.001
"""After a frame that replaced another one: some 900 a second are more than cameras send, and without a pause a caller
who sends as fast as it can would use up a processor with frames that nobody looks at."""

_LOOK_INTERVAL_SECONDS: Final = 0.5  # within which an open stream notices that this process drains, or its key is gone


class ShuttingDown(Exception):
    """A stream ends because this process does."""

    code: ClassVar[str] = "shutting_down"

    def __init__(self) -> None:
        super().__init__("the gateway shuts down; connect again, and send what it has not answered")


@dataclass(slots=True, eq=False, kw_only=True)
class StreamFrame(Frame):
    """A frame as it came.

    Attributes:
        request: the message.
        flow: whose it is, see `gateway.access.flow`.
        camera: what keeps to one version of a model: the sequence that it names, in whichever stream; else this one.
        caller: who sent it, if keys are asked for.
        is_paid: whether the call's own token counts for it.
        held_bytes: what it takes of the budget of bytes.
        ends_at: when the call ends, in seconds of `time.monotonic`.
        error: what was found wrong with it when it was read.
        answer: the message that answers it, once there is one.
    """

    request: Any
    flow: str
    camera: str
    caller: Caller | None
    is_paid: bool
    ends_at: float
    held_bytes: int = 0
    error: GatewayError | None = None
    answer: Any = None
    arrived_at: float = field(default_factory=time.monotonic)

    def age_seconds(self) -> float:
        """Seconds since it arrived."""
        return time.monotonic() - self.arrived_at

    def deadline(self, default_seconds: float, asked_seconds: float | None) -> Deadline:
        """Its own or the default's, from its arrival; the call's if that is nearer."""
        timeout_seconds = default_seconds if asked_seconds is None else asked_seconds
        return Deadline(min(self.arrived_at + timeout_seconds, self.ends_at), timeout_seconds)

    def empty(self, error: GatewayError) -> None:
        """Keep no more of it than its answer needs, which is this error."""
        self.request.ClearField("inputs")
        self.request.ClearField("raw_input_contents")
        self.size_bytes = self.request.ByteSize()
        self.error = error

    def check(self) -> None:
        """Stop a frame before it costs anything; one that gets this far takes a token of its key.

        Raises:
            RateLimited: the key has used up what it may send.
            InvalidParameter: it is no frame.
        """
        if self.caller is not None and not self.is_paid and (quota := self.caller.take()):
            quota.check()
        if self.error is not None:
            raise self.error
        rpc_messages.refuse_batch(self.request)


class FrameRefused(Exception):
    """A frame's error, as its answer tells it: `detail` for people, `fields` for programs."""

    def __init__(self, detail: str, fields: dict[str, str]) -> None:
        super().__init__(detail)
        self.fields = fields


class FrameContext:
    """What a call's context is to a call, for one frame: its errors end the frame and not the stream.

    A frame starts a trace of its own: in the call's, the frames of a whole day would be one.
    """

    def __init__(self, call: Any) -> None:
        self._call = call

    def invocation_metadata(self) -> tuple[()]:
        """None."""
        return ()

    def time_remaining(self) -> float | None:
        """Seconds until the call's own deadline, if it has one."""
        return self._call.time_remaining()  # type: ignore[no-any-return]

    async def abort(self, _: grpc.StatusCode, detail: str, metadata: tuple[tuple[str, str], ...]) -> None:
        """End the frame.

        Raises:
            FrameRefused: always.
        """
        raise FrameRefused(detail, dict(metadata))


class FrameStream:
    """One call of ModelStreamInfer.

    Args:
        core: what the face stands on.
        context: the call's.
        infer: answers a frame; its context's `abort` takes the error.
    """

    def __init__(self, core: Core, context: Any, infer: Infer) -> None:
        self._core = core
        self._call = context
        self._infer = infer
        self._secret = presented(dict(context.invocation_metadata() or ()))
        remaining_seconds = context.time_remaining()
        self._ends_at = float("inf") if remaining_seconds is None else time.monotonic() + remaining_seconds
        self._sequences = Sequences[StreamFrame](max_bytes=WINDOW * core.limits.max_bytes)
        self._has_room = asyncio.Event()
        self._working = asyncio.timeout(None)  # both end when they are told to
        self._reading = asyncio.timeout(None)
        self._is_reading = True
        self._is_sending = False
        self._error: Exception | None = None
        self.counts = {"frames": 0, "answered": 0, "dropped": 0}

    async def run(self) -> None:
        """Answer frames until the caller half-closes and all are answered, or until the stream must end.

        Raises:
            ShuttingDown: this process drains; what was read has been answered.
            Unauthorized: the key is no longer known.
            InvalidParameter: too many sequences; what was read before has been answered.
        """
        if self._core.lifecycle.is_draining:
            raise ShuttingDown
        with self._core.metrics.streams.track_inprogress(), suppress(TimeoutError):
            try:
                async with self._working, self._looking(), asyncio.TaskGroup() as self._tasks:
                    with suppress(TimeoutError):
                        async with self._reading:
                            await self._read()
                    self._is_reading = False
            finally:
                for frame in self._sequences:
                    self._let_go(frame)
        if self._error is not None:
            raise self._error

    async def _read(self) -> None:
        """Take frames in, as fast as they may come."""
        while await self._take_frame():
            while not self._sequences.may_read:
                self._has_room.clear()
                await self._has_room.wait()

    async def _take_frame(self) -> bool:
        """Take the next frame in. False when there are no more, or none is to be read any more.

        It keeps none: a stream that waits for a frame does not hold the last one.
        """
        error: GatewayError | None = None
        try:
            request = await self._call.read()
        except InvalidParameter as malformed:
            request, error = service_pb2.ModelInferRequest(), malformed
        if request is grpc.aio.EOF:
            return False
        try:
            caller = self._identify()
        except Unauthorized:
            return False
        self.counts["frames"] += 1
        frame = self._frame(request, caller, error)
        self._hold(frame)
        try:
            replaced = self._sequences.add(frame)
        except InvalidParameter as too_many:
            self._let_go(frame)
            self._error = too_many
            return False
        if replaced:
            self._let_go(replaced)
        self._begin()
        if frame.dropped:
            await asyncio.sleep(_REPLACED_PAUSE_SECONDS)
        return True

    def _frame(self, request: Any, caller: Caller | None, error: GatewayError | None) -> StreamFrame:
        peer = self._call.peer()
        sequence: SequenceId = 0
        is_latest = False
        try:
            sequence = rpc_messages.read_sequence(request)
            is_latest = rpc_messages.take_mode(request)
        except InvalidParameter as wrong:
            error = wrong
        of_stream = flow(peer, stream=f"{peer} {sequence}")
        return StreamFrame(
            sequence=sequence,
            is_replaceable=is_latest,
            size_bytes=request.ByteSize(),
            request=request,
            flow=of_stream,
            camera=rpc_messages.named_sequence(request, flow(rpc_messages.address_of(peer))) or of_stream,
            caller=caller,
            is_paid=self.counts["frames"] == 1,
            ends_at=self._ends_at,
            error=error,
        )

    def _hold(self, frame: StreamFrame) -> None:
        """Count a frame's bytes until it is answered or replaced; one that there is no room for is emptied at once."""
        try:
            self._core.memory.take(frame.flow, frame.size_bytes)
        except Overloaded as error:
            frame.empty(error)
        else:
            frame.held_bytes = frame.size_bytes

    def _let_go(self, frame: StreamFrame) -> None:
        self._core.memory.give(frame.flow, frame.held_bytes)

    def _begin(self) -> None:
        while frame := self._sequences.begin():
            self._tasks.create_task(self._work_on(frame))

    async def _work_on(self, frame: StreamFrame) -> None:
        try:
            response = await self._infer(frame, FrameContext(self._call))
        except FrameRefused as refusal:
            frame.answer = rpc_messages.frame_error(frame.request, str(refusal), refusal.fields, frame.dropped)
        else:
            frame.answer = rpc_messages.frame_answer(frame.request, response, frame.dropped)
        self._sequences.finish(frame)
        del frame  # sending may take long, also after this one's turn
        if not self._is_sending:
            await self._send()

    async def _send(self) -> None:
        """Send every answer whose turn it is. A caller that reads none makes this wait, and its further frames, too."""
        self._is_sending = True
        while frame := self._sequences.answer():
            try:
                await self._call.write(frame.answer)
            except grpc.aio.BaseError:  # the caller has gone: gRPC is about to cancel the call
                return
            self._sequences.handed_over()
            self._let_go(frame)
            self.counts["answered"] += 1
            self.counts["dropped"] += frame.dropped
            self._begin()
            self._has_room.set()
        self._is_sending = False

    @asynccontextmanager
    async def _looking(self) -> AsyncIterator[None]:
        """Look after the stream in the block: whether its key is still known, and whether this process drains.

        By a timer and not by a task: that costs an idle stream less.
        """
        loop = asyncio.get_running_loop()

        def look() -> None:
            self._timer = loop.call_later(_LOOK_INTERVAL_SECONDS, look)
            with suppress(Unauthorized):
                self._identify()
            if self._core.lifecycle.is_draining:
                self._stop_reading()

        look()
        try:
            yield
        finally:
            self._timer.cancel()

    def _identify(self) -> Caller | None:
        """Whose stream it is by now; None if no keys are asked for. Without its key it ends at once.

        Raises:
            Unauthorized: the key has been removed.
        """
        if self._core.access is None:
            return None
        try:
            return self._core.access.identify(self._secret)
        except Unauthorized as error:
            self._error = error
            _end(self._working)
            raise

    def _stop_reading(self) -> None:
        if self._is_reading:
            self._error = ShuttingDown()
            _end(self._reading)


def _end(block: asyncio.Timeout) -> None:
    """End a block of code where it waits."""
    if block.when() is None:
        block.reschedule(asyncio.get_running_loop().time())
