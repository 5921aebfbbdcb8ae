"""Which version answers whom: by weights, the same for a camera, one for a request; and how the file is taken up."""

import asyncio
import json
import random
from collections import Counter

import grpc
import pytest
from structlog.testing import capture_logs
from tritonclient.grpc import service_pb2_grpc

from gateway.admission import Admission
from gateway.batch import MAX_IMAGES, detect_each
from gateway.deadline import Deadline
from gateway.detector import Query
from gateway.errors import ModelNotFound
from gateway.observer import Observer
from gateway.rollout import ModelRollout, Rollout, RolloutFileError, Shadow
from gateway.rpc_server import serving_rpc
from gateway.versions import Versions
from tests.gateway.rolling import RollingPredictor
from tests.gateway.test_rest_oip import INFER, json_request
from tests.gateway.test_rpc import infer_request

SOON = 30.0


def weighing(weights):
    return Rollout({"toy": ModelRollout(weights)})


def value(core, name, **labels):
    return core.metrics.registry.get_sample_value(name, {"model": "toy", **labels})


@pytest.fixture
def predictor():
    return RollingPredictor(3, 4)


@pytest.fixture
def admitting(metrics):
    """Room for the longest request."""
    return Admission(lambda _: MAX_IMAGES, MAX_IMAGES, metrics)


@pytest.fixture
def seeded(monkeypatch):
    """The same draws each time."""
    monkeypatch.setattr("gateway.batch.random", random.Random(5))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rollout.json"


def write(path, content):
    """Replace the file as a whole, as kubelets and the command do."""
    path.with_suffix(".new").write_text(content if isinstance(content, str) else json.dumps(content))
    path.with_suffix(".new").replace(path)


async def versions_of(core, images, query=None, **options):
    query = query or Query()
    outcomes = await detect_each(core, Observer(core.metrics, "rest"), images, query, Deadline.after(SOON), **options)
    return [outcome.version for outcome in outcomes]


def settled(versions, predictor, version=None, draw=0.0):
    served = versions.settle(predictor, None, version, draw)
    return served.version, served.is_replaceable


# the choice


@pytest.mark.usefixtures("seeded")
async def test_requests_come_to_versions_by_weight(core, versions, png):
    """Those that name none; each is counted under the version that answered it."""
    versions.rollout = weighing({3: 80, 4: 20})
    seen = Counter([(await versions_of(core, [png]))[0] for _ in range(300)])
    assert 0.14 < seen[4] / 300 < 0.26
    assert seen.keys() == {3, 4}
    for version in (3, 4):
        assert value(core, "eagleeye_version_images_total", version=str(version), code="ok") == seen[version]
        assert value(core, "eagleeye_version_infer_seconds_count", version=str(version)) == seen[version]


async def test_one_weight_pins_a_version(core, versions, png):
    """Also an old one; who names another gets that."""
    versions.rollout = weighing({3: 100})
    assert await versions_of(core, [png] * 4) == [3] * 4
    assert await versions_of(core, [png], Query(version=4)) == [4]


async def test_without_weights_the_default_answers(core, predictor, png):
    """The version that most Tritons have."""
    predictor.serve(3, 4, default=3)
    assert await versions_of(core, [png]) == [3]


async def test_the_frames_of_a_sequence_get_one_version(core, versions, png):
    """Each its own, so that the shares hold over many."""
    versions.rollout = weighing({3: 50, 4: 50})
    cameras = [f"key a sequence {number}" for number in range(24)]
    first, second = [[(await versions_of(core, [png], sequence=camera))[0] for camera in cameras] for _ in range(2)]
    assert first == second
    assert set(first) == {3, 4}


@pytest.mark.usefixtures("seeded")
async def test_a_request_is_answered_by_one_version_whatever_the_file_says(core, versions, predictor, png):
    """The file changes while each of 32 images is worked on, again and again."""

    async def turn():
        while True:
            for weights in ({3: 1}, {4: 1}, {3: 1, 4: 1}):
                versions.rollout = weighing(weights)
                await asyncio.sleep(0)

    turning = asyncio.create_task(turn())
    requests = [await versions_of(core, [png] * MAX_IMAGES) for _ in range(12)]
    turning.cancel()
    assert all(len(set(answered)) == 1 for answered in requests)
    assert {answered[0] for answered in requests} == {3, 4}
    assert Counter(predictor.asked) == Counter(version for answered in requests for version in answered)


