"""The console in front of the real thing: what its page shows is what the gateway and a real Triton say."""

import itertools
import json

import aiohttp
import numpy as np
import pytest
import pytest_asyncio

from tests.console.conftest import browser, open_page  # noqa: F401 (fixtures)
from tests.console.pages import download, says, slide

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture
def url(platform):
    return f"{platform.url}/"


@pytest_asyncio.fixture(loop_scope="session")
async def page(open_page, platform, url):  # noqa: F811
    platform.wait_until_ready()
    return await open_page(url)


async def test_the_sample_is_tried_and_thresholds_agree_with_the_gateway(page, url):
    """Six defects at first sight; at every threshold exactly what the gateway itself answers, down to the lowest."""
    await page.click("#try-sample")
    await page.wait_for_function("() => document.querySelectorAll('#found li').length === 6")
    async with aiohttp.ClientSession(url) as http:
        async with http.get("/console/sample.png") as response:
            data = await response.read()
        counts = set()
        for score, iou in itertools.product((0.01, 0.02, 0.1, 0.4), (0.02, 0.1, 0.45, 0.65, 0.9)):
            await slide(page, "score", score)
            await slide(page, "iou", iou)
            await page.evaluate("() => new Promise(requestAnimationFrame)")
            _, saved = await download(page, "#save-json")
            async with http.post(f"/v1/detect?score_threshold={score}&iou_threshold={iou}", data=data) as response:
                found = (await response.json())["detections"]
            assert as_floats(json.loads(saved)["results"][0]["detections"]) == as_floats(found)
            counts.add(len(found))
    assert min(counts) == 6
    assert max(counts) > 100


def as_floats(found):
    """Detections as 32-bit floats, which JSON may write in more than one way."""
    numbers = [[each["score"], *each["box"].values()] for each in found]
    return [each["label"] for each in found], np.array(numbers, np.float32).tolist()


async def test_the_camera_is_answered(page):
    """By the real model, frame after frame; it may well see nothing in the browser's fake picture."""
    await page.click("#camera")
    await says(page, "#notice", "pictures/s")
    await says(page, "#caption-0", "candidates")
    await page.click("#camera")


async def test_a_real_triton_is_seen_dying_and_coming_back(page, platform, url, board):
    """On the page, within what a person calls at once, and without touching it."""
    await page.click("text=Live")
    await page.wait_for_function("() => document.querySelector('#live-state').textContent.includes('1 of 1')")
    await page.wait_for_selector("#models tr")
    async with aiohttp.ClientSession(url) as http, http.post("/v1/detect", data=board) as response:
        assert response.status == 200
    await says(page, ".endpoint", "Batch size1")
    (server,) = platform.children("bin/tritonserver")
    server.kill()
    await page.wait_for_function("() => document.querySelector('#live-state').textContent.includes('0 of 1')")
    await page.wait_for_selector(".endpoint:not([data-kind=good])")
    await says(page, "#models", "expected back")
    await page.wait_for_function(
        "() => document.querySelector('#live-state').textContent.includes('1 of 1')", timeout=60_000
    )
    platform.wait_until_ready()
