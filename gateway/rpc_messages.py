"""The protocol's protobuf messages, to and from what the core speaks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from tritonclient.grpc import service_pb2

from gateway import oip
from gateway.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.detector import Query, Result
    from gateway.sequences import SequenceId

_CHOICE: Final = "parameter_choice"
_MODES: Final = {"ordered": False, "latest": True}
_MODE: Final = "mode"
_SEQUENCE_ID: Final = "sequence_id"
_SEQUENCE_FLAGS: Final = ("sequence_start", "sequence_end")
_EMPTY_FINAL_RESPONSE: Final = "triton_enable_empty_final_response"  # who asks for it wants to know the last response
_MAX_SEQUENCE_ID_CHARACTERS: Final = 128


def address_of(peer: str) -> str:
    """A caller's address as the REST face has it, without its port, from gRPC's `ipv4:10.0.0.7:4711`."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")


def read_parameters(request: Any) -> tuple[Query, float | None]:
    """The query of a ModelInfer request, and its timeout in seconds if it has one.

    Raises:
        InvalidParameter: an unknown name or a bad value; the message says what is allowed.
    """
    texts = {name: _text(value) for name, value in request.parameters.items()}
    return oip.read_query(texts, request.model_name, request.model_version)


def named_sequence(request: Any, flow: str) -> str:
    """See `gateway.oip.sequence`."""
    if _SEQUENCE_ID not in request.parameters:
        return ""
    return oip.sequence({_SEQUENCE_ID: _text(request.parameters[_SEQUENCE_ID])}, flow)


def read_images(request: Any) -> list[bytes]:
    """The encoded images of a ModelInfer request.

    Raises:
        InvalidParameter: its input is not that of a detector; the message says what is allowed.
    """
    tensor = request.inputs[0] if request.inputs else service_pb2.ModelInferRequest.InferInputTensor()
    count = oip.image_count([tensor.name for tensor in request.inputs], tensor.datatype, tensor.shape)
    if any(each.parameters for each in (*request.inputs, *request.outputs)):
        raise InvalidParameter("inputs and outputs take no parameters; there is no shared memory")
    if len(request.raw_input_contents) == 1:
        return oip.split_raw(request.raw_input_contents[0], count)
    images = list(tensor.contents.bytes_contents)
    if request.raw_input_contents or len(images) != count:
        raise InvalidParameter(
            f"{oip.IMAGE!r} has {len(images)} elements; send {count}, as its shape says, in bytes_contents or as one "
            "entry of raw_input_contents"
        )
    return images


def read_outputs(request: Any) -> tuple[str, ...]:
    """The outputs that a ModelInfer request wants.

    Raises:
        InvalidParameter: there is no such output.
    """
    return oip.output_names(output.name for output in request.outputs)


def infer_response(request_id: str, results: Sequence[Result], names: Sequence[str]) -> Any:
    """The answer to ModelInfer: the outputs called `names`, as raw contents."""
    tensors = oip.outputs(results)
    message = service_pb2.ModelInferResponse
    return message(
        model_name=results[0].model.name,
        model_version=str(results[0].version),
        id=request_id,
        outputs=[
            message.InferOutputTensor(name=name, datatype=oip.OUTPUTS[name][0], shape=tensors[name].shape)
            for name in names
        ],
        raw_output_contents=[oip.to_raw(tensors[name]) for name in names],
    )


def read_sequence(request: Any) -> SequenceId:
    """The sequence of a frame; 0 is the one of frames that name none.

    Raises:
        InvalidParameter: an id or a flag of another type than the protocol's clients send.
    """
    for name in _SEQUENCE_FLAGS:
        if name in request.parameters and request.parameters[name].WhichOneof(_CHOICE) != "bool_param":
            raise InvalidParameter(f"{name} must be a bool_param")
    if _SEQUENCE_ID not in request.parameters:
        return 0
    parameter = request.parameters[_SEQUENCE_ID]
    kind = parameter.WhichOneof(_CHOICE)
    if kind not in {"int64_param", "uint64_param", "string_param"}:
        raise InvalidParameter(f"{_SEQUENCE_ID} must be an int64_param or a string_param")
    sequence: SequenceId = getattr(parameter, kind)
    if isinstance(sequence, str) and len(sequence) > _MAX_SEQUENCE_ID_CHARACTERS:
        raise InvalidParameter(
            f"{_SEQUENCE_ID} has {len(sequence)} characters; it may have up to {_MAX_SEQUENCE_ID_CHARACTERS}"
        )
    return sequence or 0


def take_mode(request: Any) -> bool:
    """Whether a newer frame may replace this one while it waits. What only frames have is taken out of the request.

    Raises:
        InvalidParameter: there is no such mode.
    """
    request.parameters.pop(_EMPTY_FINAL_RESPONSE, None)
    if _MODE not in request.parameters:
        return False
    mode = _text(request.parameters[_MODE])
    del request.parameters[_MODE]
    if mode not in _MODES:
        raise InvalidParameter(f"{_MODE} is {mode[:100]!r}; it must be {' or '.join(_MODES)}")
    return _MODES[mode]


def refuse_batch(request: Any) -> None:
    """Stop a frame that is several images; what else may be wrong with its input `read_images` tells.

    Raises:
        InvalidParameter: it is.
    """
    if any(size > 1 for tensor in request.inputs for size in tensor.shape[:1]):
        raise InvalidParameter(
            f"a frame is one image: send {oip.IMAGE!r} as {oip.BYTES} [1], and each in its own message"
        )


def frame_answer(request: Any, response: Any, dropped: int) -> Any:
    """The answer to a frame: what ModelInfer would answer, and what only streams have."""
    _set_frame_parameters(response, request, dropped)
    return service_pb2.ModelStreamInferResponse(infer_response=response)


def frame_error(request: Any, detail: str, fields: Mapping[str, str], dropped: int) -> Any:
    """The answer to a frame that failed; `fields` are the trailing metadata that ModelInfer would have."""
    response = service_pb2.ModelInferResponse(id=request.id)
    response.parameters["code"].string_param = fields["eagleeye-code"]
    response.parameters["request_id"].string_param = fields["x-request-id"]
    if "retry-after" in fields:
        response.parameters["retry_after"].int64_param = int(fields["retry-after"])
    _set_frame_parameters(response, request, dropped)
    return service_pb2.ModelStreamInferResponse(error_message=detail, infer_response=response)


def _set_frame_parameters(response: Any, request: Any, dropped: int) -> None:
    response.parameters["triton_final_response"].bool_param = True
    response.parameters["dropped"].int64_param = dropped
    if _SEQUENCE_ID in request.parameters:
        response.parameters[_SEQUENCE_ID].CopyFrom(request.parameters[_SEQUENCE_ID])


def _text(parameter: Any) -> str:
    kind = parameter.WhichOneof(_CHOICE)
    return str(getattr(parameter, kind)) if kind else ""
