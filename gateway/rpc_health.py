"""grpc.health.v1 for the gRPC face."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SERVICE: Final = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

_WATCH_INTERVAL_SECONDS: Final = 0.5


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # generated code has no types
    """grpc.health.v1: serving while `is_ready` says so, for the server as a whole and for one `service`.

    The library's own servicer forgets its watchers when one of them leaves, and would keep a server from stopping for
    as long as anybody watches.
    """

    def __init__(self, service: str, is_ready: Callable[[], bool]) -> None:
        self._service = service
        self._is_ready = is_ready
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Say NOT_SERVING from now on, and let watchers go after they have heard it."""
        self._stopping.set()

    async def Check(self, request: Any, context: Any) -> Any:
        """The status now."""
        status = self._status(request.service)
        if status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: Any, _: Any) -> AsyncIterator[Any]:
        """The status now, and each time it has changed."""
        told = None
        while True:
            status, is_last = self._status(request.service), self._stopping.is_set()
            if status != told:
                yield health_pb2.HealthCheckResponse(status=status)
            if is_last:
                return
            told = status
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WATCH_INTERVAL_SECONDS):
                    await self._stopping.wait()

    def _status(self, service: str) -> int:
        status = health_pb2.HealthCheckResponse
        if service not in ("", self._service):
            return status.SERVICE_UNKNOWN  # type: ignore[no-any-return]
        is_serving = self._is_ready() and not self._stopping.is_set()
        return status.SERVING if is_serving else status.NOT_SERVING  # type: ignore[no-any-return]
