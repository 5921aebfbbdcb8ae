"""The load generator, against a server that does as it is told."""

import asyncio
from collections import Counter
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from loadtest.arrivals import constant
from loadtest.chaos.load import Clock, Flow, Load, beside
from loadtest.images import make_images
from loadtest.verdict import Verdict
from triton_runtime.standin import fingerprint, numbered_picture

IMAGES = make_images(4)
RIGHT = {image.data: image.expected for image in IMAGES}


@asynccontextmanager
async def serving(handler):
    """A server with that handler for `/v1/detect`, and a load on it."""
    app = web.Application()
    app.router.add_post("/v1/detect", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with Load(f"http://127.0.0.1:{runner.addresses[0][1]}", IMAGES, Clock()) as load:
            yield load
    finally:
        await runner.cleanup()


def result(detections, version=1):
    return {"model": {"name": "gpu_standin", "version": str(version)}, "detections": detections}


async def right(request):
    return web.json_response(result(RIGHT[await request.read()]))


def refuse(retry_after="0"):
    return web.json_response({"code": "overloaded"}, status=503, headers={"Retry-After": retry_after})


def test_an_image_knows_its_answer():
    """The labels of its detections spell the fingerprint of its pixels, and no two images have the same."""
    spelt = ["".join(found["label"] for found in image.expected) for image in IMAGES]

    assert spelt == [fingerprint(numbered_picture(number)) for number in range(len(IMAGES))]
    assert len(set(spelt)) == len(IMAGES)


async def test_open_load_sends_when_requests_are_due():
    """Each arrival is sent once, none before its time, though no answer comes before the last one is sent."""
    arrived = asyncio.Semaphore(0)
    go = asyncio.Event()

    async def held_back(request):
        arrived.release()
        await go.wait()
        return await right(request)

    async def let_go_when_all_have_arrived():
        for _ in range(8):
            await arrived.acquire()
        go.set()

    async with serving(held_back) as load, asyncio.timeout(30):
        outcomes = await beside(load.send(Flow(arrivals=constant(20, 0.4))), let_go_when_all_have_arrived())

    assert [outcome.verdict for outcome in outcomes] == [Verdict.OK] * 8
    assert all(outcome.sent_at >= outcome.due_at for outcome in outcomes)


async def test_latency_includes_what_a_stall_did_to_the_requests_behind_it():
    """The first of ten is answered after half a second; those behind it, due meanwhile, had to wait as well."""
    lock = asyncio.Lock()
    stalls = iter([0.5])

    async def one_by_one(request):
        async with lock:
            await asyncio.sleep(next(stalls, 0))
        return await right(request)

    async with serving(one_by_one) as load:
        outcomes = await load.send(Flow(arrivals=constant(25, 0.4)))

    waited = [outcome for outcome in outcomes if outcome.latency_seconds > 0.08]
    assert len(waited) == 10


async def test_the_answer_to_another_image_is_wrong():
    """Although it is an answer, and in time."""

    async def mixed_up(_):
        return web.json_response(result(IMAGES[0].expected))

    async with serving(mixed_up) as load:
        outcomes = await load.send(Flow(arrivals=[0.0] * 4))

    assert Counter(outcome.verdict for outcome in outcomes) == {Verdict.OK: 1, Verdict.WRONG: 3}


async def test_an_answer_is_held_against_its_version():
    """Each version has detections of its own, and is told."""
    versions = iter([1, 2, 2])

    async def promoted(request):
        named = next(versions)
        number = [image.data for image in IMAGES].index(await request.read())
        return web.json_response(result(IMAGES[number].expected_of(2), named))

    async with serving(promoted) as load:
        outcomes = await load.send(Flow(arrivals=[0.0, 0.05, 0.1]))

    told = [(outcome.verdict, outcome.version) for outcome in sorted(outcomes, key=lambda each: each.due_at)]
    assert told == [(Verdict.WRONG, 0), (Verdict.OK, 2), (Verdict.OK, 2)]


@pytest.mark.parametrize(
    "versions, error, verdict",
    [
        ((2, 2, 2), None, Verdict.OK),
        ((2, 1, 2), None, Verdict.WRONG),
        ((2, 2), {"code": "overloaded", "status": 503}, Verdict.REFUSED),
        ((2, 2), {"code": "invalid_image", "status": 400}, Verdict.FAILED),
    ],
    ids=["one version", "mixed", "one refused", "one failed"],
)
async def test_several_images_have_one_version(versions, error, verdict):
    """All are right, by the same version, or the request was not answered right."""

    async def handler(request):
        form = await request.post()
        numbers = [[image.data for image in IMAGES].index(part.file.read()) for part in form.values()]
        results = [
            result(IMAGES[number].expected_of(version), version)
            for number, version in zip(numbers, versions, strict=False)
        ]
        return web.json_response({"results": [*results, {"error": error}] if error else results})

    async with serving(handler) as load:
        (outcome,) = await load.send(Flow(arrivals=[0.0], images=3))

    assert outcome.verdict is verdict


async def test_an_answer_after_the_deadline_is_late():
    """It counts from when the request was due."""

    async def slow(request):
        await asyncio.sleep(0.2)
        return await right(request)

    async with serving(slow) as load:
        outcomes = await load.send(Flow(arrivals=[0.0], deadline_seconds=0.1), Flow(arrivals=[0.0]))

    assert {outcome.verdict for outcome in outcomes} == {Verdict.LATE, Verdict.OK}


async def test_a_patient_caller_comes_back_as_it_is_told():
    """Refused twice, answered then; a caller without patience is refused."""
    answers = iter([refuse(), refuse(), None, refuse()])

    async def handler(request):
        return next(answers) or await right(request)

    async with serving(handler) as load:
        (patient,) = await load.send(Flow(arrivals=[0.0], patience_seconds=5))
        (impatient,) = await load.send(Flow(arrivals=[0.0]))

    assert (patient.verdict, patient.attempts, patient.reasons) == (Verdict.OK, 3, ("overloaded", "overloaded"))
    assert (impatient.verdict, impatient.attempts) == (Verdict.REFUSED, 1)


async def test_patience_ends():
    """Who would have to wait beyond it has been refused, at once."""

    async def handler(_):
        return refuse(retry_after="60")

    async with serving(handler) as load, asyncio.timeout(30):
        (outcome,) = await load.send(Flow(arrivals=[0.0], patience_seconds=30))

    assert (outcome.verdict, outcome.attempts) == (Verdict.REFUSED, 1)


async def test_a_patient_caller_tries_again_when_its_connection_breaks():
    """An impatient one has failed."""
    breaks = iter([True, False, True])

    async def handler(request):
        if next(breaks):
            request.transport.abort()
        return await right(request)

    async with serving(handler) as load:
        (patient,) = await load.send(Flow(arrivals=[0.0], patience_seconds=5))
        (impatient,) = await load.send(Flow(arrivals=[0.0]))

    assert (patient.verdict, patient.attempts) == (Verdict.OK, 2)
    assert impatient.verdict is Verdict.FAILED


@pytest.mark.parametrize("status", [400, 500, 502, 504])
async def test_other_errors_are_failures_for_the_most_patient(status):
    """Only 503 and 429 say that trying again will help."""

    async def handler(_):
        return web.json_response({"code": "some_code"}, status=status)

    async with serving(handler) as load:
        (outcome,) = await load.send(Flow(arrivals=[0.0], patience_seconds=5))

    assert (outcome.verdict, outcome.attempts, outcome.reasons) == (Verdict.FAILED, 1, ("some_code",))


async def test_a_failure_without_a_problem_document_is_told_by_its_status():
    """As from a balancer that answers with a page of its own."""

    async def handler(_):
        return web.Response(status=502, text="<html>bad gateway</html>")

    async with serving(handler) as load:
        (outcome,) = await load.send(Flow(arrivals=[0.0]))

    assert outcome.reasons == ("502",)


async def test_open_load_ends_when_it_is_told():
    """What is not due yet is not sent."""
    over = asyncio.Event()
    over.set()

    async with serving(right) as load, asyncio.timeout(30):
        outcomes = await load.send(Flow(arrivals=[0.0, 1000.0]), until=over)

    assert outcomes == []


async def test_closed_load_has_so_many_callers_at_a_time():
    """Each sends its next request when it has its answer."""
    inside = most = 0

    async def handler(request):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.02)
        inside -= 1
        return await right(request)

    async with serving(handler) as load:
        outcomes = await load.saturate(Flow(name="closed"), callers=3, seconds=1)

    assert most == 3
    assert len(outcomes) > 3
    assert {(outcome.flow, outcome.verdict) for outcome in outcomes} == {("closed", Verdict.OK)}


async def test_flows_are_told_apart():
    """Each with its own headers and its own part of the query string."""
    seen = Counter()

    async def handler(request):
        seen[request.headers.get("X-API-Key"), request.query.get("priority"), request.query["timeout_ms"]] += 1
        return await right(request)

    async with serving(handler) as load:
        outcomes = await load.send(
            Flow(name="a", arrivals=[0.0, 0.01], headers={"X-API-Key": "secret"}, deadline_seconds=2),
            Flow(name="b", arrivals=[0.005], parameters={"priority": "low"}),
        )

    assert Counter(outcome.flow for outcome in outcomes) == {"a": 2, "b": 1}
    assert seen == {("secret", None, "2000"): 2, (None, "low", "10000"): 1}
