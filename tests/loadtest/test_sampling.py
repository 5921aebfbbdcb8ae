"""What processes cost."""

import asyncio
import os
import sys

import pytest

from loadtest.chaos.load import Clock
from loadtest.chaos.processes import free_ports
from loadtest.chaos.sampling import GENERATOR, Sampler
from triton_runtime.process import Child, running


def child(code):
    return Child(
        name="child",
        command=[sys.executable, "-c", code],
        environment=dict(os.environ),
        log=None,
        stop_seconds=5,
        report=print,
        restarts_itself=False,
    )


async def test_a_group_is_charged_for_all_that_its_processes_start():
    """A child that only waits for a busy one of its own is as busy as that one."""
    parent = child("import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])")
    sleeper = child("import time; time.sleep(60)")
    async with running([parent, sleeper]):
        sampler = Sampler({"busy": [parent], "idle": [sleeper]}, Clock())
        async with asyncio.timeout(60), sampler:
            while sampler.spent_seconds["busy"] < 0.5:
                await asyncio.sleep(0.1)

    shares = sampler.shares()
    assert set(shares) == {"machine", GENERATOR, "busy", "idle"}
    assert 0 < shares["busy"] <= 1
    assert shares["idle"] < shares["busy"]
    assert all(size > 1e6 for name in ("busy", "idle") for _, size in sampler.rss_bytes[name])


async def test_a_child_that_does_not_run_costs_nothing():
    """And does not disturb."""
    async with Sampler({"never": [child("")]}, Clock()) as sampler:
        pass

    assert "never" not in sampler.shares()


@pytest.mark.parametrize("hosts", [(), ("127.0.0.1", "127.0.0.2")])
def test_free_ports_differ(hosts):
    """Also where they must be free on several addresses."""
    assert len(set(free_ports(20, *hosts))) == 20