async def test_a_version_that_goes_away_takes_no_request_with_it(core, versions, predictor, png):
    """All images of a request go to what the weights say of those that are left."""
    versions.rollout = weighing({3: 1, 4: 1})
    predictor.go.clear()
    request = asyncio.create_task(versions_of(core, [png] * 8, sequence="one"))
    while not predictor.asked:
        await asyncio.sleep(0)
    (gone,) = set(predictor.asked)
    left = 7 - gone
    predictor.serve(left)
    predictor.go.set()
    assert await request == [left] * 8
    assert predictor.asked[-8:] == [left] * 8
    assert value(core, "eagleeye_version_images_total", version=str(gone), code="ok") is None


# who is there


def test_what_is_served_comes_before_what_should_come_back(versions, predictor):
    """A version that is away for a moment leaves its share to those that are there."""
    predictor.serve(4, expected=(3,))
    versions.rollout = weighing({3: 95, 4: 5})
    assert settled(versions, predictor) == (4, True)


def test_a_pinned_version_that_should_come_back_is_waited_for(versions, predictor):
    """Another one is no replacement for it: the operator has said so."""
    predictor.serve(4, expected=(3,))
    versions.rollout = weighing({3: 100})
    assert settled(versions, predictor) == (3, False)


async def test_a_request_waits_for_the_pinned_version(core, versions, predictor, png):
    """And is answered by it."""
    predictor.serve(4, expected=(3,))
    versions.rollout = weighing({3: 100})
    request = asyncio.create_task(versions_of(core, [png]))
    while not predictor.asked:
        await asyncio.sleep(0)
    predictor.serve(3, 4)
    assert await request == [3]
    assert set(predictor.asked) == {3}


def test_where_no_version_of_the_weights_is_there_the_default_answers(core, versions, predictor):
    """It is told once, counted each time, and told again when it is over."""
    versions.rollout = weighing({8: 50, 9: 50})
    with capture_logs() as lines:
        assert [settled(versions, predictor) for _ in range(3)] == [(4, True)] * 3
        predictor.serve(4, 9)
        assert settled(versions, predictor) == (9, True)
    assert [(line["log_level"], line.get("versions")) for line in lines] == [("error", [8, 9]), ("info", None)]
    assert value(core, "eagleeye_rollout_fallbacks_total") == 3


def test_a_version_that_is_named_must_be_there(versions, predictor):
    """Weights are for those who name none."""
    versions.rollout = weighing({3: 100})
    assert settled(versions, predictor, version=4) == (4, False)
    with pytest.raises(ModelNotFound):
        versions.settle(predictor, None, 9, 0.0)


# the file


async def test_a_change_of_the_file_counts_within_moments(metrics, path):
    """While it is watched."""
    write(path, {"models": {"toy": {"weights": {"3": 100}}}})
    async with Versions(metrics, path) as versions:
        assert versions.rollout == weighing({3: 100})
        write(path, {"models": {"toy": {"weights": {"3": 95, "4": 5}}}})
        async with asyncio.timeout(SOON):
            while versions.rollout != weighing({3: 95, 4: 5}):
                await asyncio.sleep(0.01)


async def test_a_file_that_became_wrong_changes_nothing(metrics, path):
    """It is logged and counted once, and the next right one counts again; so it is with one that is gone."""
    write(path, {"models": {"toy": {"weights": {"3": 100}}}})
    versions = Versions(metrics, path)
    with capture_logs() as lines:
        write(path, "{")
        for _ in range(3):
            await versions.reload()
        path.unlink()
        await versions.reload()
    assert versions.rollout == weighing({3: 100})
    assert [(line["log_level"], line["event"]) for line in lines] == [("error", "the rollout stays as it was")] * 2
    assert "is no valid JSON" in lines[0]["reason"]
    assert metrics.registry.get_sample_value("eagleeye_rollout_rejected_total") == 2
    write(path, {"models": {"toy": {"weights": {"4": 100}}}})
    await versions.reload()
    assert versions.rollout == weighing({4: 100})


