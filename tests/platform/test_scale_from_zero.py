"""A gateway that has never seen a Triton holds what is asked of it until a real one has been started."""

import asyncio
import re

import aiohttp
import grpc
import pytest
from tritonclient.grpc import service_pb2_grpc

from tests.conftest import REPOSITORY
from tests.gateway.test_rpc import infer_request, tensors, to_parameters
from tests.gateway.test_server import Gateway
from tests.platform.conftest import free_ports
from triton_runtime.environment import TritonEnvironment
from triton_runtime.process import running
from triton_runtime.server import Ports, TritonServer
from triton_runtime.standin import MODEL, Standin, encode_png, fingerprint, numbered_picture

PATIENCE_MS = 60_000  # for a Triton to start on a busy machine
PICTURES = [numbered_picture(number) for number in range(4)]


@pytest.fixture
def triton(tmp_path):
    """A real Triton that does not run yet."""
    installation = TritonEnvironment(REPOSITORY / ".venv-triton").install(tmp_path / "state")
    Standin().write(tmp_path / "models")
    return TritonServer(installation, tmp_path / "models", Ports(*free_ports(3)), restarts_itself=False)


@pytest.fixture
def gateway(tmp_path, triton):
    options = ("--triton-url", f"127.0.0.1:{triton.ports.grpc}", "--max-held-images", "8")
    gateway = Gateway(tmp_path / "gateway.log", *options)
    yield gateway
    gateway.process.terminate()
    gateway.process.wait(120)


async def spelt(response):
    """The labels that a stand-in's answer spells: the fingerprint of the picture that was sent."""
    content = await response.json()
    assert response.status == 200, content
    return "".join(found["label"] for found in content["detections"])


def labels(response):
    return "".join(tensors(response)["labels"])


async def held(session):
    """How many images wait without a model, as Prometheus reads it."""
    async with session.get("/metrics") as response:
        return sum(map(float, re.findall(r'^eagleeye_queued{model=""} (\S+)$', await response.text(), re.MULTILINE)))


async def test_held_requests_are_answered_by_the_triton_that_comes(gateway, triton):
    """REST, gRPC and a stream; who has no time is told in time, and the gateway is ready for all of them."""
    async with (
        aiohttp.ClientSession(gateway.addresses["rest"]) as session,
        grpc.aio.insecure_channel(gateway.addresses["grpc"]) as channel,
        asyncio.timeout(2 * PATIENCE_MS / 1e3),
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        post = session.post(f"/v1/detect?timeout_ms={PATIENCE_MS}", data=encode_png(PICTURES[0]))
        over_rest = asyncio.create_task(post.__aenter__())
        patience = to_parameters(timeout_ms=PATIENCE_MS)
        over_grpc = stub.ModelInfer(infer_request(encode_png(PICTURES[1]), model_name=MODEL, parameters=patience))
        stream = stub.ModelStreamInfer()
        for picture in PICTURES[2:]:
            await stream.write(infer_request(encode_png(picture), model_name=MODEL, parameters=patience))
        while await held(session) < len(PICTURES):
            await asyncio.sleep(0.01)
        assert (await session.get("/readyz")).status == 200

        impatient = await session.post("/v1/detect?timeout_ms=200", data=encode_png(PICTURES[0]))
        assert (impatient.status, (await impatient.json())["code"]) == (503, "triton_unavailable")
        assert await held(session) == len(PICTURES)

        async with running([triton]):
            assert await spelt(await over_rest) == fingerprint(PICTURES[0])
            assert labels(await over_grpc) == fingerprint(PICTURES[1])
            await stream.done_writing()
            answers = [labels(each.infer_response) async for each in stream]
            assert answers == [fingerprint(picture) for picture in PICTURES[2:]]
        assert await held(session) == 0
