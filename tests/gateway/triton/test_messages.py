"""Tensor -> request, as Triton's own stubs understand it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from gateway.triton.messages import Question, infer_request
from gateway.triton.shared_memory import Slot
from tests.fakes import MODEL


@given(st.integers(1, 300), st.integers(1, 300))
def test_a_request_reads_back_as_it_was_meant(height, width):
    """The bytes are the message that the stubs would make, whatever the tensor's size (lengths of 1 to 3 bytes)."""
    tensor = (np.arange(height * width * 3) % 251).astype(np.uint8).reshape(height, width, 3)
    request = service_pb2.ModelInferRequest.FromString(infer_request(MODEL, 7, tensor))
    assert (request.model_name, request.model_version) == (MODEL.name, "7")
    assert [(each.name, each.datatype, list(each.shape)) for each in request.inputs] == [
        ("images", "UINT8", [1, height, width, 3])
    ]
    assert [each.name for each in request.outputs] == ["boxes", "scores", "class_ids"]
    assert list(request.raw_input_contents) == [tensor.tobytes()]


def test_a_tensor_that_is_not_contiguous_is_refused():
    """Its memory is not the tensor's bytes in order, so it must not be sent as if it were."""
    with pytest.raises(TypeError):
        infer_request(MODEL, 1, np.zeros((4, 4, 3), np.uint8)[:, ::2])


def test_a_question_about_a_slot_says_where_the_tensor_is():
    """Region, offset and size, as Triton's shared memory extension names them, and no contents."""
    tensor = np.zeros((32, 64, 3), np.uint8)
    question = Question(MODEL, 3, tensor)
    message = question.message_about(Slot(65_536, tensor.nbytes), "mine-1")
    request = service_pb2.ModelInferRequest.FromString(message)
    (shown,) = request.inputs
    parameters = {
        name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in shown.parameters.items()
    }
    assert parameters == {
        "shared_memory_region": "mine-1",
        "shared_memory_offset": 65_536,
        "shared_memory_byte_size": 6144,
    }
    assert not request.raw_input_contents
    plain = service_pb2.ModelInferRequest.FromString(question.message())
    plain.ClearField("raw_input_contents")
    shown.ClearField("parameters")
    assert request == plain
