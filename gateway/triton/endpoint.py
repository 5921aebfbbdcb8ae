"""One Triton: its channel, what it serves now, and inference on it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, Self

import grpc
import numpy as np
import structlog
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway import tracing
from gateway.detections import RawPredictions
from gateway.errors import (
    GatewayError,
    InvalidPrediction,
    ModelNotFound,
    Overloaded,
    TritonUnavailable,
)
from gateway.model import find
from gateway.triton.contract import BOXES, CLASS_IDS, IMAGES, SCORES, ContractError, parse_model

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

    from gateway.deadline import Deadline
    from gateway.image import UInt8Array
    from gateway.metrics import Metrics
    from gateway.model import Model

_PROBE_INTERVAL_SECONDS: Final = 0.5
_PROBE_TIMEOUT_SECONDS: Final = 1.0  # with the interval: a Triton that stalls is known to within 1.5 s
_CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # gRPC's own pace, up to two minutes between attempts, would leave a restarted Triton idle for as long
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 10_000),  # notices a machine that vanished without a word
    ("grpc.keepalive_timeout_ms", 2_000),
)
_NOT_READY: Final = "not at ready state"  # how Triton words it; the same status may mean that Triton is gone
_DTYPES: Final = {"FP32": np.dtype(np.float32), "INT32": np.dtype(np.int32)}

_log = structlog.get_logger()


class Endpoint:
    """The predictor on one Triton at `url` (`host:port` of its gRPC service).

    While entered, it probes which detectors are ready twice a second. `find` never waits: a Triton that is away
    makes requests fail at once, and they succeed again by themselves when it is back.
    """

    def __init__(self, url: str, metrics: Metrics) -> None:
        self.url = url
        self.models: dict[str, Model] = {}
        self._refused: dict[str, str] = {}  # models that are no detectors, and why: said once, not with every probe
        self._up = metrics.endpoint_up.labels(url)
        self._probe_now = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._channel = grpc.aio.insecure_channel(self.url, options=_CHANNEL_OPTIONS)
        self._triton = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        await self._probe()
        self._watching = asyncio.create_task(self._watch(), name=f"watch {self.url}")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)
        await self._channel.close()

    def find(self, name: str | None, version: int | None) -> tuple[Model, int]:
        """See `gateway.detector.Predictor.find`."""
        return find(self.models, name, version)

    async def predict(self, model: Model, version: int, tensor: UInt8Array, deadline: Deadline) -> RawPredictions:
        """See `gateway.detector.Predictor.predict`."""
        request = _infer_request(model, version, tensor)
        try:
            response = await self._triton.ModelInfer(
                request, timeout=deadline.remaining_seconds(), metadata=tuple(tracing.headers().items())
            )
        except grpc.aio.AioRpcError as error:
            raise self._translate(error, model, deadline) from error
        try:
            return _predictions(response, model)
        except ValueError as error:
            _log.error("invalid prediction", endpoint=self.url, model=model.name, version=version, reason=str(error))
            raise InvalidPrediction(f"Triton's answer for {model.name} breaks the model contract") from error

    def _translate(self, error: grpc.aio.AioRpcError, model: Model, deadline: Deadline) -> GatewayError:
        """What a failed inference means to the caller. Triton's own words go to the log, not to the answer."""
        match error.code():
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                return deadline.exceeded()
            case grpc.StatusCode.NOT_FOUND:
                self._probe_now.set()
                return ModelNotFound(f"{model.name} is no longer served")
            case grpc.StatusCode.UNAVAILABLE if _NOT_READY in (error.details() or ""):
                self._probe_now.set()
                return TritonUnavailable(f"that version of {model.name} has just been replaced; try again")
            case grpc.StatusCode.RESOURCE_EXHAUSTED:
                return Overloaded(f"Triton's queue for {model.name} is full", retry_after_seconds=1)
        _log.error(
            "inference failed", endpoint=self.url, model=model.name, status=error.code().name, reason=error.details()
        )
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            self._lose("the connection broke")
        return TritonUnavailable(f"Triton could not run {model.name}; try again shortly")

    async def _watch(self) -> None:
        while True:
            # not `wait_for`: in Python 3.11 it loses a cancellation that comes together with the event
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PROBE_INTERVAL_SECONDS):
                    await self._probe_now.wait()
            self._probe_now.clear()
            await self._probe()

    async def _probe(self) -> None:
        """Bring `models` up to date. Whatever Triton answers, the next probe comes."""
        try:
            self._serve(await self._look())
        except grpc.aio.AioRpcError as error:
            self._lose(error.details() or error.code().name)
        except Exception:  # noqa: BLE001 (an answer that nobody thought of must not end the watch)
            _log.exception("unexpected error", endpoint=self.url)
            self._lose("its answer to the probe was not understood")

    async def _look(self) -> dict[str, Model]:
        """Ask which models are ready, and read their configs: one may change while its version stays."""
        ready = await self._ready_versions()
        models = {name: await self._read(name, versions) for name, versions in ready.items()}
        return {name: model for name, model in models.items() if model is not None}

    async def _ready_versions(self) -> dict[str, tuple[int, ...]]:
        index = await self._triton.RepositoryIndex(
            service_pb2.RepositoryIndexRequest(ready=True), timeout=_PROBE_TIMEOUT_SECONDS
        )
        names = {entry.name for entry in index.models}
        return {
            name: tuple(sorted(int(entry.version) for entry in index.models if entry.name == name)) for name in names
        }

    async def _read(self, name: str, versions: tuple[int, ...]) -> Model | None:
        """The model's contract, or None for a model that is no detector: it is Triton's, and not ours to serve."""
        request = service_pb2.ModelConfigRequest(name=name)
        response = await self._triton.ModelConfig(request, timeout=_PROBE_TIMEOUT_SECONDS)
        try:
            return parse_model(response.config, versions)
        except ContractError as error:
            if self._refused.get(name) != str(error):
                _log.warning("model not served", endpoint=self.url, model=name, reason=str(error))
            self._refused[name] = str(error)
            return None

    def _serve(self, models: dict[str, Model]) -> None:
        if models != self.models:
            served = {name: list(model.versions) for name, model in sorted(models.items())}
            _log.info("triton serves", endpoint=self.url, models=served)
        self.models = models
        self._up.set(bool(models))

    def _lose(self, reason: str) -> None:
        if self.models:
            _log.warning("triton lost", endpoint=self.url, reason=reason)
        self.models = {}
        self._up.set(0)


