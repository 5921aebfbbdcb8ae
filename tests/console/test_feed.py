"""`/v1/live`: what it tells, to whom, and at what cost."""

import asyncio
import dataclasses
import json
import socket
import time
from contextlib import AsyncExitStack
from itertools import count
from types import SimpleNamespace

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
    async with asyncio.timeout(30):
        while len(found) < count:
            line = await response.content.readline()
            assert line, "the stream has ended"
            if line.startswith(b"data: "):
                found.append(json.loads(line.removeprefix(b"data: ")))
    return found


async def events_until(response, condition):
    """The next events of a stream, up to the first one that meets a condition."""
    found = []
    while not found or not condition(found[-1]):
        found += await events(response, 1)
    return found


async def samples(http, url, **options):
    """All samples so far, which a newcomer gets if somebody watches: who watches may miss some on a busy machine."""
    async with http.get(f"{url}v1/live", **options) as newcomer:
        (first,) = await events(newcomer, 1)
    return first["samples"]


def counted(found, name):
    """How many there were, if between two samples there was a second."""
    return sum(each[name] or 0 for each in found)


@pytest.fixture
def even(monkeypatch):
    """Between two readings there is a second, whatever the machine's pace, so that a rate is a count; none is lost."""
    monkeypatch.setattr(console_feed, "time", SimpleNamespace(monotonic=count().__next__, time=time.time))
    monkeypatch.setattr(console_feed, "HISTORY_SECONDS", 100_000)


@pytest.mark.usefixtures("even")
async def test_an_event_tells_how_the_gateway_fares(http, url, png):
    """Traffic of the last second, the Tritons with their pace, and the models."""
    async with http.get(f"{url}v1/live") as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        assert response.headers["Cache-Control"] == "no-store"
        await events(response, 1)
        for data in (png, png, b"no image"):
            async with http.post(f"{url}v1/detect", data=data):
                pass
        async with asyncio.timeout(30):
            while counted(found := await samples(http, url), "requests_per_second") < 3:
                pass
        last = (await events_until(response, lambda event: event["sample"]["latency_ms"]["p50"]))[-1]
    assert [counted(found, f"{name}_per_second") for name in ("requests", "errors")] == [3, 1]
    assert {code for each in found for code in each["errors"]} == {"unsupported_media_type"}
    assert {label for each in found for label, rate in each["detections_per_second"].items() if rate} == {"cat", "dog"}
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
        async with asyncio.timeout(60):
            while len(set.intersection(*times)) < 3:  # who is slow to read misses some
                for seen, found in zip(
                    times, await asyncio.gather(*(events(each, 1) for each in viewers)), strict=True
                ):
                    seen.update(each["sample"]["time"] for each in found if "sample" in each)
        assert len(set.union(*times)) <= tritons.asked


async def test_a_newcomer_gets_the_minutes_before(http, url):
    """What others have watched; its charts need not begin empty."""
    async with http.get(f"{url}v1/live") as first:
        before = [each["sample"] for each in await events(first, 3)]
        found = await samples(http, url)
    assert found[0] == before[0]
    assert [each for each in found if each in before] == before


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
                times = [each["sample"]["time"] for each in (await events(quick, 20))]  # more than buffers hold
        finally:
            slow.close()
    assert times[0] < times[-1]


async def test_viewers_leave_when_the_gateway_drains(http, url, lifecycle):
    """The stream ends by itself, and so does the shutdown."""
    async with http.get(f"{url}v1/live") as response:
        await events(response, 1)
        lifecycle.drain()
        async with asyncio.timeout(30):
            await response.read()


async def test_a_triton_that_starts_anew_is_no_negative_number(http, url, tritons):
    """Its totals begin at nothing again."""
    tritons.totals["triton-0:8001"][:] = 1e6, 250_000, 5000.0
    async with http.get(f"{url}v1/live") as response:
        await events_until(response, lambda event: event["endpoints"][0]["batch_size"] == 4)
        tritons.totals["triton-0:8001"][:] = 0, 0, 0.0
        found = await events_until(response, lambda event: event["endpoints"][0]["batch_size"] != 4)
    endpoint = found[-1]["endpoints"][0]
    assert [endpoint[name] for name in ("batch_size", "queue_ms", "inferences_per_second")] == [None, None, 0]


async def test_a_key_sees_what_it_may_use(http, rest_face, tritons, predictor, keyring, clock, png):
    """A model that a key does not allow is as if it were not there, in numbers, models and endpoints alike."""
    predictor.models["other"] = dataclasses.replace(MODEL, name="other", labels=("cat", "secret"))
    few, all_of_them = keyring.add("few", models=("other",)), keyring.add("all")
    access = Access(keyring.path, clock)
    core = dataclasses.replace(rest_face.core, predictor=Permitted(predictor), access=access)
    async with serving(dataclasses.replace(rest_face, core=core, tritons=tritons)) as url:
        headers = [{"X-API-Key": secret} for secret in (few, all_of_them)]
        async with http.get(f"{url}v1/live") as response:
            assert response.status == 401
        async with AsyncExitStack() as stack:
            viewers = [await stack.enter_async_context(http.get(f"{url}v1/live", headers=each)) for each in headers]
            last = [(await events(viewer, 1))[-1] for viewer in viewers]
            async with http.post(f"{url}v1/detect?model=toy", data=png, headers=headers[1]) as done:
                assert done.status == 200
            async with asyncio.timeout(30):
                while not counted(await samples(http, url, headers=headers[1]), "requests_per_second"):
                    pass
            assert not counted(await samples(http, url, headers=headers[0]), "requests_per_second")
        assert [[model["name"] for model in event["models"]] for event in last] == [["other"], ["other", "toy"]]
        assert [event["endpoints"][0]["models"] for event in last] == [{}, {"toy": ["1", "3"]}]
        async with http.get(f"{url}v1/live", headers={"X-API-Key": few}) as response:
            keyring.remove("few")
            await access.reload()
            async with asyncio.timeout(30):
                await response.read()
        async with http.get(f"{url}v1/live", headers={"X-API-Key": all_of_them}) as response:
            keyring.write(dataclasses.replace(read_keys(keyring.path)[0], models=("toy",)))
            await access.reload()
            async with asyncio.timeout(30):
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
