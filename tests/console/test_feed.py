"""`/v1/live`: what it tells, to whom, and at what cost."""

import asyncio
import dataclasses
import json
import socket
from contextlib import AsyncExitStack
from itertools import pairwise

import aiohttp
import pytest
import pytest_asyncio

from gateway.access import Access, Permitted
from gateway.keys import read_keys
from gateway.rest.console import feed as console_feed
from gateway.rest.console.feed import Feed
from gateway.rest.console.feed import _quantiles as quantiles
from tests.console.conftest import serving
from tests.fakes import MODEL

pytestmark = pytest.mark.asyncio(loop_scope="session")
FAST = 0.05


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    """Seconds pass more quickly."""
    monkeypatch.setattr(console_feed, "INTERVAL_SECONDS", FAST)


@pytest_asyncio.fixture(loop_scope="session")
async def http():
    async with aiohttp.ClientSession() as session:
        yield session


async def events(response, count):
    """The next events of a stream."""
    found = []
    async with asyncio.timeout(10):
        while len(found) < count:
            line = await response.content.readline()
            assert line, "the stream has ended"
            if line.startswith(b"data: "):
                found.append(json.loads(line.removeprefix(b"data: ")))
    return found


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_an_event_tells_how_the_gateway_fares(http, url, png):
    """Traffic of the last second, the Tritons with their pace, and the models."""
    async with http.get(f"{url}v1/live") as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        assert response.headers["Cache-Control"] == "no-store"
        await events(response, 1)
        for data in (png, png, b"no image"):
            async with http.post(f"{url}v1/detect", data=data):
                pass
        found = await events(response, 6)
    last = found[-1]
    rates = {
        name: sum(each["sample"][name] for each in found) * FAST
        for name in ("requests_per_second", "errors_per_second")
    }
    assert rates == {"requests_per_second": pytest.approx(3, rel=0.5), "errors_per_second": pytest.approx(1, rel=0.5)}
    assert {code for each in found for code in each["sample"]["errors"]} == {"unsupported_media_type"}
    assert {label for each in found for label, rate in each["sample"]["detections_per_second"].items() if rate} == {
        "cat",
        "dog",
    }
    assert (
        0
        < last["sample"]["latency_ms"]["p50"]
        <= last["sample"]["latency_ms"]["p95"]
        <= last["sample"]["latency_ms"]["p99"]
    )
    endpoint = last["endpoints"][0]
    assert (endpoint["endpoint"], endpoint["state"], endpoint["outstanding"]) == ("triton-0:8001", "serving", 3)
    assert (endpoint["batch_size"], endpoint["queue_ms"]) == (4, 5)
    assert endpoint["inferences_per_second"] > 0
    assert [each["gpu_use"] for each in last["endpoints"]] == [0.375, None]
    assert last["models"] == [
        {
            "name": "toy",
            "versions": ["1", "3"],
            "state": "ready",
            "input": {"width": 64, "height": 32},
            "classes": 2,
            "batch_size": 1,
            "facts": MODEL.facts,
        }
    ]


async def test_twenty_viewers_cost_what_one_costs(rest_face, tritons):
    """Each event is computed once, and everybody gets the same bytes; with nobody left, nothing is computed."""
    feed = Feed(rest_face.core, tritons)
    watching = [feed.events(None) for _ in range(20)]
    for _ in range(3):
        assert len(set(await asyncio.gather(*(anext(each) for each in watching)))) == 1
    assert 3 <= feed.computed <= tritons.asked <= feed.computed + 1 < len(watching)  # one may just be asked for
    for each in watching:
        await each.aclose()
    computed = feed.computed
    await asyncio.sleep(3 * FAST)
    assert feed.computed == computed


async def test_twenty_viewers_see_the_same(http, url, tritons, png):
    """Over connections of their own, and answers come meanwhile as ever."""
    async with AsyncExitStack() as stack:
        viewers = [await stack.enter_async_context(http.get(f"{url}v1/live")) for _ in range(20)]
        async with http.post(f"{url}v1/detect", data=png) as response:
            assert response.status == 200
        times = [set() for _ in viewers]
        async with asyncio.timeout(20):
            while len(set.intersection(*times)) < 3:  # who is slow to read misses some
                for seen, found in zip(
                    times, await asyncio.gather(*(events(each, 1) for each in viewers)), strict=True
                ):
                    seen.update(each["sample"]["time"] for each in found if "sample" in each)
        assert len(set.union(*times)) <= tritons.asked


