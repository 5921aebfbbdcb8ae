"""The gateway's gRPC face as a client sees it: messages are built and read here, without any I/O.

The service is that of the Open Inference Protocol, by the stubs that tritonclient ships.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from tritonclient.grpc import service_pb2

from eagleeye.client.attempts import Exchange, Flow, Run
from eagleeye.client.errors import (
    NO_TLS,
    EagleEyeError,
    InvalidResponse,
    Refused,
    Unreachable,
    read_retry_after,
    refusal,
    without_tls,
)
from eagleeye.client.query import timeout_ms
from eagleeye.client.results import Detections, Health, ModelInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from eagleeye.client.address import Address
    from eagleeye.client.query import Query

OUTPUTS: Final = ("num_detections", "boxes", "scores", "class_ids", "labels", "image_wh")
_DTYPES: Final = {"FP32": np.dtype("<f4"), "INT32": np.dtype("<i4")}
_LENGTH_BYTES: Final = 4
_KNOWN_PARAMETERS: Final = frozenset({"labels", "input_wh", "score_threshold", "iou_threshold"})
_MALFORMED: Final = (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError)
_BROKEN: Final = frozenset({"UNAVAILABLE", "CANCELLED"})
"""Statuses of a connection that broke: gRPC's own, and that of calls that a stopping server ends."""


class RpcRequest(NamedTuple):
    """One call: the method's name and its message."""

    method: str
    message: Any


class StreamAnswer(NamedTuple):
    """The answer to the frame that was sent as `id`: what was found, or why not."""

    id: str
    detections: Detections | None
    error: EagleEyeError | None


class Rpc:
    """Asks for things, and reads what comes. Its transport sends an `RpcRequest` and gives the answer's message.

    Args:
        address: the gateway's.
        key: sent with each call; None for none.
    """

    def __init__(self, address: Address, key: str | None) -> None:
        self.authority = address.authority
        self.metadata = () if key is None else (("x-api-key", key),)

    def detect(self, image: bytes, query: Query) -> Exchange[Detections]:
        """What is on one encoded image."""
        return Exchange(
            lambda seconds: RpcRequest("ModelInfer", infer_request(image, query, timeout_ms=timeout_ms(seconds))),
            read_detections,
        )

    def models(self, run: Run) -> Flow[list[ModelInfo]]:
        """All models that are served; `run` turns an exchange into a flow."""
        index = RpcRequest("RepositoryIndex", service_pb2.RepositoryIndexRequest(ready=True))
        names = yield from run(Exchange(lambda _: index, _read_index))
        models: list[ModelInfo] = []
        for name in names:
            models += [(yield from self.model(name, run))]
        return models

    def model(self, name: str, run: Run) -> Flow[ModelInfo]:
        """One model."""
        metadata = RpcRequest("ModelMetadata", service_pb2.ModelMetadataRequest(name=name))
        config = RpcRequest("ModelConfig", service_pb2.ModelConfigRequest(name=name))
        versions = yield from run(Exchange(lambda _: metadata, lambda message: tuple(message.versions)))
        return (yield from run(Exchange(lambda _: config, lambda message: _read_model(message.config, versions))))

    def health(self, run: Run) -> Flow[Health]:
        """Whether the gateway lives and serves."""
        asks_live = RpcRequest("ServerLive", service_pb2.ServerLiveRequest())
        asks_ready = RpcRequest("ServerReady", service_pb2.ServerReadyRequest())
        live = yield from run(Exchange(lambda _: asks_live, lambda message: bool(message.live)))
        ready = yield from run(Exchange(lambda _: asks_ready, lambda message: bool(message.ready)))
        return Health(live, ready)


def infer_request(image: bytes, query: Query, request_id: str = "", **parameters: str) -> Any:
    """The message that asks about one image."""
    texts = {**query.parameters(), **parameters}
    message = service_pb2.ModelInferRequest
    return message(
        model_name=query.model or "",
        model_version="" if query.version is None else str(query.version),
        id=request_id,
        parameters={name: service_pb2.InferParameter(string_param=text) for name, text in texts.items()},
        inputs=[message.InferInputTensor(name="image", datatype="BYTES", shape=[1])],
        outputs=[message.InferRequestedOutputTensor(name=name) for name in OUTPUTS],
        raw_input_contents=[len(image).to_bytes(_LENGTH_BYTES, "little") + image],
    )


def frame_request(request_id: str, image: bytes, query: Query, *, latest: bool, timeout_seconds: float) -> Any:
    """The message that is one frame of a stream."""
    mode = "latest" if latest else "ordered"
    return infer_request(image, query, request_id, timeout_ms=timeout_ms(timeout_seconds), mode=mode)


