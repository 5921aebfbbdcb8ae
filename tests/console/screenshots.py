"""Takes the pictures of the console that the README shows, of a gateway that runs: `make up`, then `make screenshots`.

The gateway gets some traffic meanwhile, so that there is something to see.
"""

import asyncio
import io
import math
import os
import shutil
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from PIL import Image
from playwright.async_api import async_playwright

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "pictures"
SIZE = {"width": 1280, "height": 860}
TRAFFIC_SECONDS = 100  # of the two minutes that charts show


@asynccontextmanager
async def traffic(url):
    """Requests at a pace that rises and falls, a wrong one now and then."""

    async def send(http, data):
        async with http.post("/v1/detect?timeout_ms=2000", data=data) as response:
            await response.read()

    async def keep_sending():
        async with aiohttp.ClientSession(url) as http, asyncio.TaskGroup() as group:
            async with http.get("/console/sample.png") as response:
                board = await response.read()
            for turn in range(10**6):
                group.create_task(send(http, b"no picture" if turn % 60 == 59 else board))
                await asyncio.sleep(0.08 + 0.05 * math.sin(turn / 40))

    sending = asyncio.create_task(keep_sending())
    try:
        yield
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


def save(name, data):
    """A PNG that is packed as tightly as it can be."""
    Image.open(io.BytesIO(data)).convert("RGB").save(FOLDER / name, optimize=True)
    print(f"{FOLDER / name}: {(FOLDER / name).stat().st_size:,} bytes")  # noqa: T201 (what was written)


async def detect_view(page):
    await page.click("#try-sample")
    await page.wait_for_selector("#found li")
    await page.click("#found li:nth-child(2)")


async def live_view(page):
    await page.click("text=Live")
    await page.wait_for_selector(".endpoint")
    await page.wait_for_timeout(1500)


async def take(url):
    async with async_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        pages = {scheme: await browser.new_page(viewport=SIZE, color_scheme=scheme) for scheme in ("light", "dark")}
        for scheme, page in pages.items():
            await page.goto(url)
            await page.wait_for_function("() => document.querySelector('#model').options.length > 0")
            await detect_view(page)
            await page.wait_for_timeout(300)
            save(f"console-detect-{scheme}.png", await page.screenshot(caret="initial"))
        async with traffic(url):
            for page in pages.values():
                await live_view(page)
            await asyncio.sleep(TRAFFIC_SECONDS)
            for scheme, page in pages.items():
                save(f"console-live-{scheme}.png", await page.screenshot(caret="initial", full_page=True))
        await browser.close()


if __name__ == "__main__":
    asyncio.run(take(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"))
