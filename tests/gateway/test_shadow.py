"""Candidates in the shadow: what is compared, what is let be, and that no caller ever notices."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer
from structlog.testing import capture_logs

from gateway.access import Access, act_for, current
from gateway.admission import Admission
from gateway.batch import detect_each
from gateway.deadline import Deadline
from gateway.detections import RawPredictions
from gateway.detector import Query
from gateway.errors import GatewayError, TritonUnavailable
from gateway.observer import Observer
from gateway.postprocess import Thresholds
from gateway.resize import resize
from gateway.rest.app import admin_application, application
from gateway.rollout import ModelRollout, Rollout, Shadow
from gateway.shadow import Sample, Shadowing
from tests.gateway.rolling import RollingPredictor

SOON = 30.0
SLOTS = 8


def shadowing_by(version, percent=100, weights=None):
    return Rollout({"toy": ModelRollout(weights or {3: 100}, None, Shadow(version, percent))})


@pytest.fixture
def predictor():
    return RollingPredictor(3, 4)


@pytest.fixture
def admitting(metrics):
    """Eight slots, so that two samples may be in work."""
    return Admission(lambda _: SLOTS, SLOTS, metrics)


async def serve(core, png, query=None, images=1):
    """The labels that the caller gets for each image."""
    outcomes = await detect_each(
        core, Observer(core.metrics, "rest"), [png] * images, query or Query(), Deadline.after(SOON)
    )
    return [outcome.detections.class_ids.tolist() for outcome in outcomes]


def sample(predictor):
    """An answered image."""
    model = predictor.models["toy"]
    tensor, back = resize(np.zeros((48, 96, 3), np.uint8), model.input_wh, model.resize)
    nothing = RawPredictions(np.zeros((2, 4), np.float32), np.zeros(2, np.float32), np.zeros(2, np.int32))
    return Sample(model, 3, tensor, nothing, back, Thresholds(score=0.5, iou=0.7), 0.01)


def images(core, outcome, version=4):
    labels = {"model": "toy", "version": str(version), "outcome": outcome}
    return core.metrics.registry.get_sample_value("eagleeye_shadow_images_total", labels) or 0


async def until(condition):
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.001)


def boxes(core, label):
    """By outcome."""
    found = {}
    for outcome in ("agreed", "relabelled", "missing", "extra"):
        labels = {"model": "toy", "version": "4", "label": label, "outcome": outcome}
        if number := core.metrics.registry.get_sample_value("eagleeye_shadow_boxes_total", labels):
            found[outcome] = number
    return found


# what is compared


async def test_a_copy_agrees_in_everything(core, versions, predictor, png):
    """The candidate gets the very tensor, and the caller the served version's answer."""
    versions.rollout = shadowing_by(4)
    assert await serve(core, png) == [[0, 1]]
    await until(lambda: images(core, "compared") == 1)
    ((version, tensor),) = predictor.candidates
    assert version == 4
    assert tensor is predictor.tensors[0]
    assert (predictor.asked, boxes(core, "cat"), boxes(core, "dog")) == ([3], {"agreed": 1}, {"agreed": 1})


async def test_swapped_classes_are_relabelled(rest, core, versions, predictor, png):
    """As pairs in the report, with nothing missing and nothing extra; the metrics say the same."""
    versions.rollout = shadowing_by(4)
    predictor.candidate_class_ids = [1, 0]
    assert (await rest.post("/v1/detect", data=png)).status == 200
    await until(lambda: images(core, "compared") == 1)
    assert boxes(core, "cat") == boxes(core, "dog") == {"relabelled": 1}
    (comparison,) = (await (await rest.get("/v1/shadow")).json())["comparisons"]
    assert comparison["boxes"] == {"agreed": 0, "relabelled": 2, "missing": 0, "extra": 0, "agreement": 0.0}
    assert sorted((each["served"], each["candidate"]) for each in comparison["relabelled"]) == [
        ("cat", "dog"),
        ("dog", "cat"),
    ]


