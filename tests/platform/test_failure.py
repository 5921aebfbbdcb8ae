"""Triton dies, stalls and comes back; the gateway says so at once and recovers by itself."""

import asyncio
import re
import signal
import time

import pytest


async def status(http, path="/readyz"):
    async with http.get(path) as response:
        return response.status


async def detect(http, image, query=""):
    async with http.post(f"/v1/detect{query}", data=image) as response:
        return response.status, (await response.json()).get("code")


async def until(http, wanted, seconds):
    """Poll readiness; the time it took."""
    start = time.monotonic()
    while await status(http) != wanted:
        assert time.monotonic() - start < seconds, f"not {wanted} within {seconds} s"
        await asyncio.sleep(0.02)
    return time.monotonic() - start


async def test_a_killed_triton_is_noticed_and_its_restart_too(platform, http, board):
    """Not ready within 2 s, alive all the time, and well again without help; who has the time waits for it."""
    (server,) = platform.children("bin/tritonserver")
    server.kill()
    await until(http, 503, seconds=2)
    patient = asyncio.create_task(detect(http, board, "?timeout_ms=60000"))
    async with asyncio.timeout(2):
        assert await detect(http, board, "?timeout_ms=300") == (503, "triton_unavailable")
    assert await status(http, "/healthz") == 200

    assert await patient == (200, None)
    await until(http, 200, seconds=30)
    assert re.search(
        r"Triton was killed by SIGKILL; starting it again .*; the end of .*triton.log:\n    \S", platform.output
    )
    assert len(platform.shared_memory()) == len(platform.children("triton_python_backend_stub"))


async def test_requests_under_way_when_triton_dies_are_answered(platform, http, board):
    """By the same Triton, when it has been started again: there is no other."""
    requests = [asyncio.create_task(detect(http, board, "?timeout_ms=60000")) for _ in range(16)]
    await asyncio.sleep(0.02)
    platform.children("bin/tritonserver")[0].kill()
    assert set(await asyncio.gather(*requests)) == {(200, None)}
    await until(http, 200, seconds=30)


@pytest.mark.parametrize("process", ["bin/tritonserver", "triton_python_backend_stub"])
async def test_a_stalled_triton_does_not_hold_callers(platform, http, board, process):
    """A frozen server or backend costs a caller no more than its own deadline; thawed, all is well again."""
    frozen = platform.children(process)
    for each in frozen:
        each.send_signal(signal.SIGSTOP)
    try:
        async with asyncio.timeout(3):
            assert await detect(http, board, "?timeout_ms=500") in [
                (504, "deadline_exceeded"),
                (503, "triton_unavailable"),
            ]
        if process == "bin/tritonserver":
            await until(http, 503, seconds=2)
    finally:
        for each in frozen:
            each.send_signal(signal.SIGCONT)
    await until(http, 200, seconds=30)
    assert await detect(http, board) == (200, None)


async def test_a_killed_gateway_is_started_again(platform, http, board):
    """The other child is watched as well."""
    platform.children("-m gateway")[0].kill()
    async with asyncio.timeout(30):
        while platform.status() != 200:
            await asyncio.sleep(0.1)
    assert await detect(http, board) == (200, None)


async def test_a_dead_backend_process_is_replaced(platform, http, board):
    """Triton does not replace it, and half of all requests would fail for ever; so Triton is started anew."""
    platform.children("triton_python_backend_stub")[0].kill()
    await until(http, 503, seconds=20)
    await until(http, 200, seconds=30)
    assert {await detect(http, board) for _ in range(10)} == {(200, None)}
    assert "Triton has lost a helper process" in platform.output
