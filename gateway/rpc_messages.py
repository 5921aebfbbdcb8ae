"""The protocol's protobuf messages, to and from what the core speaks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tritonclient.grpc import service_pb2

from gateway import oip, parameters
from gateway.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.detector import Query, Result
    from gateway.model import Model


def read_model(name: str, version: str) -> Query:
    """The model that a message names; the protocol leaves a text empty where nothing is named.

    Raises:
        InvalidParameter: the version is no number.
    """
    query, _ = parameters.read(_named_model(name, version))
    return query


def read_parameters(request: Any) -> tuple[Query, float | None]:
    """The query of a ModelInfer request, and its timeout in seconds if it has one.

    Raises:
        InvalidParameter: an unknown name or a bad value; the message says what is allowed.
    """
    parameters.refuse_unknown(request.parameters, parameters.NAMES)
    texts = {name: _text(value) for name, value in request.parameters.items()}
    return parameters.read(texts | _named_model(request.model_name, request.model_version))


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


def metadata_response(model: Model) -> Any:
    """The answer to ModelMetadata: what a detector takes and gives, the same for all."""
    message = service_pb2.ModelMetadataResponse
    return message(
        name=model.name,
        versions=[str(each) for each in model.versions],
        platform="eagleeye",
        inputs=[message.TensorMetadata(name=oip.IMAGE, datatype=oip.BYTES, shape=[-1])],
        outputs=[
            message.TensorMetadata(name=name, datatype=datatype, shape=shape)
            for name, (datatype, shape) in oip.OUTPUTS.items()
        ],
    )


def _named_model(name: str, version: str) -> dict[str, str]:
    return {key: text for key, text in (("model", name), ("version", version)) if text}


def _text(parameter: Any) -> str:
    kind = parameter.WhichOneof("parameter_choice")
    return str(getattr(parameter, kind)) if kind else ""
