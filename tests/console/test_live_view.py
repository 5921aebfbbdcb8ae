"""The Live view: what moves on the page when something happens behind it."""

import asyncio
import dataclasses

import aiohttp
import pytest

from gateway.rest.console import feed as console_feed
from tests.conftest import at_rest
from tests.console.pages import picture, says
from tests.fakes import MODEL

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    """Seconds pass more quickly."""
    monkeypatch.setattr(console_feed, "INTERVAL_SECONDS", 0.1)


@pytest.fixture
def live(url):
    return f"{url}#live"


async def test_a_triton_that_dies_and_comes_back_is_seen(open_page, live, tritons):
    """In its card, in the sum, and once for those who listen."""
    page = await open_page(live)
    await says(page, "#live-state", "2 of 2 Tritons serving")
    tritons.states["triton-1:8001"] = "lost"
    await says(page, "#live-state", "1 of 2 Tritons serving")
    await says(page, ".endpoint[data-kind=bad]", "the connection broke")
    await says(page, "#live-news", "triton-1:8001 is lost")
    del tritons.states["triton-1:8001"]
    await says(page, "#live-state", "1 of 1 Tritons serving")
    assert await page.locator(".endpoint").count() == 1
    tritons.states["triton-1:8001"] = "serving"
    await says(page, "#live-state", "2 of 2 Tritons serving")


async def test_traffic_moves_numbers_and_charts(open_page, live, url):
    """Requests, errors, latency and classes."""
    page = await open_page(live)
    await says(page, "#live-state", "2 of 2")
    async with aiohttp.ClientSession(url) as http:
        for data in (picture(), b"no image"):
            async with http.post("/v1/detect", data=data):
                pass
    await says(page, "#classes-live", "cat")
    await page.wait_for_function("() => /\\d/.test(document.querySelector('.tile:nth-child(2) .number').textContent)")
    lines = await page.eval_on_selector_all(
        ".tile .line-0", "paths => paths.map(path => path.getAttribute('d').length)"
    )
    assert min(lines) > 10
    await says(page, ".endpoint", "Batch size4")
    await says(page, ".endpoint:nth-child(1)", "GPU37.5 %")
    await says(page, ".endpoint:nth-child(2)", "GPU\u2013")


async def test_charts_end_at_round_numbers_above_them(open_page, live, metrics):
    """Nothing is written over a line; what counts whole things has a whole number there."""
    page = await open_page(live)
    await says(page, "#live-state", "2 of 2")
    metrics.shed.labels("toy", "overload").inc(7)
    await page.wait_for_function("() => Number(document.querySelector('.tile:nth-child(4) .top').textContent) > 1")
    for top, chart in await page.eval_on_selector_all(
        ".plot", "all => all.map(plot => [...plot.children].map(each => each.getBoundingClientRect().toJSON()))"
    ):
        assert top["bottom"] <= chart["top"]
    tops = await page.evaluate(
        "async (values) => values.map((await import('/console/charts.js')).roundTop)",
        [0, 0.0234, 0.3, 0.96, 1, 1.01, 1.1, 7.2, 29.97, 83, 455, 99_999],
    )
    assert tops == [1, 0.03, 0.3, 1, 1, 1, 2, 8, 30, 100, 500, 100_000]


async def test_a_model_is_told_with_its_measured_accuracy(open_page, live, predictor):
    """And its precision, versions and state."""
    facts = {"variant": "S", "precision": "fp16", "map50_95": "0.46813"}
    measured = dataclasses.replace(MODEL, name="measured", facts=facts)
    predictor.models = {"toy": MODEL, "measured": measured}
    page = await open_page(live)
    await says(page, "#models", "toy")
    rows = await page.eval_on_selector_all(
        "#models tr", "rows => rows.map(row => [...row.children].map(e => e.textContent))"
    )
    assert rows == [
        ["measured", "1, 3", "ready", "S", "fp16", "0.468", "64 \u00d7 32", "2", "1"],
        ["toy", "1, 3", "ready", "none", "\u2013", "not measured", "64 \u00d7 32", "2", "1"],
    ]


async def test_a_page_out_of_sight_watches_nothing(open_page, live, tritons):
    """Another view, and the feed stops; back again, it goes on."""
    page = await open_page(live)
    await says(page, "#live-state", "2 of 2")
    await page.click("text=Guide")
    asked = await at_rest(lambda: tritons.asked)
    await page.click("text=Live")
    async with asyncio.timeout(30):
        while tritons.asked == asked:
            await asyncio.sleep(0.02)


async def test_a_lost_connection_is_said_and_made_again(open_page, live, lifecycle):
    """The gateway drains, and another takes its place."""
    page = await open_page(live)
    await says(page, "#live-state", "2 of 2")
    lifecycle.drain()
    await says(page, "#live-state", "trying again")
    lifecycle.is_draining = False
    await says(page, "#live-state", "2 of 2")
