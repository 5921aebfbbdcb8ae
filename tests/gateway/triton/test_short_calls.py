"""Our own client for short calls: real gRPC servers, asked beside `grpc.aio`, and servers that break HTTP/2."""

import asyncio
import contextlib

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from hpack import Encoder
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

from gateway.triton import short_calls
from gateway.triton.short_calls import ShortCalls
from tests.gateway.triton.fake_triton import SOON, until
from tests.platform.conftest import free_ports

METHOD = "/test.Echo/Say"
PREFACE_BYTES = 24


class Echo(grpc.GenericRpcHandler):
    """Answers with what is sent, but for some words."""

    def __init__(self):
        self.metadata, self.seconds, self.peers = {}, 0.0, set()
        self.waiting = self.cancelled = 0

    def service(self, handler_call_details):
        return grpc.unary_unary_rpc_method_handler(self._say) if handler_call_details.method == METHOD else None

    async def _say(self, request, context):
        self.metadata, self.seconds = dict(context.invocation_metadata()), context.time_remaining()
        self.peers.add(context.peer())
        words = StringValue.FromString(request).value
        if words == "refuse":
            await context.abort(grpc.StatusCode.NOT_FOUND, "kein Modell „größe“, 100 % sicher")
        if words == "wait":
            await self._wait()
        return said("large " * 500_000) if words == "large" else request

    async def _wait(self):
        self.waiting += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


def said(words):
    return StringValue(value=words).SerializeToString()


@contextlib.asynccontextmanager
async def serving(echo, port=0, **options):
    server = grpc.aio.server(options=[(f"grpc.{name}", value) for name, value in options.items()])
    server.add_generic_rpc_handlers([echo])
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def calling(port, method=METHOD):
    calls = ShortCalls(f"127.0.0.1:{port}", method, StringValue.FromString)
    try:
        yield calls
    finally:
        await calls.close()


@pytest.fixture
def echo():
    return Echo()


@pytest.fixture
async def port(echo):
    async with serving(echo) as port:
        yield port


@pytest.fixture
async def calls(port):
    async with calling(port) as calls:
        yield calls


async def ask(calls, words="hello", seconds=SOON):
    return (await calls(said(words), timeout=seconds)).value


@pytest.mark.parametrize("method", [METHOD, "/test.Echo/Unknown"])
@pytest.mark.parametrize("words", ["", "hello", "x" * 10_000, "large", "refuse"])
async def test_it_says_what_grpc_says(port, words, method):
    """The same response, or the same status and words."""

    async def outcome(call):
        try:
            return (await call).value
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details()

    async with calling(port, method) as calls, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        theirs = channel.unary_unary(method, response_deserializer=StringValue.FromString)
        for _ in range(2):
            ours = await outcome(calls(said(words), timeout=SOON))
            assert ours == await outcome(theirs(said(words), timeout=SOON))


async def test_headers_and_deadline_arrive(calls, echo):
    """As the caller gave them."""
    await calls(said("hello"), timeout=20, metadata=(("traceparent", "00-ab-cd-01"),))
    assert echo.metadata["traceparent"] == "00-ab-cd-01"
    assert 0 < echo.seconds <= 20


async def test_many_at_a_time_get_each_its_own(calls, echo):
    """On one connection."""
    words = [f"number {number}" for number in range(300)]
    assert await asyncio.gather(*(ask(calls, each) for each in words)) == words
    assert len(echo.peers) == 1


async def test_a_deadline_ends_a_call_on_both_sides(calls, echo):
    """And no other."""
    assert await ask(calls) == "hello"
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await ask(calls, "wait", seconds=0.1)
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: echo.cancelled == 1)
    assert await ask(calls) == "hello"


async def test_a_caller_that_leaves_is_told_to_the_server(calls, echo):
    """Whether its task is cancelled or the call itself; others go on."""
    task = asyncio.create_task(ask(calls, "wait"))
    call, other = (calls(said("wait"), timeout=SOON) for _ in range(2))
    await until(lambda: echo.waiting == 3)
    task.cancel()
    call.cancel()
    await until(lambda: echo.cancelled == 2)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not other.done()
    assert await ask(calls) == "hello"
    assert echo.cancelled == 2


async def test_close_cancels_what_is_under_way(port, echo):
    """And a second time does nothing."""
    async with calling(port) as calls:
        call = calls(said("wait"), timeout=SOON)
        await until(lambda: echo.waiting == 1)
        await calls.close()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: echo.cancelled == 1)


