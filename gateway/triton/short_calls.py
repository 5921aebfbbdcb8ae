"""Unary gRPC calls with short requests, at half of what `grpc.aio` takes for one.

A question about a tensor in shared memory has some 300 bytes. `grpc.aio` hands each call to a thread of its own and
back; here the event loop itself reads and writes the socket. hpack compresses headers, and hyperframe knows the frames,
but for the two that calls consist of. (h2, which has all of HTTP/2, takes as long as `grpc.aio`.) What is left out is
what short requests can do without: one that does not go out in one piece at once is none for here, see
`ShortCalls.takes`.

Source: gRPC over HTTP/2 (github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md), RFC 9113 (HTTP/2), RFC 7541 (HPACK).
"""

from __future__ import annotations

import asyncio
import math
import struct
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final, Generic, TypeVar, cast
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError
from hpack import Decoder, Encoder, HPACKError
from hyperframe.exceptions import HyperframeError
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Response = TypeVar("Response")

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_CONNECT_SECONDS: Final = 1.0
_FRAME_HEADER: Final = struct.Struct(">HBBBI")  # length (two numbers), type, flags, stream
_END_STREAM: Final = 1  # flags
_END_HEADERS: Final = 4
_MOST_FRAME_BYTES: Final = 2**20  # what a frame may have that is sent to us
_LARGEST_WINDOW: Final = 2**31 - 1
_RENEW_WINDOW_BYTES: Final = 2**30  # once so much was received, the other side gets it back
_FIRST_WINDOW: Final = 2**16 - 1  # of connections and streams, until somebody says otherwise
_FIRST_FRAME_BYTES: Final = 2**14
_LAST_STREAM: Final = 2**31 - 1
_MESSAGE_HEADER: Final = struct.Struct(">?I")  # whether it is compressed, and its length
_MOST_TIMEOUT: Final = 10**8 - 1  # eight digits
_CANCEL: Final = 8  # of the codes in RFC 9113, 7
_BY_NUMBER: Final = {str(code.value[0]): code for code in grpc.StatusCode}
_BY_RESET: Final = {
    7: grpc.StatusCode.UNAVAILABLE,
    _CANCEL: grpc.StatusCode.CANCELLED,
    11: grpc.StatusCode.RESOURCE_EXHAUSTED,
    12: grpc.StatusCode.PERMISSION_DENIED,
}
_BY_HTTP_STATUS: Final = {
    "400": grpc.StatusCode.INTERNAL,
    "401": grpc.StatusCode.UNAUTHENTICATED,
    "403": grpc.StatusCode.PERMISSION_DENIED,
    "404": grpc.StatusCode.UNIMPLEMENTED,
    **dict.fromkeys(("429", "502", "503", "504"), grpc.StatusCode.UNAVAILABLE),
}


