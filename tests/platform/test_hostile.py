"""Bad input against the live gateway: each has its answer, and memory stays flat."""

import asyncio
import itertools

import aiohttp
import pytest

from tests.gateway.test_image import encode, png_header, scene

JPEG = encode(scene(640, 480), "JPEG", quality=80)
MODEL = "damoyolo_ns_deeppcb"

CASES = {
    "empty body": ("", b"", 400, "invalid_image", "empty"),
    "text": ("", b"hello, is this an image?", 415, "unsupported_media_type", "JPEG, PNG, WebP and BMP"),
    "html": ("", b"<!doctype html><title>x</title>", 415, "unsupported_media_type", "JPEG, PNG, WebP and BMP"),
    "truncated jpeg": ("", JPEG[: len(JPEG) // 2], 400, "invalid_image", "truncated or damaged"),
    "30,000 x 30,000 png": ("", png_header(30_000, 30_000), 413, "image_too_large", "30000 x 30000"),
    "zero width": ("", png_header(0, 10), 400, "invalid_image", "damaged"),
    "zero height": ("", png_header(10, 0), 400, "invalid_image", "damaged"),
    "unknown model": ("?model=nobody", JPEG, 404, "model_not_found", f"served are: {MODEL}"),
    "unknown version": ("?version=77", JPEG, 404, "model_not_found", "served are: 1"),
    "score over 1": ("?score_threshold=1.5", JPEG, 400, "invalid_parameter", "between 0 and 1"),
    "iou below 0": ("?iou_threshold=-0.5", JPEG, 400, "invalid_parameter", "between 0 and 1"),
    "no detections wanted": ("?max_detections=0", JPEG, 400, "invalid_parameter", "between 1 and 1000"),
}


@pytest.mark.parametrize("case", CASES)
async def test_bad_input_gets_its_status_and_a_clear_text(http, case):
    """What was wrong, and what is allowed."""
    query, body, status, code, says = CASES[case]
    async with http.post(f"/v1/detect{query}", data=body) as response:
        problem = await response.json()
    assert (response.status, problem["code"]) == (status, code)
    assert says in problem["detail"]


async def test_a_body_of_100_mb_is_refused_before_it_has_arrived(platform):
    """The declared length is enough: the answer comes while the client is still sending."""
    reader, writer = await asyncio.open_connection("127.0.0.1", platform.ports["http"])
    writer.write(b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n" + bytes(1000))
    async with asyncio.timeout(90):
        head = await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()
    assert head.startswith(b"HTTP/1.1 413 ")


async def test_a_thousand_bad_requests_leave_memory_flat(platform, http):
    """Peak resident memory grows by less than one decoded picture over 1,000 bad requests, 100 MB bodies among them."""

    async def send(query, body):
        try:
            async with http.post(f"/v1/detect{query}", data=body) as response:
                return response.status
        except (BrokenPipeError, ConnectionResetError, aiohttp.ServerDisconnectedError):
            return 413  # refused so early that the client was still sending; the test above sees the status itself

    async def send_all(count):
        requests = itertools.cycle([(query, body) for query, body, *_ in CASES.values()])
        for _ in range(0, count, 10):
            statuses = await asyncio.gather(*(send(*next(requests)) for _ in range(10)))
            assert all(400 <= status < 500 for status in statuses)

    async def endless():
        for _ in range(100):
            yield bytes(1_000_000)

    await send_all(100)
    await send("", endless())
    before = platform.gateway_peak_bytes()
    await send_all(990)
    for _ in range(10):
        assert await send("", endless()) == 413
    assert platform.gateway_peak_bytes() - before < 30_000_000