async def test_a_lost_server_fails_its_calls_and_can_come_back(echo):
    """At the same address; while nobody is there, calls are refused."""
    (port,) = free_ports(1)
    async with calling(port) as calls:
        async with serving(echo, port):
            waiting = asyncio.create_task(ask(calls, "wait"))
            await until(lambda: echo.waiting == 1)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await waiting
        assert failure.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await ask(calls)
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
        async with serving(echo, port):
            assert await ask(calls) == "hello"


async def test_a_server_may_renew_connections(echo):
    """It says goodbye to the old one, which finishes what it has; no call fails."""
    options = {"max_connection_age_ms": 50, "max_connection_age_grace_ms": 10_000}
    async with serving(echo, **options) as port, calling(port) as calls, asyncio.timeout(SOON):
        while len(echo.peers) < 3:
            assert await ask(calls) == "hello"


async def test_windows_are_given_back(monkeypatch, echo):
    """Else the server would stop after so many bytes."""
    monkeypatch.setattr(short_calls, "_LARGEST_WINDOW", 200_000)
    monkeypatch.setattr(short_calls, "_RENEW_WINDOW_BYTES", 50_000)
    async with serving(echo) as port, calling(port) as calls:
        words = "x" * 15_000
        for _ in range(40):
            assert await ask(calls, words) == words


# servers that do as they are told


