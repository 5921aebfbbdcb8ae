"""The gRPC face: the Open Inference Protocol (v2) service as Triton speaks it, health and reflection.

To its callers the gateway is a model that takes encoded images and gives boxes. Calls of the protocol that are not
here yet answer UNIMPLEMENTED.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import grpc
import structlog
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway import access, batch, errors, oip, parameters, rpc_access, rpc_health, rpc_messages, tracing
from gateway.deadline import Deadline
from gateway.errors import GatewayError
from gateway.observer import OK, fit_request_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from gateway.core import Core
    from gateway.model import Model
    from gateway.observer import Observer

GRPC_STATUS: Final[dict[type[GatewayError], grpc.StatusCode]] = {
    errors.InvalidImage: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidParameter: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnsupportedMediaType: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ImageTooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unauthorized: grpc.StatusCode.UNAUTHENTICATED,
    errors.RateLimited: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.ModelNotFound: grpc.StatusCode.NOT_FOUND,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.TritonUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.InvalidPrediction: grpc.StatusCode.INTERNAL,
}
_CALLERS_DOING: Final = {
    grpc.StatusCode.OK,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNAUTHENTICATED,
}
_SERVICE: Final = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
_HEADROOM_BYTES: Final = 1_000_000  # for what a message holds beside images
_MAX_DETAIL_CHARACTERS: Final = 500  # escaped they still fit into the 8 KiB of trailing metadata that a client takes
_GIVING_UP_SECONDS: Final = 0.1  # a client's clock runs first: it cancels at its deadline, a moment before ours

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcFace(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # generated code has no types
    """The calls of the protocol.

    Attributes:
        core: what both faces stand on.
        observer: counts and logs requests.
    """

    core: Core
    observer: Observer

    async def ServerLive(self, _: Any, __: Any) -> Any:
        """Whether this process answers."""
        return service_pb2.ServerLiveResponse(live=True)

    async def ServerReady(self, _: Any, __: Any) -> Any:
        """Whether at least one detector is served and this process is not shutting down."""
        return service_pb2.ServerReadyResponse(ready=self.core.lifecycle.is_ready)

    async def ServerMetadata(self, _: Any, __: Any) -> Any:
        """Name and version of this server."""
        return service_pb2.ServerMetadataResponse(**oip.SERVER)

    async def ModelReady(self, request: Any, _: Any) -> Any:
        """Whether the model is served in that version, or in any if none is named."""
        try:
            self._find(request)
        except GatewayError:
            return service_pb2.ModelReadyResponse(ready=False)
        return service_pb2.ModelReadyResponse(ready=True)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        """The tensors that a model takes and gives."""
        async with self._observed(context, "ModelMetadata"):
            return service_pb2.ModelMetadataResponse(**oip.model_metadata(self._find(request)))

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        """The detections of one or more images, which are worked on at the same time."""
        async with self._observed(context, "ModelInfer", request.id) as event:
            query, asked_seconds = rpc_messages.read_parameters(request)
            model, version = self.core.predictor.find(query.model, query.version)
            event |= {"model": model.name, "version": version}
            query = replace(query, model=model.name, version=version)  # one version for all images of the call
            names = rpc_messages.read_outputs(request)
            images = rpc_messages.read_images(request)
            deadline = self._deadline(asked_seconds, context)
            outcomes = await batch.detect_each(
                self.core.detector, self.observer, images, query, deadline, all_or_none=True
            )
            event.update(batch.log_fields(images, outcomes))
            results = batch.all_results(outcomes)
            with self.core.metrics.stage("encode", results[0].model.name):
                return rpc_messages.infer_response(request.id, results, names)

    async def refuse(self, context: Any, method: str, error: GatewayError) -> None:
        """Fail a call before its request is read, as if the call itself had failed."""
        async with self._observed(context, method):
            raise error

    def _find(self, request: Any) -> Model:
        wanted, _ = oip.read_query({}, request.name, request.version)
        model, _ = self.core.predictor.find(wanted.model, wanted.version)
        return model

    def _deadline(self, asked_seconds: float | None, context: Any) -> Deadline:
        """The nearer of the parameter's and the call's own; the default if there is neither."""
        given = (seconds for seconds in (asked_seconds, context.time_remaining()) if seconds is not None)
        return Deadline.after(min(min(given, default=self.core.timeout_seconds), parameters.MAX_TIMEOUT_MS / 1e3))

    @asynccontextmanager
    async def _observed(self, context: Any, method: str, given_id: str = "") -> AsyncIterator[dict[str, object]]:
        """Turn errors into statuses, and let the observer count and log the call; yields fields for its log line."""
        start = time.perf_counter()
        request_id = fit_request_id(given_id)
        caller = access.current()
        event: dict[str, object] = {"key": caller.name} if caller else {}
        status, code = grpc.StatusCode.OK, OK
        try:
            with tracing.request(f"{_SERVICE}/{method}", dict(context.invocation_metadata() or ())):
                yield event
        except asyncio.CancelledError:
            status, code = grpc.StatusCode.CANCELLED, "cancelled"
            remaining_seconds = context.time_remaining()
            if remaining_seconds is not None and remaining_seconds < _GIVING_UP_SECONDS:
                status, code = grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded.code
            raise
        except Exception as error:  # noqa: BLE001 the last line of defence: what is no `GatewayError` goes to the log
            status, code, detail = _outcome(error, request_id)
            await context.abort(status, detail, _trailing_metadata(error, code, request_id))
        finally:
            self.observer.finished(
                code,
                time.perf_counter() - start,
                is_detection=method == "ModelInfer",
                is_failure=status not in _CALLERS_DOING and code != errors.RateLimited.code,
                request_id=request_id,
                method=method,
                status=status.name,
                **event,
            )


class _BuiltCallsOnly(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Hides the calls that `RpcFace` inherits: gRPC would log a traceback for each UNIMPLEMENTED that they raise."""

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any | None:
        service, _, call = handler_call_details.method.rpartition("/")
        is_built = service != f"/{_SERVICE}" or call in vars(RpcFace)
        return await continuation(handler_call_details) if is_built else None


