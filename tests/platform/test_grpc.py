"""Foreign gRPC clients against the live platform: they work unchanged, and see what REST's callers see."""

import asyncio

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.utils import InferenceServerException

from tests.platform.conftest import MODEL, detections


@pytest.fixture
def address(platform):
    """host:port of the live gRPC face."""
    platform.wait_until_ready()
    return f"127.0.0.1:{platform.ports['grpc']}"


def image_input(*images):
    tensor = triton_grpc.InferInput("image", [len(images)], "BYTES")
    tensor.set_data_from_numpy(np.array(images, object))
    return tensor


async def test_the_blocking_client_finds_what_rest_finds(address, board, expected):
    """Bit for bit, for the same bytes."""

    def infer():
        with triton_grpc.InferenceServerClient(address) as client:
            assert client.is_server_live()
            assert client.is_server_ready()
            assert client.is_model_ready(MODEL)
            assert client.get_server_metadata().name == "eagleeye"
            assert [each.name for each in client.get_model_metadata(MODEL).inputs] == ["image"]
            return client.infer(MODEL, [image_input(board)])

    assert detections(await asyncio.to_thread(infer)) == expected


async def test_the_asynchronous_client_finds_what_rest_finds(address, board, expected):
    """Bit for bit, and an image more in the same request changes nothing."""
    async with triton_grpc_aio.InferenceServerClient(address) as client:
        alone = await client.infer(MODEL, [image_input(board)])
        both = await client.infer(MODEL, [image_input(board, board)])
    assert detections(alone) == expected
    assert both.as_numpy("num_detections").tolist() == [len(expected[0])] * 2
    assert both.as_numpy("boxes").tolist() == expected[3] * 2


async def test_parameters_and_requested_outputs_are_obeyed(address, board, expected):
    """As a caller of any other model would give them."""
    async with triton_grpc_aio.InferenceServerClient(address) as client:
        result = await client.infer(
            MODEL,
            [image_input(board)],
            outputs=[triton_grpc.InferRequestedOutput("scores")],
            parameters={"max_detections": 2, "score_threshold": 0.3},
        )
    assert result.as_numpy("scores").tolist() == expected[2][:2]
    assert result.as_numpy("boxes") is None


async def test_an_error_reaches_the_client_as_its_status(address):
    """With the text that says what is allowed."""
    async with triton_grpc_aio.InferenceServerClient(address) as client:
        with pytest.raises(InferenceServerException) as caught:
            await client.infer(MODEL, [image_input(b"hello")])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert "JPEG, PNG, WebP and BMP" in caught.value.message()


def test_the_health_probe_says_serving(address):
    """For the server and for the service."""
    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "inference.GRPCInferenceService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_the_services(address):
    """What grpcurl shows first."""
    with grpc.insecure_channel(address) as channel:
        services = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert services >= {"inference.GRPCInferenceService", "grpc.health.v1.Health"}