async def test_a_newcomer_gets_the_minutes_before(http, url):
    """What others have watched; its charts need not begin empty."""
    async with http.get(f"{url}v1/live") as first:
        before = await events(first, 3)
        async with http.get(f"{url}v1/live") as second:
            (history,) = await events(second, 1)
    assert [each["sample"] for each in before] == history["samples"][:3]


async def test_a_slow_viewer_holds_nobody_up(rest_face, tritons, predictor, http):
    """It misses events, and nothing is kept for it."""
    predictor.models = {"toy": dataclasses.replace(MODEL, facts={"note": "x" * 400_000})}
    async with serving(dataclasses.replace(rest_face, tritons=tritons)) as url:
        port = int(url.rstrip("/").rpartition(":")[2])
        slow = socket.create_connection(("127.0.0.1", port))
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(b"GET /v1/live HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            async with http.get(f"{url}v1/live") as quick:
                times = [each["sample"]["time"] for each in (await events(quick, 20)) if "sample" in each]
        finally:
            slow.close()
    assert max(later - earlier for earlier, later in pairwise(times)) < 1


async def test_viewers_leave_when_the_gateway_drains(http, url, lifecycle):
    """The stream ends by itself, and so does the shutdown."""
    async with http.get(f"{url}v1/live") as response:
        await events(response, 1)
        lifecycle.drain()
        async with asyncio.timeout(5):
            await response.read()


async def test_a_triton_that_starts_anew_is_no_negative_number(http, url, tritons):
    """Its totals begin at nothing again."""
    async with http.get(f"{url}v1/live") as response:
        await events(response, 2)
        tritons.totals["triton-0:8001"][:] = 0, 0, 0.0
        endpoint = (await events(response, 1))[0]["endpoints"][0]
        assert (endpoint["batch_size"], endpoint["queue_ms"]) == (None, None)


async def test_a_key_sees_what_it_may_use(http, rest_face, tritons, predictor, keyring, clock, png):
    """A model that a key does not allow is as if it were not there, in numbers, models and endpoints alike."""
    predictor.models["other"] = dataclasses.replace(MODEL, name="other", labels=("cat", "secret"))
    few, all_of_them = keyring.add("few", models=("other",)), keyring.add("all")
    access = Access(keyring.path, clock)
    core = dataclasses.replace(rest_face.core, predictor=Permitted(predictor), access=access)
    async with serving(dataclasses.replace(rest_face, core=core, tritons=tritons)) as url:

        async def seen(secret):
            async with http.get(f"{url}v1/live", headers={"X-API-Key": secret}) as response:
                await events(response, 1)
                async with http.post(f"{url}v1/detect?model=toy", data=png, headers={"X-API-Key": all_of_them}) as done:
                    assert done.status == 200
                found = [each for each in await events(response, 4) if "sample" in each]
            requests = sum(each["sample"]["requests_per_second"] or 0 for each in found)
            return requests > 0, [model["name"] for model in found[-1]["models"]], found[-1]["endpoints"][0]["models"]

        async with http.get(f"{url}v1/live") as response:
            assert response.status == 401
        assert await seen(few) == (False, ["other"], {})
        assert await seen(all_of_them) == (True, ["other", "toy"], {"toy": ["1", "3"]})
        async with http.get(f"{url}v1/live", headers={"X-API-Key": few}) as response:
            keyring.remove("few")
            await access.reload()
            async with asyncio.timeout(5):
                await response.read()
        async with http.get(f"{url}v1/live", headers={"X-API-Key": all_of_them}) as response:
            keyring.write(dataclasses.replace(read_keys(keyring.path)[0], models=("toy",)))
            await access.reload()
            async with asyncio.timeout(5):
                await response.read()


@pytest.mark.parametrize(
    "buckets, p50, p99",
    [
        ({}, None, None),
        ({"0.01": 0, "0.1": 0, "+Inf": 0}, None, None),
        ({"0.01": 0, "0.1": 10, "+Inf": 10}, 55, 99.1),
        ({"0.01": 50, "0.1": 100, "+Inf": 100}, 10, 98.2),
        ({"0.01": 0, "0.1": 0, "+Inf": 5}, 100, 100),
    ],
    ids=["none", "no answers", "one bucket", "two buckets", "beyond the last bound"],
)
async def test_quantiles_are_as_prometheus_has_them(buckets, p50, p99):
    """Even within a bucket; what lies beyond the last bound counts as that."""
    found = quantiles(buckets)
    assert (found["p50"], found["p99"]) == (p50, p99)
