"""gRPC for `Client`: moves messages, over one connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
from tritonclient.grpc import service_pb2_grpc

from eagleeye.client.rpc import RpcRequest, call_error
from eagleeye.client.rpc_channel import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eagleeye.client.rpc import Rpc
    from eagleeye.client.scope import Scope


class RpcTransport:
    """Calls from any number of threads.

    Args:
        rpc: says where to, and with which metadata.
        credentials: what encrypts; None for a plain connection.
    """

    def __init__(self, rpc: Rpc, credentials: Any | None) -> None:
        self._rpc = rpc
        if credentials is None:
            self._channel = grpc.insecure_channel(rpc.authority, OPTIONS)
        else:
            self._channel = grpc.secure_channel(rpc.authority, credentials, OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def send(self, request: RpcRequest, seconds: float, scope: Scope) -> Any:
        """The answer to a call.

        Raises:
            TimeoutError: it is not there within `seconds`.
            EagleEyeError: the call failed.
        """
        scope.check()
        call = getattr(self._stub, request.method).future(request.message, timeout=seconds, metadata=self._rpc.metadata)
        try:
            with scope.aborting(call.cancel):
                return call.result()
        except grpc.RpcError as error:
            raise self.explained(error) from error
        except grpc.FutureCancelledError:
            scope.check()
            raise
        finally:
            call.cancel()  # for whoever interrupts this thread; otherwise the call is over

    def stream(self, frames: Iterator[Any]) -> Any:
        """The call that sends frames, an iterator of its answers; `cancel()` ends it."""
        return self._stub.ModelStreamInfer(frames, metadata=self._rpc.metadata)

    def explained(self, error: Any) -> Exception:
        """The error for a call that failed."""
        return call_error(
            error.code().name, error.details() or "", error.trailing_metadata() or (), self._rpc.authority
        )

    def close(self) -> None:
        """Close the connection; calls under way fail."""
        self._channel.close()
