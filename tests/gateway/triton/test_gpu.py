"""How busy GPUs are, read from metrics as Triton writes them."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.metrics import Metrics
from gateway.triton import gpu
from gateway.triton.discovery import FixedAddresses
from gateway.triton.fleet import Fleet
from gateway.triton.gpu import GpuUse
from tests.gateway.triton.fake_triton import SOON

HEAD = """# HELP nv_gpu_utilization GPU utilization rate [0.0 - 1.0)
# TYPE nv_gpu_utilization gauge
"""
TWO_GPUS = """nv_gpu_utilization{gpu_uuid="GPU-a"} 0.5
nv_gpu_utilization{gpu_uuid="GPU-b"} 1
# TYPE nv_gpu_power_usage gauge
nv_gpu_power_usage{gpu_uuid="GPU-a"} 71.5
"""


def _serving(page):
    """Metrics that are this page; None for none."""

    async def metrics(_):
        if page == "slow":
            await asyncio.sleep(5)
        return web.Response(status=404) if page is None else web.Response(body=page)

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    return app


@pytest.mark.parametrize(
    "page, expected",
    [
        (HEAD + TWO_GPUS, 0.75),
        (HEAD + 'nv_gpu_utilization{gpu_uuid="GPU-a"} 0\n', 0),
        (HEAD, None),
        (HEAD + 'nv_gpu_utilization{gpu_uuid="GPU-a"} 1-2\n', None),
        (b"\xff\xfe", None),
        (None, None),
        ("slow", None),
    ],
    ids=["two GPUs", "idle", "no GPU", "no number", "no text", "refused", "slow"],
)
async def test_what_triton_says_of_its_gpus(monkeypatch, page, expected):
    """The mean of all; nothing where there is no GPU, or no answer in time."""
    monkeypatch.setattr(gpu, "_TIMEOUT_SECONDS", 0.2 if page == "slow" else SOON)
    async with TestServer(_serving(page), shutdown_timeout=0.1) as server, GpuUse(server.port) as gpu_use:
        assert await gpu_use.of(f"{server.host}:8001") == expected


async def test_a_triton_without_metrics_is_no_error():
    """Nobody listens at that port."""
    async with GpuUse(1) as gpu_use:
        assert await gpu_use.of("127.0.0.1:8001") is None


async def test_a_fleet_is_asked_only_if_it_is_known_where():
    """Without a port, no Triton's GPU is known."""
    discovery = FixedAddresses(frozenset({"127.0.0.1:1"}))
    async with (
        TestServer(_serving(HEAD + TWO_GPUS)) as server,
        GpuUse(server.port) as gpu_use,
        Fleet(discovery, Metrics(), gpu_use=gpu_use) as fleet,
    ):
        assert await fleet.gpu_use() == {"127.0.0.1:1": 0.75}
    async with Fleet(discovery, Metrics()) as fleet:
        assert await fleet.gpu_use() == {"127.0.0.1:1": None}
