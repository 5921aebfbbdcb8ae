"""The page's files: what they weigh, what they may do, and that they are what the page needs."""

import dataclasses
import io
import re
from importlib.resources import files

import aiohttp
import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from eagleeye.boards import DEFAULT_SEED, draw_board
from gateway.annotate import label_colour
from gateway.rest.console.page import PATHS
from tests.console.conftest import serving

pytestmark = pytest.mark.asyncio(loop_scope="session")
MOST_BYTES = 200_000


@pytest_asyncio.fixture(loop_scope="session")
async def http(url):
    async with aiohttp.ClientSession(url) as session:
        yield session


async def read(http, path):
    async with http.get(path) as response:
        assert response.status == 200
        return await response.read()


async def test_the_whole_page_is_light(http):
    """With everything that it loads."""
    assert 50_000 < sum([len(await read(http, path)) for path in PATHS]) < MOST_BYTES


async def test_every_file_comes_with_the_policy(http):
    """Scripts and styles of its own, no others, and no way for text to become markup."""
    for path in PATHS:
        async with http.get(path) as response:
            policy = dict(part.split(" ", 1) for part in response.headers["Content-Security-Policy"].split("; "))
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Referrer-Policy"] == "no-referrer"
    nothing, own = "'none'", "'self'"
    assert policy == {
        "default-src": nothing,
        "script-src": own,
        "style-src": own,
        "img-src": "'self' blob: data:",
        "connect-src": own,
        "base-uri": nothing,
        "form-action": nothing,
        "frame-ancestors": nothing,
        "require-trusted-types-for": "'script'",
        "trusted-types": nothing,
    }


async def test_the_browser_refuses_what_the_policy_forbids(browser, url):
    """Even if a script of ours made markup of a text, or something foreign got in, nothing would come of it."""
    page = await browser.new_page()
    await page.goto(url)
    assert await page.evaluate(
        """async () => {
          const attempt = async (act) => { try { await act(); return "done"; } catch (error) { return error.name; } };
          const asPage = (act) => new Promise((told) => setTimeout(() => told(attempt(act)))); // devtools may eval
          const style = document.createElement("style");
          style.textContent = "body { display: none }";
          document.head.append(style);
          return [
            await attempt(() => { document.body.innerHTML = "<b>markup</b>"; }),
            await attempt(() => document.body.setAttribute("onclick", "alert(1)")),
            await attempt(() => { document.createElement("script").src = "https://elsewhere.example/x.js"; }),
            await attempt(() => { document.createElement("script").text = "1"; }),
            await asPage(() => new Function("return 1")()),
            await attempt(() => fetch("https://elsewhere.example/")),
            getComputedStyle(document.body).display === "none",
          ];
        }"""
    ) == ["TypeError"] * 4 + ["EvalError", "TypeError", False]
    await page.close()


async def test_nothing_comes_from_elsewhere(http):
    """It works without internet, and no file is shipped that nothing uses."""
    texts = {path: (await read(http, path)).decode() for path in PATHS if not path.endswith(".png")}
    everything = "".join(texts.values())
    assert set(re.findall(r"https?://[^\s\"'<>`)]+", everything)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", everything)
    for path in PATHS - {"/"}:
        assert path.rpartition("/")[2] in everything


async def test_the_sample_is_the_board_that_the_command_draws(http):
    """`eagleeye sample`, pixel for pixel."""
    shipped = Image.open(io.BytesIO(await read(http, "/console/sample.png"))).convert("RGB")
    assert np.array_equal(np.asarray(shipped), draw_board(DEFAULT_SEED).image)


async def test_the_console_can_be_turned_off(rest_face):
    """Then the root leads to the docs, and nothing else of it is there."""
    async with serving(dataclasses.replace(rest_face, has_console=False)) as url, aiohttp.ClientSession(url) as http:
        async with http.get("/") as response:
            assert (response.status, response.url.path) == (200, "/docs")
        for path in (*(PATHS - {"/"}), "/v1/live", "/v1/stream"):
            async with http.get(path) as response:
                assert response.status == 404


async def test_the_package_holds_the_files():
    """They are data of the package, found wherever it is installed."""
    assert files("gateway.rest.console").joinpath("static", "index.html").is_file()


async def test_colours_are_those_of_annotated_pictures(page):
    """A label looks the same here and in a picture that the gateway draws."""
    labels = ["open", "short", "mousebite", "spur", "copper", "pin-hole", "cat", "dog", "", "Ünïcödé \N{EYE}"]
    found = await page.evaluate(
        "async (labels) => labels.map((await import('/console/colour.js')).labelColour)",
        labels,
    )
    assert np.abs(np.array(found) - np.array([label_colour(label) for label in labels])).max() <= 1
