"""Tritons as processes that are killed and frozen, and as addresses in DNS, while requests come without a pause."""

import asyncio
import contextlib
import signal
import sys

import numpy as np
import pytest

from gateway.deadline import Deadline
from gateway.errors import GatewayError
from gateway.metrics import Metrics
from gateway.triton.discovery import DnsAddresses, FixedAddresses
from gateway.triton.fleet import Fleet
from gateway.triton.health import State
from tests.conftest import REPOSITORY
from tests.gateway.triton.fake_triton import FakeTriton, serving
from tests.gateway.triton.name_server import name_server
from tests.platform.conftest import free_ports

CALLERS = 12
TIMEOUT_SECONDS = 60
INFERENCE_SECONDS = 0.02
NAME = "triton.vision.svc.cluster.local."


class Process:
    """A Triton that can be killed, frozen and started again at the same port."""

    def __init__(self, port):
        self.address = f"127.0.0.1:{port}"
        self._port = port

    async def start(self):
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.gateway.triton.fake_triton", str(self._port), str(INFERENCE_SECONDS)),
            cwd=REPOSITORY,
        )

    def signal(self, number):
        self._process.send_signal(number)

    async def kill(self):
        self.signal(signal.SIGKILL)
        await self._process.wait()


@pytest.fixture
async def tritons():
    tritons = [Process(port) for port in free_ports(3)]
    await asyncio.gather(*(triton.start() for triton in tritons))
    yield tritons
    await asyncio.gather(*(triton.kill() for triton in tritons))


@pytest.fixture
async def fleet(tritons):
    async with Fleet(FixedAddresses(frozenset(triton.address for triton in tritons)), Metrics()) as fleet:
        for triton in tritons:
            await until_state(fleet, triton.address, State.SERVING)
        yield fleet


async def until(condition):
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


async def until_state(fleet, address, *states):
    await until(lambda: fleet._endpoints[address].health.state in states)


@contextlib.asynccontextmanager
async def load(fleet):
    """Callers without a pause for as long as the block runs; all of their requests must have been answered."""
    stop, answered, failures = asyncio.Event(), [], []

    async def call():
        model, version = fleet.find("toy", None)
        tensor = np.zeros((*model.input_wh[::-1], 3), np.uint8)
        while not stop.is_set():
            try:
                answered.append(await fleet.predict(model, version, tensor, Deadline.after(TIMEOUT_SECONDS)))
            except GatewayError as error:
                failures.append(error)

    callers = [asyncio.create_task(call()) for _ in range(CALLERS)]
    try:
        yield answered
    finally:
        stop.set()
        await asyncio.gather(*callers)
    assert failures == []


async def some(answered, count=100):
    """Wait for so many more answers."""
    wanted = len(answered) + count
    await until(lambda: len(answered) >= wanted)


async def test_killed_tritons_lose_nothing(fleet, tritons):
    """One after the other by SIGKILL, in the midst of its work, and back again."""
    async with load(fleet) as answered:
        for triton in tritons:
            await some(answered)
            await triton.kill()
            await until_state(fleet, triton.address, State.LOST)
            await some(answered)
            await triton.start()
            await until_state(fleet, triton.address, State.WARMING, State.SERVING)


async def test_all_tritons_killed_at_once_lose_nothing(fleet, tritons):
    """The requests wait until the first is back."""
    async with load(fleet) as answered:
        await some(answered)
        await asyncio.gather(*(triton.kill() for triton in tritons))
        await until(lambda: not fleet.models)
        await asyncio.gather(*(triton.start() for triton in tritons))
        await some(answered)


async def test_a_frozen_triton_loses_nothing(fleet, tritons):
    """By SIGSTOP: its calls go elsewhere long before their deadline, and thawed it takes part again."""
    async with load(fleet) as answered:
        await some(answered)
        tritons[0].signal(signal.SIGSTOP)
        try:
            await until_state(fleet, tritons[0].address, State.LOST, State.EJECTED)
            await until(lambda: not fleet._endpoints[tritons[0].address].outstanding)
            await some(answered)
        finally:
            tritons[0].signal(signal.SIGCONT)
        await until_state(fleet, tritons[0].address, State.WARMING, State.SERVING)


async def test_dns_scales_from_one_to_four_and_back():
    """New pods take their part, removed ones get nothing more, and nobody notices."""
    hosts = [f"127.0.0.{number}" for number in range(1, 5)]
    tritons = {host: FakeTriton() for host in hosts}
    async with contextlib.AsyncExitStack() as stack:
        port = await stack.enter_async_context(serving(tritons[hosts[0]]))
        for host in hosts[1:]:
            await stack.enter_async_context(serving(tritons[host], port, host))
        names, server = await stack.enter_async_context(name_server())
        names.records = {(NAME, "A"): hosts[:1]}
        fleet = await stack.enter_async_context(
            Fleet(DnsAddresses(NAME, port, server), Metrics(), look_interval_seconds=0.1)
        )
        for triton in tritons.values():
            triton.seconds = INFERENCE_SECONDS
        async with load(fleet) as answered:
            await some(answered)
            names.records = {(NAME, "A"): hosts}
            await until(lambda: len(fleet._endpoints) == len(hosts))
            for host in hosts:
                await until_state(fleet, f"{host}:{port}", State.SERVING)
            before = {host: len(triton.requests) for host, triton in tritons.items()}
            await some(answered, 400)
            shares = {host: len(triton.requests) - before[host] for host, triton in tritons.items()}
            names.records = {(NAME, "A"): hosts[:1]}
            await until(lambda: len(fleet._endpoints) == 1)
            gone = [len(tritons[host].requests) for host in hosts[1:]]
            await some(answered)
            assert [len(tritons[host].requests) for host in hosts[1:]] == gone
    assert min(shares.values()) > 0.8 * sum(shares.values()) / len(hosts)
