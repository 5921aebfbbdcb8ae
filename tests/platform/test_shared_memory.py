"""Tensors by shared memory between a live gateway and real Tritons: nothing is lost, mixed up or left behind."""

import asyncio
import contextlib
import os
import random
import signal
from pathlib import Path

import aiohttp
import grpc
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.triton.shared_memory import FOLDER, PREFIX
from loadtest.chaos.figures import summarize
from loadtest.chaos.load import beside
from loadtest.chaos.processes import HOST, Gateway
from loadtest.chaos.stage import PATIENT, staged
from loadtest.images import make_images
from triton_runtime.process import running
from triton_runtime.standin import Standin

pytestmark = pytest.mark.asyncio(loop_scope="module")

SOON = 60.0
OPTION = {"triton_shared_memory": 1}
"""MiB: 16 slots, so few that they run out."""
CALLERS = 24


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage():
    standin = Standin(base_ms=30.0, per_image_ms=1.0)
    async with staged(standin, tritons=2, told=lambda *_: {**OPTION, "drain_seconds": 0}) as stage:
        (file,) = files_of(stage.gateways[0])
        for triton in stage.tritons:  # 2.51 may crash when a call is cancelled (triton-inference-server/server#7368)
            triton.restarts_itself = True
        yield stage
    assert not (FOLDER / file).exists()


@contextlib.asynccontextmanager
async def gateway(stage, name, **options):
    """One more, before the same Tritons."""
    urls = ",".join(f"{HOST}:{triton.ports.grpc}" for triton in stage.tritons)
    gateway = Gateway(name, stage.folder, triton_url=urls, drain_seconds=0, **options)
    async with running([gateway]):
        await gateway.until_ready()
        yield gateway


def files_of(gateway):
    """The files in shared memory that a running gateway has mapped."""
    with Path(f"/proc/{gateway.pid}/maps").open() as maps:
        return {line.split("/")[-1].split()[0] for line in maps if f"{FOLDER}/{PREFIX}" in line}


async def regions(triton):
    """The files that a Triton has mapped by request."""
    async with grpc.aio.insecure_channel(f"{HOST}:{triton.ports.grpc}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        status = await stub.SystemSharedMemoryStatus(service_pb2.SystemSharedMemoryStatusRequest())
    return {region.key.removeprefix("/") for region in status.regions.values()}


async def until(condition):
    async with asyncio.timeout(SOON):
        while not await condition():
            await asyncio.sleep(0.05)


async def is_known(stage, gateway):
    """Whether both Tritons have mapped a gateway's file."""
    return all([files_of(gateway) <= await regions(triton) for triton in stage.tritons])


async def tensors(gateway, way):
    """How many have gone that way."""
    async with aiohttp.ClientSession() as session, session.get(f"{gateway.url}/metrics") as response:
        page = await response.text()
    lines = [line for line in page.splitlines() if line.startswith("eagleeye_triton_tensors_total{")]
    return sum(float(line.split()[-1]) for line in lines if f'way="{way}"' in line)


async def test_answers_are_the_same_both_ways(stage):
    """Byte by byte, but for times and ids."""
    await until(lambda: is_known(stage, stage.gateways[0]))
    before = await tensors(stage.gateways[0], "shared_memory")
    pictures = [image.data for image in make_images(32)]
    async with gateway(stage, "gateway without memory") as plain, aiohttp.ClientSession() as session:

        async def ask(url, picture):
            async with session.post(f"{url}/v1/detect", data=picture) as response:
                assert response.status == 200
                return (await response.read()).partition(b'"timing_ms"')[0]

        for picture in pictures:
            one, other = await asyncio.gather(ask(stage.gateways[0].url, picture), ask(plain.url, picture))
            assert one == other
        assert not files_of(plain)
    assert await tensors(stage.gateways[0], "shared_memory") == before + len(pictures)


async def test_callers_that_leave_mix_nothing_up(stage):
    """While many are cancelled at any moment, and slots run out again and again, all others get their own answers."""
    await until(lambda: is_known(stage, stage.gateways[0]))
    chance = random.Random(0)
    pictures = [image.data for image in make_images(64)]

    async def leave_early(session):
        for _ in range(20):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(chance.uniform(0.01, 0.1)):
                    async with session.post(
                        f"{stage.gateways[0].url}/v1/detect", data=chance.choice(pictures)
                    ) as answer:
                        await answer.read()

    async def storm():
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(leave_early(session) for _ in range(CALLERS)))

    outcomes = await beside(stage.load.saturate(PATIENT, CALLERS, 1.5), storm())
    summary = summarize(outcomes)
    assert (summary.lost, summary.reasons) == (0, {})
    assert await tensors(stage.gateways[0], "message") > 0
    before = await tensors(stage.gateways[0], "shared_memory")

    async def is_back():
        url = f"{stage.gateways[0].url}/v1/detect"
        async with aiohttp.ClientSession() as session, session.post(url, data=pictures[0]) as answer:
            await answer.read()  # whatever the status: it may be overloaded for a moment still
        return await tensors(stage.gateways[0], "shared_memory") > before

    await until(is_back)


async def test_a_killed_triton_loses_nothing(stage):
    """By SIGKILL under load; started again, it gets tensors by memory again."""
    await until(lambda: is_known(stage, stage.gateways[0]))

    async def strike():
        await asyncio.sleep(0.5)
        await stage.kill(stage.tritons[0])
        await stage.start(stage.tritons[0])
        await until(lambda: is_known(stage, stage.gateways[0]))

    outcomes = await beside(stage.load.saturate(PATIENT, CALLERS, 3.0), strike())
    assert summarize(outcomes).lost == 0
    assert files_of(stage.gateways[0]) <= await regions(stage.tritons[0])


async def test_a_killed_gateway_leaves_nothing_for_long(stage):
    """The next one removes its file, and Tritons forget it; one that stops in order leaves nothing itself."""

    async def is_forgotten(file):
        return not any([file in await regions(triton) for triton in stage.tritons])

    killed = stage.gateways[0]
    (file,) = files_of(killed)
    await until(lambda: is_known(stage, killed))
    os.kill(killed.pid, signal.SIGKILL)
    await killed.stop()
    assert (FOLDER / file).exists()
    async with gateway(stage, "next gateway", **OPTION) as following:
        (own,) = files_of(following)
        assert not (FOLDER / file).exists()
        await until(lambda: is_known(stage, following))
        await until(lambda: is_forgotten(file))
    assert not (FOLDER / own).exists()
    assert await is_forgotten(own)
