"""Real generators, against a small server that does as it is told."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import psutil
import pytest
import urllib3
from aiohttp import web

from eagleeye.connection import NothingDone
from loadtest.images import make_images
from loadtest.load.corpus import fingerprint, pictures, references
from loadtest.load.plan import Identity, Plan
from loadtest.load.profile import Profile
from loadtest.load.run import Workforce, run
from loadtest.load.watch import Sources

RIGHT = {image.data: image.expected for image in make_images(16)}
STALL_AT_SECONDS = 0.7
STALL_SECONDS = 1.0


@asynccontextmanager
async def serving(handler):
    """The URL of a server with that handler for `/v1/detect`."""
    app = web.Application()
    app.router.add_post("/v1/detect", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def right(request):
    return web.json_response({"detections": RIGHT[await request.read()]})


def profile(load, **changes):
    level = {"per_second": 50} if load == "open" else {"users": 1}
    return {"title": "t", "load": load, "stages": [{"seconds": 2.4, **level}], "max_lag_ms": 60_000, **changes}


async def measure(url, data, others=0):
    """The result of a load, made beside this loop."""
    made = pictures(Profile.parse(data).images, "gpu_standin", None)
    right = [each.pack() for each in references(made, None, 0.4, None)]
    plan = Plan(data, url, "grpc://127.0.0.1:9", "gpu_standin", right, fingerprint(made) + others)
    with urllib3.PoolManager() as pool:
        sources = Sources(f"{url}/metrics", (), "")
        return await asyncio.to_thread(run, plan, Identity("secret"), Workforce(), sources, pool)


@pytest.mark.parametrize("load", ["open", "closed"])
async def test_a_stall_shows_in_open_load_and_hides_in_closed(load):
    """A server that answers nothing for a second: four in ten of the images were due then, and had to wait.

    The one caller of closed load has one image under way meanwhile: its highest latency shows the stall, and what 95 %
    waited does not. That is coordinated omission.
    """
    began = None

    async def stalls(request):
        nonlocal began
        began = began or time.monotonic()
        if STALL_AT_SECONDS <= time.monotonic() - began < STALL_AT_SECONDS + STALL_SECONDS:
            await asyncio.sleep(began + STALL_AT_SECONDS + STALL_SECONDS - time.monotonic())
        return await right(request)

    async with serving(stalls) as url:
        figures = (await measure(url, profile(load, arrivals="constant", think_seconds=0.005)))["figures"][0]
    assert figures["error_share"] == 0
    assert figures["max_ms"] > 800
    if load == "open":
        assert figures["due"] == 120
        assert figures["p99_ms"] > 800
    else:
        assert figures["p95_ms"] < 700


async def test_the_answer_to_another_image_is_wrong():
    """Although its status is 200; refusals and other errors are told apart, with their reasons.

    And requests carry what the profile says: deadline, priority, model; and the caller's key.
    """
    turn = 0
    seen = []

    async def mixed_up(request):
        nonlocal turn
        turn += 1
        seen.append((dict(request.query), request.headers.get("X-API-Key")))
        if turn % 4 == 1:
            return web.json_response({"code": "overloaded"}, status=503)
        if turn % 4 == 2:
            return web.json_response({"code": "internal"}, status=500)
        if turn % 4 == 3:
            return web.json_response({"detections": RIGHT[min(RIGHT)]})
        return await right(request)

    objectives = [{"figure": "error_share", "at_most": 0.1}]
    data = profile("open", priorities={"low": 1}, timeout_seconds=7, slo=objectives)
    data["stages"] = [{"seconds": 1, "per_second": 80}]
    async with serving(mixed_up) as url:
        result = await measure(url, data)
    verdicts = result["figures"][0]["verdicts"]
    assert (verdicts["refused"], verdicts["failed"], verdicts["late"]) == (20, 20, 0)
    assert verdicts["ok"] + verdicts["wrong"] == 40
    assert verdicts["wrong"] >= 10
    assert result["reasons"]["overloaded"] == 20
    assert result["exit_code"] == 1
    assert seen == [({"model": "gpu_standin", "timeout_ms": "7000", "priority": "low"}, "secret")] * 80


async def test_a_fault_before_the_load_is_one_line():
    """Here a generator's, whose pictures are not those that there are answers to."""
    async with serving(right) as url:
        with pytest.raises(NothingDone, match="a worker has other pictures than who leads"):
            await measure(url, profile("open"), others=1)


def test_a_generator_ends_with_who_started_it():
    """Killed without a word, it leaves none behind."""
    script = (
        "from loadtest.load.run import _generator\n"
        "import time\n"
        'with _generator({"role": "worker", "identity": {}, "host": "127.0.0.1", "port": 9}) as child:\n'
        "    print(child.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        os.kill(parent.pid, signal.SIGKILL)
    child.wait(30)


def test_locust_stays_in_its_own_process():
    """The command, the report and all that they import leave the standard library as it is."""
    script = (
        "import loadtest.load.command, loadtest.load.run, loadtest.load.report, loadtest.load.session, sys\n"
        "from gevent import monkey\n"
        "assert 'locust' not in sys.modules\n"
        "assert not monkey.is_module_patched('socket')\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=60)
