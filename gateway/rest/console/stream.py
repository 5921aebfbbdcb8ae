"""`GET /v1/stream`: frames of one camera over a WebSocket, for browsers; what gRPC's ModelStreamInfer is for others.

Each binary message is one encoded image. Each answer is a text message: what `/v1/detect` answers, or an `error`, with
`frame`, the number of the message from 0, and `dropped`, how many frames before it gave way to it. The query string has
the parameters of `/v1/detect`, for every frame, and `mode`: `latest` (a frame that waits gives way to a newer one) or
`ordered` (every frame is answered). What is decided is in `gateway.sequences`; here is what waits.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog
from aiohttp import WSCloseCode, WSMsgType, hdrs, web

from gateway import access, batch, parameters, tracing
from gateway.deadline import Deadline
from gateway.errors import GatewayError, InvalidParameter, Unauthorized
from gateway.observer import OK, fit_request_id
from gateway.rest import cors, outputs, problems
from gateway.rest.access import presented
from gateway.rest.face import EVENT, REQUEST_ID
from gateway.sequences import WINDOW, Frame, Sequences

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.access import Caller
    from gateway.detector import Query
    from gateway.rest.face import RestFace

PATH: Final = "/v1/stream"
PROTOCOL: Final = "eagleeye.frames.v1"
"""The WebSocket subprotocol of this exchange."""

_MODES: Final = {"latest": True, "ordered": False}
_NAMES: Final = ("model", "version", *parameters.NAMES, "mode")
_HEARTBEAT_SECONDS: Final = 20.0  # as often as browsers' connections through proxies need it
_FAREWELL_SECONDS: Final = 2.0  # for the caller to close, too
_LOOK_INTERVAL_SECONDS: Final = 0.5  # within which an open stream notices that this process drains, or its key is gone
_REPLACED_PAUSE_SECONDS: Final = 0.001  # after a frame that replaced another one, as for gRPC's streams
_SEQUENCE: Final = 0  # a stream has one camera

_log = structlog.get_logger()


@dataclass(slots=True, eq=False, kw_only=True)
class _SocketFrame(Frame):
    """One message.

    Attributes:
        number: which of the stream, from 0.
        data: the image as it came; empty if there is none, or no room for it.
        caller: who sent it, if keys are asked for.
        error: what was found wrong with it when it was read.
        answer: the message that answers it, once there is one.
    """

    number: int
    data: bytes
    caller: Caller | None
    error: GatewayError | None = None
    answer: str = ""
    arrived_at: float = field(default_factory=time.monotonic)


def routes(face: RestFace) -> list[web.RouteDef]:
    """The one route."""

    async def stream(request: web.Request) -> web.WebSocketResponse:
        _refuse_foreign_page(request, face.cors_origins)
        query, timeout_seconds, is_latest = _read(request)
        socket = web.WebSocketResponse(
            protocols=(PROTOCOL,),
            timeout=_FAREWELL_SECONDS,
            heartbeat=_HEARTBEAT_SECONDS,
            max_msg_size=face.core.limits.max_bytes,
            compress=False,  # images are compressed, and what inflates can't be trusted
        )
        if not socket.can_prepare(request):
            headers = {"Upgrade": "websocket", "Connection": "Upgrade"}
            raise problems.Refused(426, "upgrade_required", f"{PATH} is a WebSocket; connect to it as one", headers)
        socket.headers.update({"Server": "eagleeye", "X-Request-Id": request[REQUEST_ID]})
        await socket.prepare(request)
        frames = _Stream(face, request, socket, query, timeout_seconds, is_latest=is_latest)
        try:
            await frames.run()
        finally:
            request[EVENT].update(frames.counts)
        return socket

    return [web.get(PATH, stream, allow_head=False)]


def _refuse_foreign_page(request: web.Request, origins: tuple[str, ...]) -> None:
    """Browsers let any page connect to any WebSocket, and say whose it is: only ours and those allowed may.

    Raises:
        Refused: it is another's.
    """
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is None or cors.ANY in origins or origin.lower() in origins:
        return
    if origin.lower().partition("://")[2] != request.host.lower():
        raise problems.Refused(
            403, "forbidden_origin", "pages of this origin may not connect; --cors-origins allows them"
        )


def _read(request: web.Request) -> tuple[Query, float | None, bool]:
    """What is asked of every frame, the seconds that each may take, and whether a newer one replaces it.

    Raises:
        InvalidParameter: an unknown name, one given twice, or a bad value.
    """
    parameters.refuse_unknown(request.query, _NAMES)
    texts = dict(request.query)
    if len(texts) < len(request.query):
        raise InvalidParameter("a parameter is given more than once")
    mode = texts.pop("mode", "latest")
    if mode not in _MODES:
        raise InvalidParameter(f"mode is {mode[:100]!r}; it must be one of {', '.join(_MODES)}")
    return *parameters.read(texts), _MODES[mode]


class _Stream:
    """One open stream: a task that reads, and one for each frame in work."""

    def __init__(
        self,
        face: RestFace,
        request: web.Request,
        socket: web.WebSocketResponse,
        query: Query,
        timeout_seconds: float | None,
        *,
        is_latest: bool,
    ) -> None:
        self._face = face
        self._core = face.core
        self._socket = socket
        self._secret = presented(request)
        self._query = query
        self._timeout_seconds = face.core.timeout_seconds if timeout_seconds is None else timeout_seconds
        self._is_latest = is_latest
        self._flow = access.flow(request.remote or "", stream=request[REQUEST_ID])
        self._sequences = Sequences[_SocketFrame](max_bytes=WINDOW * face.core.limits.max_bytes)
        self._has_room = asyncio.Event()
        self._reading = asyncio.timeout(None)  # ends when it is told to
        self._is_reading = True
        self._is_sending = False
        self._farewell = (WSCloseCode.OK, "")
        self.counts = {"frames": 0, "answered": 0, "dropped": 0}

    async def run(self) -> None:
        """Answer frames until the caller leaves, the key is gone, or this process drains: what was read is answered."""
        with self._core.metrics.streams.track_inprogress(), self._looking():
            try:
                async with asyncio.TaskGroup() as self._tasks:
                    with suppress(TimeoutError):
                        async with self._reading:
                            await self._read()
                    self._is_reading = False
            except* _Left:
                pass
            finally:
                self._is_reading = False
                for frame in self._sequences:
                    self._core.memory.give(self._flow, len(frame.data))
        code, reason = self._farewell
        await self._socket.close(code=code, message=reason.encode())

    async def _read(self) -> None:
        """Take messages in, as fast as they may come.

        Raises:
            _Left: there are no more.
        """
        while True:
            message = await self._socket.receive()
            if message.type not in {WSMsgType.BINARY, WSMsgType.TEXT}:
                raise _Left
            try:
                frame = self._frame(message.data)
            except Unauthorized as error:
                self._farewell = (WSCloseCode.POLICY_VIOLATION, str(error))
                return
            del message
            if replaced := self._sequences.add(frame):
                self._core.memory.give(self._flow, len(replaced.data))
            self._begin()
            if frame.dropped:
                await asyncio.sleep(_REPLACED_PAUSE_SECONDS)
            del frame
            while not self._sequences.may_read:
                self._has_room.clear()
                await self._has_room.wait()

    def _frame(self, data: bytes | str) -> _SocketFrame:
        """A message as a frame, its bytes counted. What can't be one waits for its turn to be told so.

        Raises:
            Unauthorized: the key is no longer known.
        """
        caller, image = self._identify(), b""
        error: GatewayError | None = None
        if isinstance(data, str):
            error = InvalidParameter("a frame is a binary message, the bytes of one image; this one is text")
        else:
            try:
                self._core.memory.take(self._flow, len(data))
                image = data
            except GatewayError as no_room:
                error = no_room
        frame = _SocketFrame(
            sequence=_SEQUENCE,
            is_replaceable=self._is_latest and error is None,
            size_bytes=len(image),
            number=self.counts["frames"],
            data=image,
            caller=caller,
            error=error,
        )
        self.counts["frames"] += 1
        return frame

    def _begin(self) -> None:
        while frame := self._sequences.begin():
            self._tasks.create_task(self._work_on(frame))

    async def _work_on(self, frame: _SocketFrame) -> None:
        if frame.caller is not None:
            access.act_for(frame.caller)
        content = await self._answer(frame)
        frame.answer = orjson.dumps(
            {"frame": frame.number, "dropped": frame.dropped, **content}, option=orjson.OPT_SERIALIZE_NUMPY
        ).decode()
        self._sequences.finish(frame)
        if not self._is_sending:
            await self._send()

    async def _answer(self, frame: _SocketFrame) -> dict[str, Any]:
        """A frame's result or its error, which is counted and logged as a request of its own."""
        request_id = fit_request_id("")
        event: dict[str, object] = {"key": frame.caller.name} if frame.caller else {}
        status, code = 200, OK
        try:
            with tracing.request(f"WS {PATH}", {}):
                content = await self._detect(frame, event)
        except GatewayError as error:
            problem = problems.fields(error)
            status, code = problem["status"], error.code
            if error.retry_after_seconds is not None:
                problem["retry_after_seconds"] = error.retry_after_seconds
            content = {"error": problem}
        except asyncio.CancelledError:
            status, code = 499, "cancelled"  # as web servers log callers who have left
            raise
        except Exception:  # noqa: BLE001 the last line of defence, as for every other request
            _log.exception("unexpected error", request_id=request_id)
            status, code = 500, "internal"
            content = {"error": problems.unexpected()}
        finally:
            self._core.metrics.frames_dropped.labels(event.get("model", "")).inc(frame.dropped)
            self._face.observer.finished(
                code,
                time.monotonic() - frame.arrived_at,
                is_detection=True,
                is_failure=status >= 500,  # noqa: PLR2004 (HTTP's range of server errors)
                request_id=request_id,
                method="WS",
                path=PATH,
                status=status,
                dropped=frame.dropped,
                **event,
            )
        return {**content, "request_id": request_id}

    async def _detect(self, frame: _SocketFrame, event: dict[str, object]) -> dict[str, Any]:
        if not self._core.hold.is_due:
            model, version = self._core.predictor.find(self._query.model, self._query.version)
            event |= {"model": model.name, "version": version}
        if frame.number and frame.caller is not None and (quota := frame.caller.take()):
            quota.check()  # the first frame has the handshake's token
        if frame.error is not None:
            raise frame.error
        deadline = Deadline(frame.arrived_at + self._timeout_seconds, self._timeout_seconds)
        images = [frame.data]
        outcomes = await batch.detect_each(
            self._core,
            self._face.observer,
            images,
            self._query,
            deadline,
            event=event,
            flow=self._flow,
            sequence=self._flow,
        )
        event |= batch.log_fields(images, outcomes)
        (result,) = batch.all_results(outcomes)
        return outputs.answer(result)

    async def _send(self) -> None:
        """Send every answer whose turn it is. A caller that reads none makes this wait, and its further frames, too."""
        self._is_sending = True
        while frame := self._sequences.answer():
            try:
                await self._socket.send_str(frame.answer)
            except ConnectionError:  # the caller has gone: reading ends, too
                return
            self._sequences.handed_over()
            self._core.memory.give(self._flow, len(frame.data))
            self.counts["answered"] += 1
            self.counts["dropped"] += frame.dropped
            self._begin()
            self._has_room.set()
        self._is_sending = False

    def _identify(self) -> Caller | None:
        """Whose stream it is by now; None if no keys are asked for.

        Raises:
            Unauthorized: the key has been removed.
        """
        return None if self._core.access is None else self._core.access.identify(self._secret)

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """Look after the stream in the block, by a timer: whether this process drains, or its key is gone."""
        loop = asyncio.get_running_loop()

        def look() -> None:
            self._timer = loop.call_later(_LOOK_INTERVAL_SECONDS, look)
            try:
                self._identify()
            except Unauthorized as error:
                self._stop_reading(WSCloseCode.POLICY_VIOLATION, str(error))
            if self._core.lifecycle.is_draining:
                self._stop_reading(WSCloseCode.GOING_AWAY, "the gateway shuts down; connect again")

        self._timer = loop.call_later(_LOOK_INTERVAL_SECONDS, look)
        try:
            yield
        finally:
            self._timer.cancel()

    def _stop_reading(self, code: WSCloseCode, reason: str) -> None:
        if self._is_reading and self._reading.when() is None:
            self._farewell = (code, reason)
            self._reading.reschedule(asyncio.get_running_loop().time())


class _Left(Exception):
    """The caller has closed the stream, or is gone: frames in work are for nobody."""