def _infer_request(model: Model, version: int, tensor: UInt8Array) -> service_pb2.ModelInferRequest:
    return service_pb2.ModelInferRequest(
        model_name=model.name,
        model_version=str(version),
        inputs=[
            service_pb2.ModelInferRequest.InferInputTensor(name=IMAGES, datatype="UINT8", shape=(1, *tensor.shape))
        ],
        outputs=[
            service_pb2.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in (BOXES, SCORES, CLASS_IDS)
        ],
        raw_input_contents=[tensor.tobytes()],
    )


def _predictions(response: service_pb2.ModelInferResponse, model: Model) -> RawPredictions:
    """Read and check Triton's answer for one image; an empty tensor is an error, not "no detections".

    Raises:
        ValueError: it breaks the contract; the message says how.
    """
    k = model.candidates
    arrays = {
        output.name: _array(output, raw)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }
    for name, shape in ((BOXES, (1, k, 4)), (SCORES, (1, k)), (CLASS_IDS, (1, k))):
        if name not in arrays or arrays[name].shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {arrays[name].shape if name in arrays else 'none'}")
    class_ids = arrays[CLASS_IDS][0]
    if class_ids.min() < 0 or class_ids.max() >= len(model.labels):
        raise ValueError(f"class_ids reach from {class_ids.min()} to {class_ids.max()} of {len(model.labels)} labels")
    return RawPredictions(arrays[BOXES][0], arrays[SCORES][0], class_ids)


def _array(output: service_pb2.ModelInferResponse.InferOutputTensor, raw: bytes) -> NDArray[np.generic]:
    if output.datatype not in _DTYPES:
        raise ValueError(f"{output.name} has type {output.datatype}")
    return np.frombuffer(raw, _DTYPES[output.datatype]).reshape(tuple(output.shape))
