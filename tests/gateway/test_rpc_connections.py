"""How the gRPC face keeps its connections, seen through a proxy; and what one connection may take."""

import asyncio
import contextlib

import grpc
import pytest
from grpc_health.v1 import health_pb2
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.rpc_server import Connections, serving_rpc
from tests.gateway.conftest import LIMITS
from tests.gateway.test_rpc import SERVICE, infer_request, refusal, until

PING = service_pb2.ServerLiveRequest()
MIN_PING_INTERVAL = "grpc.http2.min_ping_interval_without_data_ms"
TICK_SECONDS = 0.02


class Proxy:
    """A balancer of connections: passes bytes on, and drops a connection that is idle for too long.

    Args:
        port: of the server behind it.
        idle_seconds: how long a connection may be without a byte in either direction. A pause of the whole machine
            does not count: nobody could have sent one.
    """

    def __init__(self, port, idle_seconds=60.0):
        self._port = port
        self._idle_seconds = idle_seconds
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._closing = asyncio.Event()
        self._tasks = set()
        self.connections = 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        self._closing.set()
        await asyncio.gather(*self._tasks)

    def freeze(self):
        """Lose all bytes from now on, as a cable does that is pulled."""
        self._flowing.clear()

    async def _accept(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        self.connections += 1
        onward_reader, onward = await asyncio.open_connection("127.0.0.1", self._port)
        idle_ticks = 0

        async def pump(source, target):
            nonlocal idle_ticks
            while data := await source.read(65536):
                await self._flowing.wait()
                idle_ticks = 0
                target.write(data)

        async def until_idle():
            nonlocal idle_ticks
            while idle_ticks * TICK_SECONDS < self._idle_seconds:
                await asyncio.sleep(TICK_SECONDS)
                idle_ticks += 1

        parts = [
            asyncio.ensure_future(part)
            for part in (pump(reader, onward), pump(onward_reader, writer), until_idle(), self._closing.wait())
        ]
        await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)
        for each in (writer, onward):
            each.transport.abort()


@pytest.fixture
def connect(rpc_face):
    """Serves behind a proxy, with connections of the test's own; yields the proxy and a channel through it."""

    @contextlib.asynccontextmanager
    async def connect(face=rpc_face, idle_seconds=60.0, options=(), **settings):
        connections = Connections(**settings)
        async with (
            serving_rpc(face, host="127.0.0.1", port=0, grace_seconds=5, connections=connections) as port,
            Proxy(port, idle_seconds) as proxy,
            grpc.aio.insecure_channel(proxy.address, options=options) as channel,
        ):
            yield proxy, channel

    return connect


def stub(channel):
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.mark.parametrize("ping_seconds, connections", [(0.1, 1), (30, 2)])
async def test_an_idle_connection_is_kept_alive(connect, ping_seconds, connections):
    """By pings that are more frequent than the balancer's patience is short; without them it would be dropped."""
    async with connect(idle_seconds=0.6, ping_seconds=ping_seconds) as (proxy, channel):
        await stub(channel).ServerLive(PING)
        if connections == 1:
            await asyncio.sleep(1.5)
        else:
            await until(lambda: channel.get_state() is not grpc.ChannelConnectivity.READY)
        await stub(channel).ServerLive(PING, wait_for_ready=True)
        assert proxy.connections == connections


async def test_an_idle_stream_is_kept_alive(connect):
    """A watcher that hears nothing for long is still there when there is something to hear."""
    async with connect(idle_seconds=0.6, ping_seconds=0.1) as (proxy, channel):
        watcher = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )(health_pb2.HealthCheckRequest())
        assert (await watcher.read()).status == health_pb2.HealthCheckResponse.SERVING
        await asyncio.sleep(1.5)
        assert not watcher.done()
        assert proxy.connections == 1
        watcher.cancel()


async def test_a_caller_that_vanished_is_noticed(connect, predictor, png):
    """Nobody hung up, but nobody answers pings either: its work is cancelled."""
    predictor.go.clear()
    async with connect(ping_seconds=0.1, ping_timeout_seconds=1) as (proxy, channel):
        call = asyncio.ensure_future(stub(channel).ModelInfer(infer_request(png)).code())
        await until(lambda: predictor.tensors)
        proxy.freeze()
        await until(lambda: predictor.cancelled)
        call.cancel()


class Pinger:
    """A client that knows as much of HTTP/2 (RFC 9113) as it takes to ping."""

    SETTINGS, PING, GOAWAY, ACK = 4, 6, 7, 1

    def __init__(self, reader, writer):
        self._reader, self._writer = reader, writer
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self._send(self.SETTINGS)

    async def ping(self):
        """Send a ping and wait for what comes back; the reason if the server says good-bye instead."""
        self._send(self.PING, payload=bytes(8))
        while True:
            header = await self._reader.readexactly(9)
            kind, flags = header[3], header[4]
            payload = await self._reader.readexactly(int.from_bytes(header[:3], "big"))
            if kind == self.SETTINGS and not flags:
                self._send(self.SETTINGS, self.ACK)
            if kind == self.PING and flags:
                return None
            if kind == self.GOAWAY:
                return payload[8:].decode()

    def _send(self, kind, flags=0, payload=b""):
        self._writer.write(len(payload).to_bytes(3, "big") + bytes([kind, flags, 0, 0, 0, 0]) + payload)


