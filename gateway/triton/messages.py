"""One tensor -> Triton's request; Triton's response -> raw predictions, checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np
from tritonclient.grpc import service_pb2

from gateway.detections import RawPredictions
from gateway.triton.contract import BOXES, CLASS_IDS, IMAGES, SCORES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gateway.image import UInt8Array
    from gateway.model import Model
    from gateway.triton.shared_memory import Slot

_LENGTH_DELIMITED: Final = 2  # a wire type of Protocol Buffers
_PLACES: Final = 4096  # of tensors that requests are kept for, of 300 bytes each
_DTYPES: Final = {"FP32": np.dtype(np.float32), "INT32": np.dtype(np.int32)}


@dataclass(slots=True)
class Question:
    """What is asked of `version` of a model: one image, uint8 (h, w, 3) RGB of its input size.

    `slot` has a copy of it, if there is one, for those that share the memory.
    """

    model: Model
    version: int
    tensor: UInt8Array
    slot: Slot | None = None
    _message: bytes | None = field(default=None, init=False)

    def message(self) -> bytes:
        """A `ModelInferRequest` with the tensor, see `infer_request`; made once, however many are asked."""
        if self._message is None:
            self._message = infer_request(self.model, self.version, self.tensor)
        return self._message

    def message_about(self, slot: Slot, region: str) -> bytes:
        """One that says where the tensor lies, in memory that Triton knows as `region`."""
        return _question_about(
            self.model.name, self.version, self.tensor.shape, region, slot.offset, self.tensor.nbytes
        )


def infer_request(model: Model, version: int, tensor: UInt8Array) -> bytes:
    """The question to `version` of a model: one image, uint8 (h, w, 3) RGB of its input size.

    It is a `ModelInferRequest` as it goes over the wire. The tensor is copied once, where building and serializing the
    message would copy it three times; in Protocol Buffers, a message's fields may be serialized apart and put together.
    """
    return b"".join((_question(model.name, version, tensor.shape), _length(tensor.nbytes), tensor.data))


@lru_cache
def _question(model: str, version: int, shape: tuple[int, ...]) -> bytes:
    """All of a request but the tensor's bytes; the same for every image of a model."""
    return bytes(_request(model, version, shape).SerializeToString())


@lru_cache(maxsize=_PLACES)
def _question_about(
    model: str, version: int, shape: tuple[int, ...], region: str, offset: int, byte_size: int
) -> bytes:
    """A whole request; the same for every image of a model that lies in the same place."""
    request = _request(model, version, shape)
    parameters = request.inputs[0].parameters
    parameters["shared_memory_region"].string_param = region
    parameters["shared_memory_offset"].int64_param = offset
    parameters["shared_memory_byte_size"].int64_param = byte_size
    return bytes(request.SerializeToString())


def _request(model: str, version: int, shape: tuple[int, ...]) -> service_pb2.ModelInferRequest:
    return service_pb2.ModelInferRequest(
        model_name=model,
        model_version=str(version),
        inputs=[service_pb2.ModelInferRequest.InferInputTensor(name=IMAGES, datatype="UINT8", shape=(1, *shape))],
        outputs=[
            service_pb2.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in (BOXES, SCORES, CLASS_IDS)
        ],
    )


@lru_cache
def _length(size: int) -> bytes:
    """What stands before `size` bytes of `raw_input_contents`: tag and length, as base-128 varints."""
    number = service_pb2.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(size)


def _varint(value: int) -> bytes:
    """https://protobuf.dev/programming-guides/encoding/#varints."""
    groups = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def predictions(response: service_pb2.ModelInferResponse, model: Model) -> RawPredictions:
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
    if class_ids.view(np.uint32).max() >= len(model.labels):  # negative ones count as very large
        raise ValueError(f"class_ids reach from {class_ids.min()} to {class_ids.max()} of {len(model.labels)} labels")
    return RawPredictions(arrays[BOXES][0], arrays[SCORES][0], class_ids)


def _array(output: service_pb2.ModelInferResponse.InferOutputTensor, raw: bytes) -> NDArray[np.generic]:
    if output.datatype not in _DTYPES:
        raise ValueError(f"{output.name} has type {output.datatype}")
    return np.frombuffer(raw, _DTYPES[output.datatype]).reshape(tuple(output.shape))
