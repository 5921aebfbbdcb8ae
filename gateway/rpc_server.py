"""The gRPC face as a server: what it listens on, how connections are kept, and what is done for every call."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tritonclient.grpc import service_pb2_grpc

from gateway import rpc_access, rpc_health
from gateway.errors import GatewayError, InvalidParameter
from gateway.rpc import SERVICE, RpcFace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from gateway.tls import Tls

    Refuse = Callable[[Any, str, GatewayError], Awaitable[None]]

_HEADROOM_BYTES: Final = 1_000_000  # for what a message holds beside images
_LOOK_INTERVAL_SECONDS: Final = 1.0
_MALFORMED: Final = "the message is no protobuf message of the type that the call takes"

_log = structlog.get_logger()


class RpcEnded(Exception):
    """The gRPC server has stopped to serve although nobody told it to; the log says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connections:
    """How connections to callers are kept, and what one of them may take.

    Attributes:
        ping_seconds: a connection is pinged after so long without a byte from its caller, also while no call is open.
            Balancers drop idle connections without a word: HAProxy after 50 s as Debian sets it up, Azure's after
            240 s, AWS's after 350 s. So it must be well below the shortest of these.
        ping_timeout_seconds: a caller that has not answered a ping by then has vanished, and its calls are cancelled.
        min_callers_ping_seconds: callers may ping that often, also while no call is open. gRPC's libraries ping every
            10 s at most; its servers take offence at less than 5 minutes, and hang up with "too_many_pings".
        max_age_seconds: a connection older than that takes no new calls, so that its caller connects anew, through a
            balancer that may choose another gateway; calls that are open go on for as long as they like. None for no
            such limit.
        max_calls: most calls that are open on one connection; a caller's library holds further ones back. Room for
            a camera a call, but not for a caller that forgets to end them.
        max_metadata_bytes: most bytes of a call's metadata, which are held before a key is looked at.
        max_answer_bytes: most bytes of one answer. 32 images with 1000 detections each and labels of 900 bytes have
            less; what is larger is not meant to be sent.
        read_ahead_bytes: what gRPC takes in of a call before anybody reads it. Left to itself it follows the bandwidth,
            and was seen to hold 20 MB of each stream that was not read. So much lets a caller who is 50 ms away send
            20 MB a second.
    """

    ping_seconds: float = 30.0
    ping_timeout_seconds: float = 20.0
    min_callers_ping_seconds: float = 5.0
    max_age_seconds: float | None = None
    max_calls: int = 1000
    max_metadata_bytes: int = 16_384
    max_answer_bytes: int = 32_000_000
    read_ahead_bytes: int = 1_000_000

    def options(self) -> list[tuple[str, int]]:
        """As gRPC names them."""
        options = [
            ("grpc.keepalive_time_ms", _milliseconds(self.ping_seconds)),
            ("grpc.keepalive_timeout_ms", _milliseconds(self.ping_timeout_seconds)),
            # without it gRPC 1.85 waits for the answer to a ping for a minute, whatever the line above says
            ("grpc.http2.ping_timeout_ms", _milliseconds(self.ping_timeout_seconds)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", _milliseconds(self.min_callers_ping_seconds)),
            ("grpc.max_concurrent_streams", self.max_calls),
            # between the two gRPC would refuse at random
            ("grpc.max_metadata_size", self.max_metadata_bytes),
            ("grpc.absolute_max_metadata_size", self.max_metadata_bytes),
            ("grpc.max_send_message_length", self.max_answer_bytes),
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", self.read_ahead_bytes),
        ]
        if self.max_age_seconds is not None:
            options.append(("grpc.max_connection_age_ms", _milliseconds(self.max_age_seconds)))
        return options


@asynccontextmanager
async def serving_rpc(
    face: RpcFace,
    *,
    host: str,
    port: int,
    grace_seconds: float,
    connections: Connections | None = None,
    max_open_calls: int | None = None,
    tls: Tls | None = None,
    reuse_port: bool = False,
    on_end: Callable[[], None] = lambda: None,
) -> AsyncIterator[int]:
    """The gRPC face at `host`:`port`, 0 for a free one; yields the port.

    A message may be as large as the largest image, so several images of one call may be that large together. gRPC
    itself refuses a larger one with RESOURCE_EXHAUSTED before it is held in memory, and so it does with a call when
    `max_open_calls` are open already, streams among them; where keys are asked for, calls that need none get half of
    them. With `reuse_port`, other processes may listen there as well.
    `on_end` is called if the server ends by itself, as it does at an error of gRPC's own between two calls.

    Raises:
        OSError: the port can't be had.
    """
    await _check_address(host, port, reuse_port=reuse_port)
    health = rpc_health.Health(SERVICE, lambda: face.core.lifecycle.is_ready)
    keyless = None if max_open_calls is None else (max_open_calls + 1) // 2
    guards = [rpc_access.KeyRequired(face.core.access, face.refuse, keyless)] if face.core.access else []
    server = grpc.aio.server(
        interceptors=[*guards, _BuiltCallsOnly(), _MalformedRefused(face.refuse)],
        options=[
            ("grpc.max_receive_message_length", face.core.limits.max_bytes + _HEADROOM_BYTES),
            # by default on: two gateways that share a port by accident would share its calls as well
            ("grpc.so_reuseport", int(reuse_port)),
            *(connections or Connections()).options(),
        ],
        maximum_concurrent_rpcs=max_open_calls,
    )
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(face, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection((SERVICE, rpc_health.SERVICE, reflection.SERVICE_NAME), server)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        port = server.add_secure_port(address, tls.for_grpc()) if tls else server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"gRPC can't use {host}:{port}") from error
    await server.start()
    _log.info("listening", face="grpc", address=f"{host}:{port}")
    watching = asyncio.create_task(_watch(server, on_end), name="watch the gRPC server")
    try:
        yield port
    finally:
        watching.cancel()
        health.stop()
        face.core.lifecycle.drain()  # streams end when they see that, and would be waited for otherwise
        await server.stop(grace_seconds)


async def _watch(server: Any, on_end: Callable[[], None]) -> None:
    """Wait until a server has ended by itself; `wait_for_termination` is False then, or raises what has ended it.

    With a timeout it does so also while calls are open, for which a wait without one would go on.
    """
    reason: Exception | None = None
    try:
        while await server.wait_for_termination(_LOOK_INTERVAL_SECONDS):
            pass
    except Exception as error:  # noqa: BLE001 (whatever it was, nobody is served any more)
        reason = error
    _log.error("the gRPC server has ended by itself; so this process stops", exc_info=reason)
    on_end()


class _BuiltCallsOnly(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Hides the calls that `RpcFace` inherits: gRPC would log a traceback for each UNIMPLEMENTED that they raise."""

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any | None:
        service, _, call = handler_call_details.method.rpartition("/")
        is_built = service != f"/{SERVICE}" or call in vars(RpcFace)
        return await continuation(handler_call_details) if is_built else None


class _MalformedRefused(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Refuses bytes that are no message: gRPC would answer UNKNOWN, and log a traceback for each.

    The only message of a call is parsed inside its handler. A stream's are parsed where the handler waits for them, so
    that is where it sees `InvalidParameter`.
    """

    def __init__(self, refuse: Refuse) -> None:
        self._refuse = refuse

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any | None:
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_deserializer is None:
            return handler
        service, _, call = handler_call_details.method.rpartition("/")
        if not handler.request_streaming:
            return self._parsed_inside(handler, call)
        handler = handler._replace(request_deserializer=_parsing(handler.request_deserializer))
        return handler if service == f"/{SERVICE}" else self._stopped(handler, call)

    def _stopped(self, handler: Any, call: str) -> Any:
        """A handler of streams that is not ours, and knows nothing of the error."""

        async def answers(requests: Any, context: Any) -> AsyncIterator[Any]:
            try:
                async for each in handler.stream_stream(requests, context):
                    yield each
            except InvalidParameter as error:
                await self._refuse(context, call, error)

        return handler._replace(stream_stream=answers)

    def _parsed_inside(self, handler: Any, call: str) -> Any:
        parse = _parsing(handler.request_deserializer)

        async def answer(data: bytes, context: Any) -> Any:
            try:
                request = parse(data)
            except InvalidParameter as error:
                return await self._refuse(context, call, error)
            return await handler.unary_unary(request, context)

        async def answers(data: bytes, context: Any) -> AsyncIterator[Any]:
            try:
                request = parse(data)
            except InvalidParameter as error:
                await self._refuse(context, call, error)
            async for each in handler.unary_stream(request, context):
                yield each

        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(answers, response_serializer=handler.response_serializer)
        return grpc.unary_unary_rpc_method_handler(answer, response_serializer=handler.response_serializer)


def _parsing(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def parse(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            raise InvalidParameter(_MALFORMED) from None

    return parse


async def _check_address(host: str, port: int, *, reuse_port: bool) -> None:
    """Bind the address for a moment: what is wrong with it Python raises, while gRPC would only log it.

    Raises:
        OSError: it can't be had.
    """
    probe = await asyncio.get_running_loop().create_server(
        asyncio.Protocol, host, port, start_serving=False, reuse_port=reuse_port
    )
    probe.close()


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1e3)