class Script:
    """A server that sends, upon each request, the frames that `answer` makes for its stream.

    Attributes:
        received: all frames that it got.
    """

    def __init__(self, answer, settings=None):
        self.answer, self._settings = answer, settings
        self.received = []
        self.connections = 0

    async def __call__(self, reader, writer):
        self.connections += 1
        try:
            await self._serve(reader, writer)
        finally:
            writer.close()
            self.connections -= 1

    async def _serve(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readexactly(PREFACE_BYTES)
            writer.write(SettingsFrame(settings=self._settings or {}).serialize())
            while True:
                frame, size = Frame.parse_frame_header(memoryview(await reader.readexactly(9)))
                frame.parse_body(memoryview(await reader.readexactly(size)))
                self.received.append(frame)
                if isinstance(frame, DataFrame):
                    answer = self.answer(frame.stream_id)
                    if answer is None:
                        break
                    self.write(
                        writer, b"".join(part if isinstance(part, bytes) else part.serialize() for part in answer)
                    )

    def write(self, writer, data):
        writer.write(data)


@contextlib.asynccontextmanager
async def scripted(script):
    server = await asyncio.start_server(script, "127.0.0.1", 0)
    try:
        async with calling(server.sockets[0].getsockname()[1]) as calls:
            yield calls
    finally:
        server.close()
        await until(lambda: not script.connections)


def block(**headers):
    return Encoder().encode([(name.replace("_", "-"), value, True) for name, value in headers.items()])


def head(stream, status="200"):
    return HeadersFrame(stream, Encoder().encode([(":status", status, True)]), flags=["END_HEADERS"])


HELLO = b"\0\0\0\0\7" + said("hello")


def body(stream, content=HELLO):
    return DataFrame(stream, content)


def trailers(stream, **headers):
    return HeadersFrame(stream, block(**headers or {"grpc_status": "0"}), flags=["END_HEADERS", "END_STREAM"])


def whole(stream):
    return [head(stream), body(stream), trailers(stream)]


def only_http(stream, status):
    frame = head(stream, status)
    frame.flags.add("END_STREAM")
    return [frame]


async def test_all_that_http2_allows_is_read():
    """Padding, priorities, headers and messages in parts, frames byte by byte, news about nothing of ours."""

    def answer(stream):
        first = head(stream)
        first.flags |= {"PADDED", "PRIORITY"}
        first.pad_length = 7
        padded = DataFrame(stream, HELLO[4:], flags=["PADDED"], pad_length=3)
        last = block(grpc_status="0", grpc_message="fine")
        ended = HeadersFrame(stream, last[:3], flags=["END_STREAM"])
        rest = [ContinuationFrame(stream, last[3:6]), ContinuationFrame(stream, last[6:], flags=["END_HEADERS"])]
        unknown = b"\0\0\2\xee\0\0\0\0\0ok"
        return [first, WindowUpdateFrame(stream, 5), unknown, body(stream, HELLO[:4]), padded, ended, *rest]

    class Slowly(Script):
        def write(self, writer, data):
            for byte in data:
                writer.write(bytes([byte]))

    for script in (Script(answer), Slowly(answer)):
        async with scripted(script) as calls:
            assert [await ask(calls), await ask(calls)] == ["hello", "hello"]


async def test_pings_and_settings_are_acknowledged():
    """With the bytes that the ping had."""
    script = Script(lambda stream: [PingFrame(opaque_data=b"12345678"), *whole(stream)])
    async with scripted(script) as calls:
        assert await ask(calls) == "hello"
        await until(lambda: any(isinstance(frame, PingFrame) for frame in script.received))
        (ping,) = [frame for frame in script.received if isinstance(frame, PingFrame)]
        assert (ping.opaque_data, ping.flags) == (b"12345678", {"ACK"})
        assert any(isinstance(frame, SettingsFrame) and "ACK" in frame.flags for frame in script.received)


CODE = grpc.StatusCode


@pytest.mark.parametrize(
    "answer, code",
    [
        (lambda stream: [trailers(stream, grpc_status="14", grpc_message="a%20b%E2%82%AC")], CODE.UNAVAILABLE),
        (lambda stream: [head(stream), trailers(stream, grpc_status="99", grpc_message="?")], CODE.UNKNOWN),
        (lambda stream: only_http(stream, "503"), CODE.UNAVAILABLE),
        (lambda stream: only_http(stream, "404"), CODE.UNIMPLEMENTED),
        (lambda stream: only_http(stream, "418"), CODE.UNKNOWN),
        (lambda stream: [head(stream), trailers(stream)], CODE.INTERNAL),
        (lambda stream: [head(stream), body(stream, b"\0\0\0\0\1"), trailers(stream)], CODE.INTERNAL),
        (lambda stream: [head(stream), body(stream, b"\1\0\0\0\1x"), trailers(stream)], CODE.INTERNAL),
        (lambda stream: [head(stream), body(stream, b"\0\0\0\0\1\xff"), trailers(stream)], CODE.INTERNAL),
        (lambda stream: [head(stream), DataFrame(stream, b"", flags=["END_STREAM"])], CODE.INTERNAL),
        (lambda stream: [RstStreamFrame(stream, 7)], CODE.UNAVAILABLE),
        (lambda stream: [RstStreamFrame(stream, 8)], CODE.CANCELLED),
        (lambda stream: [RstStreamFrame(stream, 2)], CODE.INTERNAL),
        (lambda _: [GoAwayFrame(0, last_stream_id=0, error_code=0)], CODE.UNAVAILABLE),
        (lambda _: None, CODE.UNAVAILABLE),
        (lambda _: [b"HTTP/1.1 400 Bad Request\r\n\r\n"], CODE.UNAVAILABLE),
        (lambda _: [b"\0\0\1\4\0\0\0\0\0x"], CODE.UNAVAILABLE),
        (lambda stream: [HeadersFrame(stream, b"\xff\xff\xff\xff\xff", flags=["END_HEADERS"])], CODE.UNAVAILABLE),
        (lambda stream: [HeadersFrame(stream, b"x" * 2**20), ContinuationFrame(stream, b"x")], CODE.UNAVAILABLE),
    ],
)
async def test_an_answer_that_is_none_is_an_error(answer, code):
    """One of gRPC's, however the server breaks the rules; the next call is answered."""
    script = Script(answer)
    async with scripted(script) as calls:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await ask(calls)
        assert failure.value.code() is code
        assert failure.value.details()
        script.answer = whole
        assert await ask(calls) == "hello"


@pytest.mark.parametrize(
    "settings, taken",
    [
        ({}, 16_379),
        ({SettingsFrame.INITIAL_WINDOW_SIZE: 100}, 95),
        ({SettingsFrame.INITIAL_WINDOW_SIZE: 2**20, SettingsFrame.MAX_FRAME_SIZE: 2**17}, 65_518),  # less "hello"
    ],
)
async def test_only_what_goes_out_at_once_is_taken(settings, taken):
    """By what the server says of windows and frames; the rest is for `grpc.aio`."""
    async with scripted(Script(whole, settings)) as calls:
        assert await ask(calls) == "hello"
        assert calls.takes(taken)
        assert not calls.takes(taken + 1)


async def test_the_window_is_used_up_and_given_back():
    """And so is the number of calls at a time."""
    script = Script(lambda _: [], {SettingsFrame.MAX_CONCURRENT_STREAMS: 5})
    async with scripted(script) as calls:
        waiting = [calls(said("x" * 16_000), timeout=SOON) for _ in range(4)]
        assert not calls.takes(16_000)
        assert calls.takes(1)
        await until(lambda: len([frame for frame in script.received if isinstance(frame, DataFrame)]) == 4)
        waiting.append(calls(said("x"), timeout=SOON))
        await until(lambda: not calls.takes(1))
        for call in waiting:
            call.cancel()
        await until(lambda: calls.takes(1))
        assert not calls.takes(16_000)
        script.answer = lambda stream: [WindowUpdateFrame(0, 100_000), *whole(stream)]
        assert await ask(calls) == "hello"
        assert calls.takes(16_000)
