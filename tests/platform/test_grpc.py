"""Foreign gRPC clients against the live platform: they work unchanged, and see what REST's callers see."""

import asyncio
import json

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
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


async def test_tritons_own_options_are_taken(address, board, expected):
    """Those that its clients put into the request: a timeout in microseconds, and those of sequences."""
    options = {"timeout": 20_000_000, "sequence_id": 7, "sequence_start": True, "sequence_end": True}

    def infer():
        with triton_grpc.InferenceServerClient(address) as client:
            return client.infer(MODEL, [image_input(board)], client_timeout=30, **options)

    assert detections(await asyncio.to_thread(infer)) == expected
    async with triton_grpc_aio.InferenceServerClient(address) as client:
        assert detections(await client.infer(MODEL, [image_input(board)], client_timeout=30, **options)) == expected
        with pytest.raises(InferenceServerException) as caught:
            await client.infer(MODEL, [image_input(board)], timeout=1)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_requests_may_be_compressed(address, board, expected, coding):
    """By both of the clients."""

    def infer():
        with triton_grpc.InferenceServerClient(address) as client:
            return client.infer(MODEL, [image_input(board)], compression_algorithm=coding)

    assert detections(await asyncio.to_thread(infer)) == expected
    async with triton_grpc_aio.InferenceServerClient(address) as client:
        result = await client.infer(MODEL, [image_input(board)], compression_algorithm=coding)
    assert detections(result) == expected


async def test_the_client_reads_configs_and_the_index(address):
    """As it reads Triton's own."""
    async with triton_grpc_aio.InferenceServerClient(address) as client:
        config = (await client.get_model_config(MODEL)).config
        index = await client.get_model_repository_index()
    assert [each.name for each in config.input] == ["image"]
    assert "open" in json.loads(config.parameters["labels"].string_value)
    assert config.parameters["variant"].string_value == "Ns"
    assert [(each.name, each.version, each.state) for each in index.models] == [(MODEL, "1", "READY")]


def test_a_call_without_any_stub(address, board, expected):
    """As grpcurl makes it: services, the call and its messages are learnt by reflection."""
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        (name,) = [service for service in database.get_services() if service.endswith("InferenceService")]
        call = DescriptorPool(database).FindServiceByName(name).FindMethodByName("ModelInfer")
        to_request, to_response = (GetMessageClass(each) for each in (call.input_type, call.output_type))
        tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [board]}}
        infer = channel.unary_unary(
            f"/{name}/{call.name}",
            request_serializer=to_request.SerializeToString,
            response_deserializer=to_response.FromString,
        )
        response = infer(to_request(model_name=MODEL, inputs=[tensor]), timeout=30)
    raw = dict(zip([output.name for output in response.outputs], response.raw_output_contents, strict=True))
    assert np.frombuffer(raw["class_ids"], np.int32).tolist() == expected[1]
    assert np.frombuffer(raw["boxes"], np.float32).reshape(-1, 4).tolist() == expected[3]


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
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_the_services(address):
    """What grpcurl shows first."""
    with grpc.insecure_channel(address) as channel:
        services = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert services >= {"inference.GRPCInferenceService", "grpc.health.v1.Health"}