async def test_the_report_tells_all_there_is(rest, core, versions, predictor, png):
    """Versions, counts, shifts of scores, overlap and latency; the other formats are in `gateway.agreement`."""
    versions.rollout = shadowing_by(4)
    predictor.candidate_boxes = [[0, 0, 32, 32], [40, 0, 64, 32]]
    predictor.candidate_scores = [0.7, 0.55]
    for _ in range(2):
        await serve(core, png)
        await until(lambda: not core.shadowing._tasks)
    (comparison,) = (await (await rest.get("/v1/shadow")).json())["comparisons"]
    assert {name: comparison[name] for name in ("model", "served_version", "candidate_version", "is_running")} == {
        "model": "toy",
        "served_version": "3",
        "candidate_version": "4",
        "is_running": True,
    }
    assert comparison["images"] == {"compared": 2, "dropped": 0, "unserved": 0, "failed": 0}
    assert [(each["label"], each["agreed"]) for each in comparison["labels"]] == [("cat", 2), ("dog", 2)]
    assert comparison["score_shift"]["mean"] == pytest.approx((-0.2 - 0.05) / 2)
    assert comparison["iou"]["quantiles"]["0.5"] == pytest.approx((1 + 0.75) / 2)
    assert comparison["latency_ms"].keys() == {"served", "candidate", "difference"}
    versions.rollout = Rollout()
    (comparison,) = (await (await rest.get("/v1/shadow")).json())["comparisons"]
    assert comparison["is_running"] is False


async def test_the_callers_thresholds_hold_but_not_its_choice_of_classes(core, versions, predictor, png):
    """Who looks for cats only would otherwise never learn that the candidate calls them dogs."""
    versions.rollout = shadowing_by(4)
    predictor.candidate_class_ids = [1, 0]
    assert await serve(core, png, Query(classes=("cat",), score_threshold=0.7)) == [[0]]
    await until(lambda: images(core, "compared") == 1)
    assert (boxes(core, "cat"), boxes(core, "dog")) == ({"relabelled": 1}, {})


async def test_a_sample_is_a_share(core, versions, shadowing, png):
    """Of what other versions answer: the candidate is not compared with itself."""
    shadowing._random.seed(5)
    versions.rollout = shadowing_by(4, percent=25)
    for _ in range(200):
        await serve(core, png)
        await until(lambda: not shadowing._tasks)
    assert 30 < images(core, "compared") < 70
    before = images(core, "compared")
    versions.rollout = shadowing_by(4, weights={4: 100})
    await serve(core, png)
    assert not shadowing._tasks
    assert images(core, "compared") == before


async def test_each_served_version_is_compared_by_itself_and_a_new_candidate_begins_anew(
    core, versions, predictor, png
):
    """Beside a canary there are two comparisons."""
    predictor.serve(2, 3, 4, 5)
    versions.rollout = shadowing_by(4)
    for version in (2, 3):
        await serve(core, png, Query(version=version))
        await until(lambda: not core.shadowing._tasks)
    pairs = [(each["served_version"], each["candidate_version"]) for each in core.shadowing.report()["comparisons"]]
    assert pairs == [("2", "4"), ("3", "4")]
    versions.rollout = shadowing_by(5)
    await serve(core, png)
    pairs = [(each["served_version"], each["candidate_version"]) for each in core.shadowing.report()["comparisons"]]
    assert pairs == [("3", "5")]


# what no caller notices


async def test_a_caller_is_answered_while_the_candidate_hangs(core, versions, predictor, png):
    """And takes no slot of those that callers wait for."""
    versions.rollout = shadowing_by(4)
    predictor.may_answer.clear()
    assert await serve(core, png) == [[0, 1]]
    await until(lambda: predictor.candidates)
    assert await serve(core, png, images=SLOTS) == [[0, 1]] * SLOTS
    assert core.metrics.registry.get_sample_value("eagleeye_inflight", {"model": "toy"}) == 0


async def test_more_than_a_quarter_of_the_slots_are_dropped(core, versions, predictor, png):
    """The number of samples in work is bounded, and each one let be is counted."""
    versions.rollout = shadowing_by(4)
    predictor.may_answer.clear()
    await serve(core, png, images=SLOTS)
    assert images(core, "dropped") == SLOTS - 2
    await until(lambda: len(predictor.candidates) == 2)
    predictor.may_answer.set()
    await until(lambda: images(core, "compared") == 2)
    await serve(core, png)
    await until(lambda: images(core, "compared") == 3)


async def test_nothing_is_sent_while_somebody_waits(core, versions, predictor, shadowing, png):
    """A sample that was taken before the queue began is let be as well."""
    shadowing._head_start_seconds = 0.05
    versions.rollout = shadowing_by(4)
    await serve(core, png)
    predictor.go.clear()
    crowd = asyncio.create_task(serve(core, png, images=SLOTS + 3))
    await until(lambda: images(core, "dropped") == 1)
    predictor.go.set()
    assert await crowd == [[0, 1]] * (SLOTS + 3)
    assert predictor.candidates == []


