"""Several workers in front of a real Triton: one gateway to whoever calls, asks or stops it."""

import asyncio
import json
import os
import re
import signal
from collections import Counter

import aiohttp
import grpc
import psutil
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.platform.conftest import free_ports
from tests.platform.test_lifecycle import Gateway

CALLERS = 4
OBJECTS = 6  # on the board


@pytest.fixture
def workers(platform, tmp_path):
    """Two of them, and their admin port."""
    (port,) = free_ports(1)
    told = {"workers": 2, "admin-port": port, "drain-seconds": 3, "log-format": "json"}
    gateway = Gateway(platform, tmp_path / "gateway.log", **told)
    yield gateway, f"http://127.0.0.1:{port}"
    gateway.process.kill()  # its workers end by themselves
    gateway.process.wait()


async def until_ready(session, admin):
    async with asyncio.timeout(90):
        while "eagleeye_workers 2.0" not in await text(session, f"{admin}/metrics"):
            await asyncio.sleep(0.05)
        while '"ready"' not in await text(session, f"{admin}/readyz"):
            await asyncio.sleep(0.05)


async def text(session, url):
    try:
        async with session.get(url) as response:
            return await response.text()
    except aiohttp.ClientConnectorError:
        return ""


async def call_rest(url, board, found):
    """Send the board on one connection after another until none is accepted."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        while True:
            try:
                async with session.post(f"{url}/v1/detect", data=board) as response:
                    found["rest", response.status, len((await response.json())["detections"])] += 1
            except aiohttp.ClientConnectorError:
                return


async def call_grpc(port, board, found):
    """The same on channels, each its own."""
    request = service_pb2.ModelInferRequest(model_name="damoyolo_ns_deeppcb")
    request.inputs.add(name="image", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(len(board).to_bytes(4, "little") + board)
    while True:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            try:
                answer = await service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
            except grpc.aio.AioRpcError as error:
                is_unconnected = error.code() is grpc.StatusCode.UNAVAILABLE and "connect" in error.details().lower()
                # what gRPC answers a call that comes while it stops; of one that had begun, the log has a line, too
                if not (is_unconnected or error.code() is grpc.StatusCode.CANCELLED):
                    found["grpc", error.code(), error.details()] += 1
                return
            found["grpc", 200, int.from_bytes(answer.raw_output_contents[0], "little")] += 1


async def test_sigterm_under_load_loses_nothing_on_either_face(workers, board):
    """What clients counted is what the merged metrics say; all is answered, and all processes end."""
    gateway, admin = workers
    found = Counter()
    async with aiohttp.ClientSession() as session:
        await until_ready(session, admin)
        pids = [child.pid for child in psutil.Process(gateway.process.pid).children()]
        callers = [asyncio.create_task(call_rest(gateway.url, board, found)) for _ in range(CALLERS)]
        callers += [asyncio.create_task(call_grpc(gateway.grpc_port, board, found)) for _ in range(CALLERS)]
        async with asyncio.timeout(90):
            while found.total() < 10 * CALLERS:
                await asyncio.sleep(0.02)
            for pid in (gateway.process.pid, *pids):  # as a service manager does that knows of all of them
                os.kill(pid, signal.SIGTERM)
            while "shutting down" not in await text(session, f"{admin}/readyz"):
                await asyncio.sleep(0.02)
            before = found.total()
            counted = await requests(session, admin)
            await asyncio.gather(*callers)
            assert await gateway.stopped() == 0
    assert found.keys() == {("rest", 200, OBJECTS), ("grpc", 200, OBJECTS)}
    assert found.total() > before
    assert before <= counted <= found.total()
    lines = [json.loads(line) for line in gateway.log.read_text().splitlines()]
    answered = Counter((line["face"], line["code"]) for line in lines if line["event"] == "detect")
    assert answered == {("rest", "ok"): found["rest", 200, OBJECTS], ("grpc", "ok"): found["grpc", 200, OBJECTS]}
    assert {line["worker"] for line in lines if line["event"] == "detect"} == {1, 2}
    assert not any(map(psutil.pid_exists, pids))


async def requests(session, admin):
    """Requests that the workers have answered."""
    page = await text(session, f"{admin}/metrics")
    return sum(float(value) for value in re.findall(r"^eagleeye_requests_total{.*} (\S+)$", page, re.MULTILINE))