def read_detections(message: Any) -> Detections:
    """What a ModelInferResponse about one image says.

    Raises:
        InvalidResponse: it is no such answer.
    """
    try:
        tensors = dict(_tensors(message))
        (found,), ((width, height),) = tensors["num_detections"].tolist(), tensors["image_wh"].tolist()
        detections = Detections(
            xyxy=tensors["boxes"],
            scores=tensors["scores"],
            class_ids=tensors["class_ids"],
            labels=tuple(tensors["labels"]),
            image_wh=(width, height),
            model=message.model_name,
            version=message.model_version,
        )
    except _MALFORMED as error:
        raise InvalidResponse(f"the answer is not a detection result: {error}") from error
    if len(detections) != found:
        raise InvalidResponse(f"the answer says {found} detections and holds {len(detections)}")
    return detections


def read_stream_answer(message: Any) -> StreamAnswer:
    """What a ModelStreamInferResponse says."""
    infer = message.infer_response
    try:
        if message.error_message:
            return StreamAnswer(infer.id, None, _frame_error(message.error_message, infer.parameters))
        return StreamAnswer(infer.id, read_detections(infer), None)
    except InvalidResponse as error:
        return StreamAnswer(infer.id, None, error)


def call_error(status: str, details: str, trailing: Iterable[tuple[str, str | bytes]], authority: str) -> Exception:
    """The error for a call that ended with `status`, the name of a gRPC status; TimeoutError if time ran out."""
    metadata = {name: value for name, value in trailing if isinstance(value, str)}
    if code := metadata.get("eagleeye-code"):
        retry_after = read_retry_after(metadata.get("retry-after"))
        is_unavailable = status == "UNAVAILABLE"
        return refusal(code, details, metadata.get("x-request-id"), retry_after, is_unavailable=is_unavailable)
    if status == "DEADLINE_EXCEEDED":
        return TimeoutError(details)
    if status in _BROKEN:
        if NO_TLS in details:
            return without_tls(authority)
        is_untrusted = "CERTIFICATE_VERIFY_FAILED" in details
        return Unreachable(f"no connection to the gateway at {authority}: {details}", is_retryable=not is_untrusted)
    if status == "RESOURCE_EXHAUSTED" and "larger than max" in details:  # gRPC itself refused to read it
        return Refused(f"image_too_large: {details}", code="image_too_large")
    return InvalidResponse(f"what answers at {authority} is no gateway: {status}: {details}")


def as_broken(failure: Exception) -> EagleEyeError:
    """A stream's failure as its caller sees it: the call has no deadline of its own, so one that ran out broke it."""
    return failure if isinstance(failure, EagleEyeError) else Unreachable(str(failure), is_retryable=True)


def _frame_error(text: str, parameters: Mapping[str, Any]) -> EagleEyeError:
    code, request_id = parameters["code"].string_param, parameters["request_id"].string_param
    seconds = parameters["retry_after"].int64_param
    return refusal(code or "internal", text, request_id or None, seconds or None)


def _tensors(message: Any) -> Iterable[tuple[str, Any]]:
    for output, raw in zip(message.outputs, message.raw_output_contents, strict=True):
        shape = tuple(output.shape)
        if output.datatype == "BYTES":
            yield output.name, _split(raw, *shape)
        else:
            array = np.frombuffer(raw, _DTYPES[output.datatype]).reshape(shape)
            yield output.name, array.astype(array.dtype.newbyteorder("="))  # a copy of the caller's own


def _split(raw: bytes, count: int) -> list[str]:
    """The texts of a raw BYTES tensor: each after its length, 4 bytes little-endian."""
    texts = []
    start = 0
    for _ in range(count):
        begin = start + _LENGTH_BYTES
        start = begin + int.from_bytes(raw[start:begin], "little")
        texts.append(raw[begin:start].decode())
    if start != len(raw):
        raise ValueError(f"{len(raw)} bytes are not {count} texts")
    return texts


def _read_index(message: Any) -> list[str]:
    return list(dict.fromkeys(model.name for model in message.models if model.state in {"", "READY"}))


def _read_model(config: Any, versions: tuple[str, ...]) -> ModelInfo:
    parameters = {name: value.string_value for name, value in config.parameters.items()}
    try:
        width, height = json.loads(parameters["input_wh"])
        return ModelInfo(
            name=config.name,
            versions=versions,
            labels=tuple(map(str, json.loads(parameters["labels"]))),
            input_wh=(int(width), int(height)),
            score_threshold=float(parameters["score_threshold"]),
            iou_threshold=float(parameters["iou_threshold"]),
            facts={name: text for name, text in parameters.items() if name not in _KNOWN_PARAMETERS},
        )
    except _MALFORMED as error:
        raise InvalidResponse(f"the answer describes no detector: {error!r}") from error