async def test_a_file_that_may_be_read_at_last_is_read(metrics, path, monkeypatch):
    """Its rights were mended, and nothing was written: size, time and place of its content are those of before."""
    write(path, {"models": {}})
    versions = Versions(metrics, path)
    write(path, {"models": {"toy": {"weights": {"4": 100}}}})
    with monkeypatch.context() as patch:
        patch.setattr("gateway.versions.read_rollout", refuse)  # a test that runs as root may read everything
        await versions.reload()
    assert versions.rollout == Rollout()
    async with asyncio.timeout(SOON):
        while versions.rollout == Rollout():
            path.chmod(0o644)  # the clock of the file system may tick some milliseconds later
            await versions.reload()
    assert versions.rollout == weighing({4: 100})


def refuse(path):
    raise RolloutFileError(f"the rollout file {path} can't be read: Permission denied")


def test_a_wrong_file_does_not_start(metrics, path):
    """One clear line; `tests/gateway/test_server.py` sees it end the process."""
    write(path, {"models": {"toy": {"weights": {"3": 0}}}})
    with pytest.raises(RolloutFileError, match="all weights are 0"):
        Versions(metrics, path)


# what callers see


async def test_models_tell_their_weights_and_shadow(rest, versions):
    """Those that hold: what nobody serves has no share."""
    versions.rollout = Rollout({"toy": ModelRollout({3: 90, 4: 0, 9: 10}, {4: 1}, Shadow(4, 12.5))})
    (model,) = (await (await rest.get("/v1/models")).json())["models"]
    assert (model["weights"], model["shadow"]) == ({"3": 90}, {"version": "4", "percent": 12.5})
    assert model == await (await rest.get("/v1/models/toy")).json()
    versions.rollout = Rollout()
    model = await (await rest.get("/v1/models/toy")).json()
    assert (model["weights"], model["shadow"]) == ({"4": 100}, None)


async def test_sequences_keep_their_version_over_both_faces(rest, rpc, versions, png):
    """By Triton's own parameter, on `/v2` and in ModelInfer; a request without one is free to get any."""
    versions.rollout = weighing({3: 50, 4: 50})

    async def over_rest(sequence):
        body = {**json_request(png), "parameters": {"sequence_id": sequence}}
        return (await (await rest.post(INFER, json=body)).json())["model_version"]

    async def over_grpc(sequence):
        request = infer_request(png)
        request.parameters["sequence_id"].int64_param = sequence
        return (await rpc.ModelInfer(request)).model_version

    for ask in (over_rest, over_grpc):
        first, second = [[await ask(number) for number in range(1, 13)] for _ in range(2)]
        assert first == second
        assert set(first) == {"3", "4"}


@pytest.fixture
async def two_connections(rpc_face):
    """Stubs of connections from two ports."""
    alone = [("grpc.use_local_subchannel_pool", 1)]
    async with (
        serving_rpc(rpc_face, host="127.0.0.1", port=0, grace_seconds=5) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=alone) as one,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=alone) as other,
    ):
        yield [service_pb2_grpc.GRPCInferenceServiceStub(channel) for channel in (one, other)]


async def test_a_camera_keeps_its_version_for_the_whole_stream_and_the_next(two_connections, versions, png):
    """Sequences keep theirs over another connection, too; frames without a sequence at least within a stream."""
    versions.rollout = weighing({3: 50, 4: 50})

    async def answered_by(rpc, sequences):
        call = rpc.ModelStreamInfer()
        for sequence in sequences:
            request = infer_request(png)
            if sequence:
                request.parameters["sequence_id"].string_param = sequence
            await call.write(request)
        await call.done_writing()
        return sorted(
            [
                (answer.infer_response.parameters["sequence_id"].string_param, answer.infer_response.model_version)
                async for answer in call
            ]
        )

    cameras = [f"camera {number}" for number in range(12)]
    first, again = [await answered_by(rpc, cameras * 2) for rpc in two_connections]
    assert first == again
    assert len(set(first)) == 12
    assert {version for _, version in first} == {"3", "4"}
    for _ in range(3):
        assert len(set(await answered_by(two_connections[0], [""] * 8))) == 1


async def test_a_failed_request_is_logged_and_counted_under_its_version(rest, core, versions, predictor, png):
    """So that a canary that fails can be told."""
    versions.rollout = weighing({3: 100})
    predictor.error = ModelNotFound("gone")
    with capture_logs() as lines:
        assert (await rest.post("/v1/detect", data=png)).status == 404
    assert [(line["version"], line["code"]) for line in lines if line["event"] == "detect"] == [(3, "model_not_found")]
    assert value(core, "eagleeye_version_images_total", version="3", code="model_not_found") == 1