@pytest.mark.parametrize("min_seconds, reason", [(0.02, None), (60, "too_many_pings")])
async def test_callers_may_ping(connect, min_seconds, reason):
    """As often as is allowed, without a call; who goes on pinging more often is hung up on."""
    async with connect(min_callers_ping_seconds=min_seconds) as (proxy, _):
        reader, writer = await asyncio.open_connection(*proxy.address.split(":"))
        pinger, answers = Pinger(reader, writer), []
        for _ in range(8):
            answers.append(await pinger.ping())
            if answers[-1]:
                break
            await asyncio.sleep(0.03)
        writer.transport.abort()
        assert answers[-1] == reason
        assert len(answers) == 8 or reason


def test_the_libraries_pings_are_tolerated():
    """Those of gRPC's own clients, which come every 10 s at the most often, and may be held up on their way."""
    assert dict(Connections().options())[MIN_PING_INTERVAL] <= 5_000


async def test_an_old_connection_takes_no_new_calls(connect, predictor, png):
    """They come over a new one, while the call that is open goes on for as long as it likes."""
    predictor.go.clear()
    async with connect(max_age_seconds=0.3) as (proxy, channel):
        open_call = stub(channel).ModelInfer(infer_request(png))
        await until(lambda: predictor.tensors)
        async with asyncio.timeout(30):
            while proxy.connections < 2:
                await stub(channel).ServerLive(PING, wait_for_ready=True)
                await asyncio.sleep(0.02)
        assert not open_call.done()
        predictor.go.set()
        assert (await open_call).outputs


async def test_a_connection_is_not_aged_unless_that_is_asked_for():
    """Whose balancer spreads calls has nothing from it."""
    assert "grpc.max_connection_age_ms" not in dict(Connections().options())


async def test_a_connection_takes_so_many_calls_at_a_time(connect, predictor, png):
    """The caller's own library holds the next one back until one of them ends."""
    predictor.go.clear()
    async with connect(max_calls=2) as (proxy, channel):
        calls = [stub(channel).ModelInfer(infer_request(png)) for _ in range(3)]
        await until(lambda: len(predictor.tensors) == 2)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub(channel).ServerLive(PING, timeout=0.3)
        assert len(predictor.tensors) == 2
        predictor.go.set()
        assert all([(await call).outputs for call in calls])
        assert proxy.connections == 1


async def test_large_metadata_are_refused(connect):
    """The connection still serves the next call, with as much as fits."""
    async with connect() as (_, channel):
        status, _, _ = await refusal(stub(channel).ServerLive(PING, metadata=(("x", "a" * 20_000),)))
        assert status == "RESOURCE_EXHAUSTED"
        assert (await stub(channel).ServerLive(PING, metadata=(("x", "a" * 15_000),))).live


async def test_a_large_answer_is_not_sent(connect):
    """It fails as a call; the connection serves the next one."""
    async with connect(max_answer_bytes=100) as (proxy, channel):
        request = service_pb2.ModelConfigRequest(name="toy")
        status, _, detail = await refusal(stub(channel).ModelConfig(request))
        assert status == "RESOURCE_EXHAUSTED"
        assert "larger than max" in detail
        assert (await stub(channel).ServerLive(PING)).live
        assert proxy.connections == 1


async def test_a_large_message_is_explained(connect, png):
    """In gRPC's own words, which have both numbers."""
    async with connect() as (proxy, channel):
        request = infer_request(bytes(LIMITS.max_bytes + 2_000_000))
        status, _, detail = await refusal(stub(channel).ModelInfer(request))
        assert status == "RESOURCE_EXHAUSTED"
        assert f"larger than max ({request.ByteSize()} vs. {LIMITS.max_bytes + 1_000_000})" in detail
        assert (await stub(channel).ModelInfer(infer_request(png))).outputs
        assert proxy.connections == 1


@pytest.mark.parametrize(
    "method, call",
    [
        (f"/{SERVICE}/ModelInfer", "unary_unary"),
        (f"/{SERVICE}/ServerLive", "unary_unary"),
        ("/grpc.health.v1.Health/Check", "unary_unary"),
        ("/grpc.health.v1.Health/Watch", "unary_stream"),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "stream_stream"),
    ],
)
async def test_what_is_no_protobuf_message_is_explained(connect, caplog, method, call):
    """INVALID_ARGUMENT, and no traceback: whoever sends nonsense does not fill the log."""
    async with connect() as (_, channel):
        make = getattr(channel, call)(method)
        if call == "stream_stream":
            answer = make(iter([b"\xff\xff\xff"])).read()
        elif call == "unary_stream":
            answer = make(b"\xff\xff\xff").read()
        else:
            answer = make(b"\xff\xff\xff")
        status, code, detail = await refusal(answer)
    assert (status, code) == ("INVALID_ARGUMENT", "invalid_parameter")
    assert detail == "the message is no protobuf message of the type that the call takes"
    assert not caplog.records


async def test_a_frame_that_is_no_protobuf_message_fails_alone(connect, caplog, png):
    """The stream goes on with the next one."""
    async with connect() as (_, channel):
        frames = [b"\xff\xff\xff", infer_request(png).SerializeToString()]
        stream = channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer", response_deserializer=service_pb2.ModelStreamInferResponse.FromString
        )(iter(frames))
        answers = [answer async for answer in stream]
    assert [bool(answer.error_message) for answer in answers] == [True, False]
    assert answers[0].infer_response.parameters["code"].string_param == "invalid_parameter"
    assert not caplog.records
