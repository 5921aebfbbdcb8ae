"""The calls of the gRPC face: the Open Inference Protocol (v2) service as Triton speaks it.

To its callers the gateway is a model that takes encoded images and gives boxes. Calls of the protocol that are not
here yet answer UNIMPLEMENTED.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import grpc
import structlog
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway import access, batch, errors, oip, parameters, rpc_messages, tracing
from gateway.deadline import Deadline
from gateway.errors import GatewayError
from gateway.metrics import StageTimer
from gateway.observer import OK, fit_request_id
from gateway.rpc_stream import FrameStream, ShuttingDown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gateway.core import Core
    from gateway.model import Model
    from gateway.observer import Observer
    from gateway.rpc_stream import FrameContext, StreamFrame

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
_NO_FAILURES: Final = {errors.RateLimited.code, ShuttingDown.code}
_STREAM: Final = "ModelStreamInfer"
SERVICE: Final = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
"""The protocol's service, as calls name it."""

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
            model = self._find(request)
        except GatewayError:
            return service_pb2.ModelReadyResponse(ready=False)
        return service_pb2.ModelReadyResponse(ready=model.name in self.core.predictor.models)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        """The tensors that a model takes and gives."""
        async with self._observed(context, "ModelMetadata"):
            return service_pb2.ModelMetadataResponse(**oip.model_metadata(self._find(request)))

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        """The same as Triton's config of a model, with what a client may want to know of a detector."""
        async with self._observed(context, "ModelConfig"):
            return service_pb2.ModelConfigResponse(config=oip.model_config(self._find(request)))

    async def RepositoryIndex(self, _: Any, context: Any) -> Any:
        """Every version of every model that is served to this caller; a repository's name is let be."""
        async with self._observed(context, "RepositoryIndex"):
            return service_pb2.RepositoryIndexResponse(models=oip.repository_index(self.core.predictor.models))

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        """The detections of one or more images, which are worked on at the same time."""
        async with self._observed(context, "ModelInfer", request.id, is_detection=True) as event:
            flow = access.flow(rpc_messages.address_of(context.peer()))
            with self.core.memory.hold(flow) as hold:
                hold(request.ByteSize())
                sequence = rpc_messages.named_sequence(request, flow)
                return await self._infer(request, event, flow, sequence, partial(self._deadline, context))

    async def ModelStreamInfer(self, _: Any, context: Any) -> None:
        """Frames of cameras: each is a ModelInfer of one image, and is answered in the order of its sequence."""
        async with self._observed(context, _STREAM) as event:
            stream = FrameStream(self.core, context, self._infer_frame)
            try:
                await stream.run()
            finally:
                event.update(stream.counts)

    async def _infer_frame(self, frame: StreamFrame, context: FrameContext) -> Any:
        """The answer to one frame, whose context takes its error."""
        if frame.caller is not None:
            access.act_for(frame.caller)
        async with self._observed(
            context, _STREAM, frame.request.id, is_detection=True, waited_seconds=frame.age_seconds()
        ) as event:
            event |= {"sequence": frame.sequence, "dropped": frame.dropped}
            try:
                frame.check()
                deadline = partial(frame.deadline, self.core.timeout_seconds)
                return await self._infer(frame.request, event, frame.flow, frame.camera, deadline)
            finally:
                self.core.metrics.frames_dropped.labels(event.get("model", "")).inc(frame.dropped)

    async def refuse(self, context: Any, method: str, error: GatewayError) -> None:
        """Fail a call before its request is read, as if the call itself had failed."""
        async with self._observed(context, method, is_detection=method in {"ModelInfer", _STREAM}):
            raise error

    async def _infer(
        self,
        request: Any,
        event: dict[str, object],
        flow: str,
        sequence: str,
        deadline: Callable[[float | None], Deadline],
    ) -> Any:
        """The answer to a ModelInfer request; `deadline` is told the seconds that it asks for, if it does."""
        query, asked_seconds = rpc_messages.read_parameters(request)
        if not self.core.hold.is_due:
            model, _ = self.core.predictor.find(query.model, query.version)
            event["model"] = model.name
            query = replace(query, model=model.name)  # also if others come while it is worked on
        names = rpc_messages.read_outputs(request)
        images = rpc_messages.read_images(request)
        outcomes = await batch.detect_each(
            self.core,
            self.observer,
            images,
            query,
            deadline(asked_seconds),
            event=event,
            flow=flow,
            sequence=sequence,
            all_or_none=True,
        )
        event.update(batch.log_fields(images, outcomes))
        results = batch.all_results(outcomes)
        with StageTimer(self.core.metrics, results[0].model.name).stage("encode"):
            return rpc_messages.infer_response(request.id, results, names)

    def _find(self, request: Any) -> Model:
        wanted, _ = oip.read_query({}, request.name, request.version)
        model, _ = self.core.predictor.find(wanted.model, wanted.version)
        return model

    def _deadline(self, context: Any, asked_seconds: float | None) -> Deadline:
        """The nearer of the parameter's and the call's own; the default if there is neither."""
        given = (seconds for seconds in (asked_seconds, context.time_remaining()) if seconds is not None)
        return Deadline.after(min(min(given, default=self.core.timeout_seconds), parameters.MAX_TIMEOUT_MS / 1e3))

    @asynccontextmanager
    async def _observed(
        self, context: Any, method: str, given_id: str = "", *, is_detection: bool = False, waited_seconds: float = 0
    ) -> AsyncIterator[dict[str, object]]:
        """Turn errors into statuses, and let the observer count and log the call; yields fields for its log line."""
        start = time.perf_counter() - waited_seconds
        request_id = fit_request_id(given_id)
        caller = access.current()
        event: dict[str, object] = {"key": caller.name} if caller else {}
        status, code = grpc.StatusCode.OK, OK
        try:
            with tracing.request(f"{SERVICE}/{method}", dict(context.invocation_metadata() or ())):
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
                is_detection=is_detection,
                is_failure=status not in _CALLERS_DOING and code not in _NO_FAILURES,
                request_id=request_id,
                method=method,
                status=status.name,
                **event,
            )


def _outcome(error: Exception, request_id: str) -> tuple[grpc.StatusCode, str, str]:
    """Status, stable code and text of a failed call. Only the gateway's own words reach the caller."""
    if isinstance(error, GatewayError):
        return GRPC_STATUS[type(error)], error.code, str(error)[:_MAX_DETAIL_CHARACTERS]
    if isinstance(error, ShuttingDown):
        return grpc.StatusCode.UNAVAILABLE, ShuttingDown.code, str(error)
    _log.error("unexpected error", request_id=request_id, exc_info=error)
    detail = "an unexpected error happened; the log has it under the request id"
    return grpc.StatusCode.INTERNAL, "internal", detail


def _trailing_metadata(error: Exception, code: str, request_id: str) -> tuple[tuple[str, str], ...]:
    metadata: tuple[tuple[str, str], ...] = (("eagleeye-code", code), ("x-request-id", request_id))
    if isinstance(error, GatewayError) and error.retry_after_seconds is not None:
        metadata += (("retry-after", str(error.retry_after_seconds)),)
    return metadata
