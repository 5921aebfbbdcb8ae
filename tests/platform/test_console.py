"""The console in front of the real thing: what its page shows is what the gateway and a real Triton say."""

import aiohttp
import pytest
import pytest_asyncio

from tests.console.conftest import browser, open_page  # noqa: F401 (fixtures)
from tests.console.pages import says, shown, slide

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture
def url(platform):
    return f"{platform.url}/"


@pytest_asyncio.fixture(loop_scope="session")
async def page(open_page, platform, url):  # noqa: F811
    platform.wait_until_ready()
    return await open_page(url)


async def test_the_sample_is_tried_and_thresholds_agree_with_the_gateway(page, url):
    """Six defects at first sight; at every threshold what the gateway itself would have answered."""
    await page.click("#try-sample")
    await page.wait_for_function("() => document.querySelectorAll('#found li').length === 6")
    async with aiohttp.ClientSession(url) as http:
        async with http.get("/console/sample.png") as response:
            data = await response.read()
        for score, iou in [(0.1, 0.1), (0.1, 0.45), (0.25, 0.65), (0.4, 0.65)]:
            await slide(page, "score", score)
            await slide(page, "iou", iou)
            await page.evaluate("() => new Promise(requestAnimationFrame)")
            async with http.post(f"/v1/detect?score_threshold={score}&iou_threshold={iou}", data=data) as response:
                found = (await response.json())["detections"]
            # the last digit may differ: Triton batches as it likes
            assert await shown(page) == [[each["label"], pytest.approx(each["score"], abs=0.002)] for each in found]


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
    await page.wait_for_function(
        "() => document.querySelector('#live-state').textContent.includes('1 of 1')", timeout=60_000
    )
    platform.wait_until_ready()