class ShortCalls(Generic[Response]):
    """Calls of one `method` (`/package.Service/Method`) of the server at `address` (`host:port`), without TLS.

    They share a connection, which is made when the first one needs it, and anew after it was lost.
    """

    def __init__(self, address: str, method: str, response_deserializer: Callable[[bytes], Response]) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._deserialize = response_deserializer
        self._head = _encoded(
            {
                ":method": "POST",
                ":scheme": "http",
                ":path": method,
                ":authority": address,
                "te": "trailers",
                "content-type": "application/grpc",
            }.items()
        )
        self._connection: _Connection[Response] | None = None
        self._connecting: asyncio.Task[None] | None = None

    def takes(self, byte_size: int) -> bool:
        """Whether a request of so many bytes can be sent now; if not, it is one for `grpc.aio`."""
        return self._connection is None or self._connection.is_closing or self._connection.takes(byte_size)

    def __call__(
        self, request: bytes, *, timeout: float, metadata: Sequence[tuple[str, str]] = ()
    ) -> asyncio.Future[Response]:
        """Begin a call, which `takes` its size: the response, or the error that `grpc.aio` would raise.

        Whoever cancels the future, or the task that awaits it, cancels the call at the server, too.

        Args:
            request: a serialized message.
            timeout: in seconds; the server gets to know it to the next hundredth.
            metadata: further headers.

        Raises:
            grpc.aio.AioRpcError: of the future; there is no response.
        """
        if self._connection is None or self._connection.is_closing:
            self._connection = _Connection(self._deserialize)
            self._connecting = asyncio.create_task(self._connect(self._connection), name=f"connect to {self._host}")
        head = self._head + _encoded_timeout(math.ceil(max(timeout, 0.0) * 1e2))
        if metadata:
            head += _encoded(metadata)
        return self._connection.begin(head, request, timeout)

    async def _connect(self, connection: _Connection[Response]) -> None:
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await asyncio.get_running_loop().create_connection(lambda: connection, self._host, self._port)
        except OSError as error:  # a TimeoutError is one
            connection.fail(grpc.StatusCode.UNAVAILABLE, f"failed to connect: {error or 'timed out'}")

    async def close(self) -> None:
        """Cancel what is under way, and close the connection."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._connection is not None:
            self._connection.cancel_all()


@dataclass(slots=True, eq=False)
class _Call(Generic[Response]):
    """A call under way.

    Attributes:
        future: its response.
        timer: ends it when there is no time left.
        body: what has come of the response.
        status: of HTTP, as soon as that is there.
    """

    future: asyncio.Future[Response]
    timer: asyncio.TimerHandle
    body: bytearray = field(default_factory=bytearray)
    status: str = ""


class _Connection(asyncio.Protocol, Generic[Response]):
    """One HTTP/2 connection. What is sent before it is made waits for that.

    Attributes:
        is_closing: it takes no new calls, for good.
    """

    def __init__(self, deserialize: Callable[[bytes], Response]) -> None:
        self.is_closing = False
        self._deserialize = deserialize
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._unsent = [
            _PREFACE,
            SettingsFrame(
                settings={
                    # without a table, each block of headers stands for itself: the same bytes, the same headers
                    SettingsFrame.HEADER_TABLE_SIZE: 0,
                    SettingsFrame.ENABLE_PUSH: 0,
                    SettingsFrame.INITIAL_WINDOW_SIZE: _LARGEST_WINDOW,
                    SettingsFrame.MAX_FRAME_SIZE: _MOST_FRAME_BYTES,
                }
            ).serialize(),
            WindowUpdateFrame(0, _LARGEST_WINDOW - _FIRST_WINDOW).serialize(),
        ]
        self._calls: dict[int, _Call[Response]] = {}
        self._next_stream = 1
        self._received = b""  # the beginning of a frame
        self._received_bytes = 0  # that count against the window of the connection
        self._headers: HeadersFrame | None = None  # which go on in the next frame
        # what the other side takes
        self._window = self._stream_window = _FIRST_WINDOW
        self._most_frame_bytes = _FIRST_FRAME_BYTES
        self._most_streams = math.inf

    def takes(self, byte_size: int) -> bool:
        """Whether a request of so many bytes goes out in one piece now."""
        size = byte_size + _MESSAGE_HEADER.size
        return size <= min(self._window, self._stream_window, self._most_frame_bytes) and (
            len(self._calls) < self._most_streams
        )

    def begin(self, head: bytes, request: bytes, timeout: float) -> asyncio.Future[Response]:
        """See `ShortCalls.__call__`; `head` is a block of headers."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        if self._next_stream > _LAST_STREAM:
            self.is_closing = True
        future = self._loop.create_future()
        future.add_done_callback(partial(self._on_done, stream))
        self._calls[stream] = _Call(future, self._loop.call_later(timeout, self._expire, stream))
        body = _MESSAGE_HEADER.pack(False, len(request)) + request
        self._window -= len(body)
        self._send(
            _frame(HeadersFrame.type, _END_HEADERS, stream, head) + _frame(DataFrame.type, _END_STREAM, stream, body)
        )
        return future

    def fail(self, code: grpc.StatusCode, details: str) -> None:
        """End all calls, and the connection."""
        self.is_closing = True
        for stream in list(self._calls):
            self._fail(stream, code, details)
        if self._transport is not None:
            self._transport.abort()

    def cancel_all(self) -> None:
        """End all calls as if their callers had cancelled them, and the connection when that is sent."""
        self.is_closing = True
        for call in list(self._calls.values()):
            call.future.cancel()
        self._close_if_idle()

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send what has waited."""
        self._transport = cast("asyncio.Transport", transport)  # other loops' need not say so
        self._transport.writelines(self._unsent)
        self._unsent.clear()
        self._close_if_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        """End all calls."""
        self.fail(grpc.StatusCode.UNAVAILABLE, "the connection was closed" if exc is None else f"it broke: {exc}")

    def data_received(self, data: bytes) -> None:
        """Act on whole frames, and keep what begins the next one."""
        try:
            self._received = self._read(memoryview(self._received + data if self._received else data))
        except (HyperframeError, HPACKError) as error:
            self.fail(grpc.StatusCode.UNAVAILABLE, f"the answer is not HTTP/2: {error}")
        else:
            self._close_if_idle()

    def _read(self, view: memoryview) -> bytes:
        """Act on whole frames; what is left, which is less than one."""
        while len(view) >= _FRAME_HEADER.size:
            size_above, size_below, kind, flags, stream = _FRAME_HEADER.unpack_from(view)
            size = size_above << 8 | size_below
            if size > _MOST_FRAME_BYTES:
                raise HyperframeError(f"a frame has {size} bytes")
            end = _FRAME_HEADER.size + size
            if len(view) < end:
                break
            self._on_frame(kind, flags, stream, view[:end])
            view = view[end:]
        return bytes(view)

    # frames

    def _on_frame(self, kind: int, flags: int, stream: int, view: memoryview) -> None:
        """What every call brings is taken apart here, for speed; hyperframe knows all the rest."""
        is_last, others = bool(flags & _END_STREAM), flags & ~_END_STREAM
        stream &= _LAST_STREAM  # without the bit that is reserved
        if stream and kind == DataFrame.type and others == 0:
            self._on_data(stream, view[_FRAME_HEADER.size :], size=len(view) - _FRAME_HEADER.size, is_last=is_last)
        elif stream and kind == HeadersFrame.type and others == _END_HEADERS:
            self._on_headers(stream, view[_FRAME_HEADER.size :], is_last=is_last)
        else:
            frame, _ = Frame.parse_frame_header(view[: _FRAME_HEADER.size])
            frame.parse_body(view[_FRAME_HEADER.size :])
            (self._on_stream if frame.stream_id else self._on_connection)(frame)

    def _on_stream(self, frame: Frame) -> None:
        """What is about one call."""
        match frame:
            case DataFrame():
                is_last = "END_STREAM" in frame.flags
                self._on_data(frame.stream_id, frame.data, size=frame.flow_controlled_length, is_last=is_last)
            case HeadersFrame():
                self._headers = frame
                self._on_part_of_headers(frame)
            case ContinuationFrame() if self._headers is not None:
                self._headers.data += frame.data
                self._on_part_of_headers(frame)
            case RstStreamFrame():
                code = _BY_RESET.get(frame.error_code, grpc.StatusCode.INTERNAL)
                self._fail(frame.stream_id, code, f"the call was reset with error {frame.error_code}")

    def _on_connection(self, frame: Frame) -> None:
        """What is about all calls."""
        match frame:
            case SettingsFrame() if "ACK" not in frame.flags:
                self._set(frame.settings)
                self._send(SettingsFrame(flags=["ACK"]).serialize())
            case PingFrame() if "ACK" not in frame.flags:
                self._send(PingFrame(opaque_data=frame.opaque_data, flags=["ACK"]).serialize())
            case GoAwayFrame():
                self.is_closing = True
                for stream in [stream for stream in self._calls if stream > frame.last_stream_id]:
                    self._fail(stream, grpc.StatusCode.UNAVAILABLE, "the server closes the connection")
            case WindowUpdateFrame():
                self._window += frame.window_increment

    def _set(self, settings: Mapping[int, int]) -> None:
        self._stream_window = settings.get(SettingsFrame.INITIAL_WINDOW_SIZE, self._stream_window)
        self._most_frame_bytes = settings.get(SettingsFrame.MAX_FRAME_SIZE, self._most_frame_bytes)
        self._most_streams = settings.get(SettingsFrame.MAX_CONCURRENT_STREAMS, self._most_streams)

    def _on_data(self, stream: int, data: bytes | memoryview, *, size: int, is_last: bool) -> None:
        """A part of a response; its padding, if any, counts in `size`."""
        self._received_bytes += size
        if self._received_bytes >= _RENEW_WINDOW_BYTES:
            self._send(WindowUpdateFrame(0, self._received_bytes).serialize())
            self._received_bytes = 0
        if call := self._calls.get(stream):
            call.body += data
            if is_last:
                self._fail(stream, grpc.StatusCode.INTERNAL, "the answer has no status")

    def _on_part_of_headers(self, part: HeadersFrame | ContinuationFrame) -> None:
        assert self._headers is not None  # noqa: S101 (it is the part, or what came before)
        whole = self._headers
        if len(whole.data) > _MOST_FRAME_BYTES:
            raise HyperframeError("headers have no end")
        if "END_HEADERS" in part.flags:
            self._headers = None
            self._on_headers(whole.stream_id, whole.data, is_last="END_STREAM" in whole.flags)

    def _on_headers(self, stream: int, block: bytes | memoryview, *, is_last: bool) -> None:
        headers = _decoded(bytes(block))
        if call := self._calls.get(stream):
            call.status = headers.get(":status", call.status)
            if is_last:
                self._finish(stream, call, headers)

    # the end of a call

    def _finish(self, stream: int, call: _Call[Response], trailers: Mapping[str, str]) -> None:
        number = trailers.get("grpc-status")
        if number is None:
            code = _BY_HTTP_STATUS.get(call.status, grpc.StatusCode.UNKNOWN)
            self._fail(stream, code, f"the answer is not gRPC's: HTTP status {call.status}")
        elif number != "0":
            code = _BY_NUMBER.get(number, grpc.StatusCode.UNKNOWN)
            self._fail(stream, code, unquote(trailers.get("grpc-message", "")))
        elif (message := _message(call.body)) is None:
            self._fail(stream, grpc.StatusCode.INTERNAL, "the answer is not one whole message")
        else:
            try:
                response = self._deserialize(message)
            except DecodeError:
                self._fail(stream, grpc.StatusCode.INTERNAL, "the answer can't be deserialized")
                return
            call.timer.cancel()
            del self._calls[stream]
            call.future.set_result(response)

    def _fail(self, stream: int, code: grpc.StatusCode, details: str) -> None:
        call = self._calls.pop(stream, None)
        if call is None:
            return
        call.timer.cancel()
        if not call.future.done():
            nothing = grpc.aio.Metadata()
            call.future.set_exception(grpc.aio.AioRpcError(code, nothing, nothing, details=details))

    def _expire(self, stream: int) -> None:
        self._fail(stream, grpc.StatusCode.DEADLINE_EXCEEDED, "there is no time left")
        self._reset(stream)

    def _on_done(self, stream: int, _: object) -> None:
        if call := self._calls.pop(stream, None):  # it is still under way: its caller has cancelled it
            call.timer.cancel()
            self._reset(stream)

    def _reset(self, stream: int) -> None:
        self._send(RstStreamFrame(stream, _CANCEL).serialize())
        self._close_if_idle()

    def _send(self, data: bytes) -> None:
        if self._transport is None:
            self._unsent.append(data)
        else:
            self._transport.write(data)

    def _close_if_idle(self) -> None:
        if self.is_closing and not self._calls and self._transport is not None:
            self._transport.close()


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return _FRAME_HEADER.pack(len(body) >> 8, len(body) & 0xFF, kind, flags, stream) + body


def _message(body: bytearray) -> bytes | None:
    """The one message of a response; None if it isn't one, or compressed, which nobody has asked for."""
    if len(body) < _MESSAGE_HEADER.size:
        return None
    is_compressed, size = _MESSAGE_HEADER.unpack_from(body)
    return None if is_compressed or size != len(body) - _MESSAGE_HEADER.size else bytes(body[_MESSAGE_HEADER.size :])


@lru_cache
def _encoded_timeout(hundredths: int) -> bytes:
    """The header for so many hundredths of a second: few enough values that most are found here."""
    return _encoded((("grpc-timeout", f"{min(10 * hundredths, _MOST_TIMEOUT)}m"),))


def _encoded(headers: Iterable[tuple[str, str]]) -> bytes:
    """A block of headers, none of which enters a table: the same headers, the same bytes."""
    return Encoder().encode([(name, value, True) for name, value in headers])


@lru_cache
def _decoded(block: bytes) -> Mapping[str, str]:
    """The headers of a whole block from a peer that has no table."""
    return {str(name): str(value) for name, value in Decoder().decode(block)}
