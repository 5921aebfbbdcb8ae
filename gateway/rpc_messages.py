"""The protocol's protobuf messages, to and from what the core speaks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tritonclient.grpc import service_pb2

from gateway import oip
from gateway.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.detector import Query, Result


def read_parameters(request: Any) -> tuple[Query, float | None]:
    """The query of a ModelInfer request, and its timeout in seconds if it has one.

    Raises:
        InvalidParameter: an unknown name or a bad value; the message says what is allowed.
    """
    texts = {name: _text(value) for name, value in request.parameters.items()}
    return oip.read_query(texts, request.model_name, request.model_version)


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


def _text(parameter: Any) -> str:
    kind = parameter.WhichOneof("parameter_choice")
    return str(getattr(parameter, kind)) if kind else ""
