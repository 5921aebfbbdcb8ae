"""Three real Tritons are killed, frozen and restarted while requests come: each gets its answer, and its own."""

import asyncio
import contextlib
import itertools
import os
import signal

import numpy as np
import pytest

from gateway.deadline import Deadline
from gateway.errors import GatewayError
from gateway.metrics import Metrics
from gateway.triton.discovery import FixedAddresses
from gateway.triton.fleet import Fleet
from gateway.triton.health import State
from tests.conftest import REPOSITORY
from tests.platform.conftest import free_ports
from triton_runtime.environment import TritonEnvironment
from triton_runtime.process import running
from triton_runtime.server import Ports, TritonServer
from triton_runtime.standin import MODEL, Standin, candidates, numbered_picture

CALLERS = 24
PATIENCE_SECONDS = 60  # for a Triton to start on a busy machine; callers wait as long
MOST_SECONDS = 120


@pytest.fixture
async def tritons(tmp_path):
    installation = TritonEnvironment(REPOSITORY / ".venv-triton").install(tmp_path)
    Standin(base_ms=20, per_image_ms=2).write(tmp_path / "models")
    ports = np.reshape(free_ports(9), (3, 3)).tolist()
    tritons = [
        TritonServer(installation, tmp_path / "models", Ports(*each), name=f"Triton {number}", restarts_itself=False)
        for number, each in enumerate(ports, start=1)
    ]
    async with running(tritons):
        await asyncio.gather(*(triton.until_serving(PATIENCE_SECONDS) for triton in tritons))
        yield tritons


def address(triton):
    return f"127.0.0.1:{triton.ports.grpc}"


@pytest.fixture
async def fleet(tritons):
    async with Fleet(FixedAddresses(frozenset(address(triton) for triton in tritons)), Metrics()) as fleet:
        for triton in tritons:
            await until_state(fleet, triton, State.SERVING)
        yield fleet


async def until_state(fleet, triton, *states):
    async with asyncio.timeout(MOST_SECONDS):
        while fleet._endpoints[address(triton)].health.state not in states:
            await asyncio.sleep(0.01)


async def until_back(fleet, triton):
    await triton.until_serving(PATIENCE_SECONDS)
    await until_state(fleet, triton, State.WARMING, State.SERVING)


@contextlib.asynccontextmanager
async def load(fleet):
    """Callers without a pause, each picture another one; all must have got the answers to their own."""
    stop, numbers, answered, wrong = asyncio.Event(), itertools.count(), [], []
    model, version = fleet.find(MODEL, None)

    async def call():
        while not stop.is_set():
            picture = numbered_picture(next(numbers))
            try:
                found = await fleet.predict(model, version, picture, Deadline.after(PATIENCE_SECONDS))
            except GatewayError as error:
                wrong.append(error)
            else:
                answered.append(found)
                expected = candidates(picture[np.newaxis])[0][0]
                wrong.extend([found] * (not np.array_equal(found.boxes, expected)))

    callers = [asyncio.create_task(call()) for _ in range(CALLERS)]
    try:
        yield answered
    finally:
        stop.set()
        await asyncio.gather(*callers)
    assert wrong == []


async def some(answered, count=200):
    """Wait for so many more answers."""
    wanted = len(answered) + count
    async with asyncio.timeout(MOST_SECONDS):
        while len(answered) < wanted:
            await asyncio.sleep(0.01)


async def test_tritons_come_and_go_and_nothing_is_lost(fleet, tritons):
    """One is killed, one is frozen, and all are restarted one after the other, as a rollout does it."""
    async with load(fleet) as answered:
        await some(answered)
        os.kill(tritons[0].pid, signal.SIGKILL)
        await until_state(fleet, tritons[0], State.LOST)
        await some(answered)
        await tritons[0].restart()
        await until_back(fleet, tritons[0])

        os.kill(tritons[1].pid, signal.SIGSTOP)
        try:
            await until_state(fleet, tritons[1], State.LOST, State.EJECTED)
            await some(answered)
        finally:
            os.kill(tritons[1].pid, signal.SIGCONT)
        await until_back(fleet, tritons[1])

        for triton in tritons:
            await triton.restart()
            await until_back(fleet, triton)
            await some(answered)


async def test_a_triton_that_stops_finishes_what_it_has(fleet, tritons):
    """It is seen to be not ready, gets nothing new, and none of its calls is made again."""
    async with load(fleet) as answered:
        await some(answered)
        os.kill(tritons[0].pid, signal.SIGTERM)
        await until_state(fleet, tritons[0], State.UNREADY, State.LOST)
        await some(answered)
    retried = fleet._metrics.registry.get_sample_value("eagleeye_triton_retries_total", {"reason": "connection"})
    assert not retried
