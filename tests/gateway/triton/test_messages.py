"""Tensor -> request, as Triton's own stubs understand it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from gateway.triton.messages import infer_request
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
