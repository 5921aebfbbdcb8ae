"""SIGTERM in mid-load: readiness goes first, nothing that was accepted is lost, and the exit code is 0."""

import asyncio
import re
import signal
import subprocess
import sys

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.platform.conftest import free_ports

LOAD = 8
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Gateway:
    """A gateway of a test's own in front of the platform's Triton."""

    def __init__(self, platform, log, **options):
        self.http_port, self.grpc_port = free_ports(2)
        self.url = f"http://127.0.0.1:{self.http_port}"
        told = {
            "http-port": self.http_port,
            "grpc-port": self.grpc_port,
            "triton-url": f"127.0.0.1:{platform.ports['triton_grpc']}",
            **options,
        }
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway", *(f"--{name}={value}" for name, value in told.items())],
                stdout=output,
                stderr=output,
            )
        self.log = log

    async def ready(self, session):
        while True:
            try:
                async with session.get(f"{self.url}/readyz") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                assert self.process.poll() is None, self.log.read_text()
            await asyncio.sleep(0.05)

    async def stopped(self):
        return await asyncio.to_thread(self.process.wait, 120)


@pytest.fixture
async def session():
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def gateway(platform, tmp_path):
    """Starts gateways, and sees to it that none outlives the test."""
    started = []

    def start(**options):
        started.append(Gateway(platform, tmp_path / "gateway.log", **options))
        return started[-1]

    yield start
    for gateway in started:
        gateway.process.kill()
        gateway.process.wait()


async def test_sigterm_under_load_loses_no_accepted_request(gateway, session, board):
    """Callers that keep sending until they are refused a connection get an answer to every request they sent."""
    it = gateway(**{"drain-seconds": 2})
    await it.ready(session)
    answers = []

    async def call_until_refused():
        while True:
            try:
                async with session.post(f"{it.url}/v1/detect", data=board) as response:
                    answers.append((response.status, len((await response.json())["detections"])))
            except aiohttp.ClientConnectorError:  # no connection was accepted, so no request was
                return

    async with asyncio.timeout(90):
        callers = [asyncio.create_task(call_until_refused()) for _ in range(LOAD)]
        while len(answers) < 2 * LOAD:
            await asyncio.sleep(0.01)
        it.process.send_signal(signal.SIGTERM)
        while "draining" not in it.log.read_text():
            await asyncio.sleep(0.01)
        async with session.get(f"{it.url}/readyz") as response:
            assert (response.status, (await response.json())["reason"]) == (503, "shutting down")
            assert response.headers["Connection"] == "close"
        before = len(answers)
        await asyncio.gather(*callers)
        assert await it.stopped() == 0
    assert len(answers) > before, "requests are still served while draining"
    assert set(answers) == {(200, 6)}


async def test_sigterm_lets_grpc_calls_finish(gateway, session, board):
    """Calls under way are answered; the health service says NOT_SERVING while they are."""
    it = gateway(**{"drain-seconds": 1})
    await it.ready(session)
    request = service_pb2.ModelInferRequest(model_name="damoyolo_ns_deeppcb")
    request.inputs.add(name="image", datatype="BYTES", shape=[16])
    request.raw_input_contents.append((len(board).to_bytes(4, "little") + board) * 16)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{it.grpc_port}") as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        calls = [infer(request) for _ in range(3)]
        while await inflight(session, it.url) == 0:
            await asyncio.sleep(0.01)
        it.process.send_signal(signal.SIGTERM)
        health = health_pb2_grpc.HealthStub(channel)
        async with asyncio.timeout(90):
            while (await health.Check(health_pb2.HealthCheckRequest())).status != NOT_SERVING:
                await asyncio.sleep(0.01)
        responses = await asyncio.gather(*calls)
    assert [len(response.outputs) for response in responses] == [5, 5, 5]
    assert await it.stopped() == 0


async def inflight(session, url):
    """How many images the gateway works on."""
    async with session.get(f"{url}/metrics") as response:
        page = await response.text()
    return sum(float(value) for value in re.findall(r"^eagleeye_inflight{.*} (\S+)$", page, re.MULTILINE))


async def test_a_second_signal_stops_at_once(gateway, session):
    """However long draining would take."""
    it = gateway(**{"drain-seconds": 60})
    await it.ready(session)
    it.process.send_signal(signal.SIGTERM)
    while not re.search("draining", it.log.read_text()):
        await asyncio.sleep(0.01)
    it.process.send_signal(signal.SIGINT)
    async with asyncio.timeout(90):
        assert await it.stopped() == 128 + signal.SIGINT