@asynccontextmanager
async def serving_rpc(face: RpcFace, *, host: str, port: int, grace_seconds: float) -> AsyncIterator[int]:
    """The gRPC face at `host`:`port`, 0 for a free one; yields the port.

    A message may be as large as the largest image, so several images of one call may be that large together. gRPC
    itself refuses a larger one with RESOURCE_EXHAUSTED before it is held in memory.

    Raises:
        OSError: the port can't be had.
    """
    await _check_address(host, port)
    health = rpc_health.Health(_SERVICE, lambda: face.core.lifecycle.is_ready)
    guards = [rpc_access.KeyRequired(face.core.access, face.refuse)] if face.core.access else []
    server = grpc.aio.server(
        interceptors=[*guards, _BuiltCallsOnly()],
        options=[
            ("grpc.max_receive_message_length", face.core.limits.max_bytes + _HEADROOM_BYTES),
            ("grpc.so_reuseport", 0),  # two gateways that share a port by accident would share its calls as well
        ],
    )
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(face, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection((_SERVICE, rpc_health.SERVICE, reflection.SERVICE_NAME), server)
    try:
        port = server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except RuntimeError as error:
        raise OSError(f"gRPC can't use {host}:{port}") from error
    await server.start()
    _log.info("listening", face="grpc", address=f"{host}:{port}")
    try:
        yield port
    finally:
        health.stop()
        await server.stop(grace_seconds)


async def _check_address(host: str, port: int) -> None:
    """Bind the address for a moment: what is wrong with it Python raises, while gRPC would only log it.

    Raises:
        OSError: it can't be had.
    """
    probe = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port, start_serving=False)
    probe.close()


def _outcome(error: Exception, request_id: str) -> tuple[grpc.StatusCode, str, str]:
    """Status, stable code and text of a failed call. Only the gateway's own words reach the caller."""
    if isinstance(error, GatewayError):
        return GRPC_STATUS[type(error)], error.code, str(error)[:_MAX_DETAIL_CHARACTERS]
    _log.error("unexpected error", request_id=request_id, exc_info=error)
    detail = "an unexpected error happened; the log has it under the request id"
    return grpc.StatusCode.INTERNAL, "internal", detail


def _trailing_metadata(error: Exception, code: str, request_id: str) -> tuple[tuple[str, str], ...]:
    metadata: tuple[tuple[str, str], ...] = (("eagleeye-code", code), ("x-request-id", request_id))
    if isinstance(error, errors.Overloaded | errors.RateLimited):
        metadata += (("retry-after", str(error.retry_after_seconds)),)
    return metadata
