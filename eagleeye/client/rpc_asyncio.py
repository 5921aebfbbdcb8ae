"""gRPC for `AsyncClient`: moves messages, over one connection."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

import grpc
from tritonclient.grpc import service_pb2_grpc

from eagleeye.client.errors import Unreachable
from eagleeye.client.rpc import RpcRequest, call_error
from eagleeye.client.rpc_channel import OPTIONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from eagleeye.client.rpc import Rpc


T = TypeVar("T")

_STATUS_SECONDS: Final = 1.0
"""How long the gateway's status may be behind that of a write which failed because of it."""


class RpcTransport:
    """Calls from one event loop.

    Args:
        rpc: says where to, and with which metadata.
        credentials: what encrypts; None for a plain connection.
    """

    def __init__(self, rpc: Rpc, credentials: Any | None) -> None:
        self._rpc = rpc
        self._credentials = credentials
        self._channel: Any = None

    async def send(self, request: RpcRequest, seconds: float) -> Any:
        """The answer to a call.

        Raises:
            TimeoutError: it is not there within `seconds`.
            EagleEyeError: the call failed.
        """
        call = getattr(self._stub(), request.method)(request.message, timeout=seconds, metadata=self._rpc.metadata)
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise _explained(error, self._rpc.authority) from error
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            raise Unreachable("the connection was closed", is_retryable=True) from None  # by `aclose`

    def stream(self, frames: AsyncIterator[Any]) -> StreamCall:
        """The call that sends frames; `cancel()` ends it."""
        return StreamCall(self._stub().ModelStreamInfer(frames, metadata=self._rpc.metadata), self._rpc.authority)

    async def aclose(self) -> None:
        """Close the connection; calls under way fail."""
        if self._channel is not None:
            await self._channel.close()

    def _stub(self) -> Any:
        if self._channel is None:  # made here, as it belongs to the loop that runs now
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(self._rpc.authority, OPTIONS)
            else:
                self._channel = grpc.aio.secure_channel(self._rpc.authority, self._credentials, OPTIONS)
            self._inference = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        return self._inference


class StreamCall:
    """One call of a stream: gives its messages, and how it ended.

    gRPC hides how a call ended behind a status of its own if a write fails at that moment, before the gateway's status
    has come or even after (grpc/grpc#36066). So each status is noted as it is set, and the gateway's is told.
    """

    def __init__(self, call: Any, authority: str) -> None:
        self._call = call
        self._authority = authority
        self._failure: Exception | None = None
        self._is_told = asyncio.Event()
        call.add_done_callback(self._note)

    async def messages(self) -> AsyncIterator[Any]:
        """The gateway's messages.

        Raises:
            Exception: the call failed, as `call_error` words it.
        """
        try:
            async for message in self._call:
                yield message
        except grpc.aio.AioRpcError as error:
            if _is_of_a_write(error.code(), error.details()):
                with suppress(TimeoutError):
                    async with asyncio.timeout(_STATUS_SECONDS):
                        await self._is_told.wait()
            broken = Unreachable("the connection broke", is_retryable=True)
            raise (self._failure or broken) from error

    def cancel(self) -> None:
        """End the call."""
        self._call.cancel()

    def _note(self, _: Any) -> None:
        code, details = _at_once(self._call.code()), _at_once(self._call.details())
        if _is_of_a_write(code, details):
            return
        if code is not grpc.StatusCode.OK:
            trailing = _at_once(self._call.trailing_metadata())
            self._failure = call_error(code.name, details or "", tuple(trailing or ()), self._authority)
        self._is_told.set()


def _explained(error: Any, authority: str) -> Exception:
    return call_error(error.code().name, error.details() or "", tuple(error.trailing_metadata() or ()), authority)


def _is_of_a_write(code: Any, details: str | None) -> bool:
    """Whether a status is not the gateway's but that of a write that failed."""
    return code is grpc.StatusCode.INTERNAL and details == "Internal error from Core"


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that has nothing to wait for, as what tells of a call that has ended."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    coroutine.close()
    raise RuntimeError("the call has not ended")


def is_cancelled() -> bool:
    """Whether this task itself is being cancelled, and not only the call that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
