"""The Guide view: a newcomer's first minute leads where it says."""

import asyncio
import json
import subprocess

import pytest

from tests.console.pages import says, until_counted

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_the_sample_is_tried_from_the_guide(open_page, url):
    """One button leads to a picture with what was found in it."""
    page = await open_page(f"{url}#guide")
    assert await page.evaluate("scrollY") == 0
    await page.click("#guide-sample")
    await until_counted(page, 2)
    assert await page.is_visible("#canvas-0")
    assert await page.is_hidden("#guide")


async def test_the_guides_curl_line_runs(open_page, url):
    """As it was copied."""
    page = await open_page(f"{url}#guide")
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.click("#guide-copy")
    await says(page, "#guide-status", "Copied")
    line = await page.evaluate("navigator.clipboard.readText()")
    done = await asyncio.to_thread(subprocess.run, ["sh", "-c", f"{line} -s"], capture_output=True, check=True)
    assert [each["label"] for each in json.loads(done.stdout)["detections"]] == ["cat", "dog"]


async def test_the_guides_links_lead_somewhere(open_page, url):
    """To what this gateway serves, and to the other views."""
    page = await open_page(f"{url}#guide")
    for href in await page.eval_on_selector_all("#guide a", "links => links.map(link => link.href)"):
        assert (await page.request.get(href)).ok, href