async def test_a_drain_rate_is_that_of_callers(core, versions, predictor, admitting, png):
    """Samples count neither as work nor as answers."""
    versions.rollout = shadowing_by(4)
    predictor.may_answer.clear()
    await serve(core, png)
    await until(lambda: predictor.candidates)
    station = admitting._station("toy")
    assert (station.inflight, len(station.queue), station.there.total()) == (0, 0, 0)


@pytest.mark.parametrize("error", [TritonUnavailable("it can't"), RuntimeError("nobody thought of it")])
async def test_a_candidate_that_fails_is_counted_and_said_once(core, versions, predictor, png, error):
    """The caller has its answer; the next sample may do better."""
    versions.rollout = shadowing_by(4)
    predictor.candidate_error = error
    with capture_logs() as lines:
        for _ in range(3):
            assert await serve(core, png) == [[0, 1]]
            await until(lambda: not core.shadowing._tasks)
    assert images(core, "failed") == 3
    assert len(lines) == (1 if isinstance(error, GatewayError) else 3)
    predictor.candidate_error = None
    await serve(core, png)
    await until(lambda: images(core, "compared") == 1)


async def test_a_candidate_that_takes_too_long_has_failed(core, versions, predictor, shadowing, png):
    """It has a deadline of its own."""
    shadowing._timeout_seconds = 0.01
    versions.rollout = shadowing_by(4)
    predictor.may_answer.clear()
    await serve(core, png)
    await until(lambda: images(core, "failed") == 1)


async def test_a_candidate_that_nobody_serves_is_counted_as_such(core, versions, predictor, png):
    """So a typing error is seen."""
    versions.rollout = shadowing_by(77)
    await serve(core, png)
    await until(lambda: images(core, "unserved", version=77) == 1)
    assert predictor.candidates == []


async def test_an_end_waits_for_no_sample(predictor, versions, admitting, metrics):
    """What is in work is cancelled, and nothing is left."""
    predictor.may_answer.clear()
    versions.rollout = shadowing_by(4)
    async with Shadowing(predictor, versions, admitting, metrics, head_start_seconds=0) as shadowing:
        shadowing.offer(sample(predictor))
        await until(lambda: predictor.candidates)
    assert predictor.candidates_cancelled == 1
    assert shadowing._tasks == set()


async def test_a_sample_has_none_of_its_callers_rights(predictor, versions, shadowing, keyring):
    """Nor its trace: the caller knows nothing of it."""
    secret = keyring.add("one")
    caller = Access(keyring.path).identify(secret)
    seen = []
    original = predictor.predict_once

    async def predict_once(*arguments):
        seen.append(current())
        return await original(*arguments)

    predictor.predict_once = predict_once
    versions.rollout = shadowing_by(4)

    async def ask():
        act_for(caller)
        shadowing.offer(sample(predictor))

    await asyncio.create_task(ask())
    await until(lambda: seen)
    assert seen == [None]


# who may read the report


async def test_a_key_shows_the_models_that_it_allows(rest_face, core, versions, keyring, png):
    """A model that a key does not allow is as if it were not there; without a key there is nothing to see."""
    versions.rollout = shadowing_by(4)
    await serve(core, png)
    await until(lambda: images(core, "compared") == 1)
    secrets = [keyring.add("all"), keyring.add("toys", models=("toy",)), keyring.add("others", models=("other",))]
    face = replace(rest_face, core=replace(core, access=Access(keyring.path)))
    async with TestClient(TestServer(application(face))) as client:
        assert (await client.get("/v1/shadow")).status == 401
        shown = [await client.get("/v1/shadow", headers={"X-API-Key": secret}) for secret in secrets]
        assert [len((await each.json())["comparisons"]) for each in shown] == [1, 1, 0]


async def test_an_admin_port_has_it_and_the_face_no_longer(rest_face, core, versions, keyring, png):
    """As with metrics: operators need no key there."""
    versions.rollout = shadowing_by(4)
    await serve(core, png)
    await until(lambda: images(core, "compared") == 1)
    secret = keyring.add("one")
    face = replace(rest_face, core=replace(core, access=Access(keyring.path)), has_admin_port=True)
    async with (
        TestClient(TestServer(admin_application(face, dict))) as admin,
        TestClient(TestServer(application(face))) as main,
    ):
        assert len((await (await admin.get("/v1/shadow")).json())["comparisons"]) == 1
        response = await main.get("/v1/shadow", headers={"X-API-Key": secret})
        assert response.status == 404
