"""Axe finds nothing on any view, in light and dark, wide and narrow; and the page can be read in each."""

import pytest
from axe_playwright_python.async_playwright import Axe

from tests.console.pages import crowd, drop, picture

pytestmark = pytest.mark.asyncio(loop_scope="session")
SIZES = {"phone": (360, 740), "tablet": (768, 1024), "desktop": (1440, 900), "wall": (2560, 1440)}


async def violations(page):
    results = await Axe().run(page, options={"resultTypes": ["violations"]})  # the others are not read, and take time
    return results.generate_report() if results.violations_count else ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_is_content_with_every_view(open_page, url, predictor, scheme):
    """Empty, with pictures and boxes, with a refusal, live, guide and key dialog; nothing is cut off at the side.

    At every size, of which a wall has nothing for axe that a desktop has not.
    """
    predictor.see(*crowd(40))
    page = await open_page(url, color_scheme=scheme)

    async def check(what):
        for name, (width, height) in SIZES.items():
            await page.set_viewport_size({"width": width, "height": height})
            assert name == "wall" or await violations(page) == "", (what, name)
            assert await page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), (what, name)

    await check("empty")
    await drop(page, ("one.png", picture()), ("two.png", b"no picture"))
    await page.click("#found li")
    await page.select_option("#compare", index=1)
    await page.click("#copy-curl")
    await check("pictures")
    await page.click("#pictures li:nth-child(2) button")
    await page.wait_for_selector("#problem:visible")
    await check("a refusal")
    await page.click("text=Live")
    await page.wait_for_selector(".endpoint")
    await check("live")
    await page.click("text=Guide")
    await check("guide")
    await page.click("#key-button")
    await check("key")


async def test_a_choice_of_colours_is_kept(open_page, url):
    """Against the system's, and over a reload."""
    page = await open_page(url, color_scheme="light")
    light = await page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    await page.select_option("#theme", "dark")
    await page.reload()
    assert await page.input_value("#theme") == "dark"
    assert await page.evaluate("() => getComputedStyle(document.body).backgroundColor") != light
