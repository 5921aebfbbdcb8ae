"""EagleEye's own client against the real faces and the real core: one gateway, two faces, the same objects."""

import asyncio
import contextlib

import pytest
from aiohttp.test_utils import TestServer

from eagleeye import Refused, TimedOut
from eagleeye.client.query import PRIORITIES
from gateway.access import Access
from gateway.errors import TritonUnavailable
from gateway.priority import Priority
from gateway.rest.app import application
from gateway.rpc_server import serving_rpc
from tests.eagleeye.client.conftest import connect, kind, own_threads, until
from tests.gateway.conftest import MAX_INFLIGHT

__all__ = ["connect", "kind"]


@pytest.fixture
async def grpc_url(rpc_face):
    """A running gateway's gRPC face."""
    async with serving_rpc(rpc_face, host="127.0.0.1", port=0, grace_seconds=5) as port:
        yield f"grpc://127.0.0.1:{port}"


@pytest.fixture
async def http_url(rest_face):
    """Its REST face."""
    async with TestServer(application(rest_face), handler_cancellation=True) as server:
        yield f"http://127.0.0.1:{server.port}"


@pytest.fixture(params=["http", "grpc"])
def url(request, http_url, grpc_url):
    """One or the other."""
    return {"http": http_url, "grpc": grpc_url}[request.param]


async def test_an_image_is_answered(connect, url, png):
    """With everything that the gateway knows."""
    async with connect(url) as client:
        found = await client.detect(png)
    assert found.xyxy.tolist() == [[0, 0, 48, 48], [48, 0, 96, 48]]
    assert (found.labels, found.class_ids.tolist()) == (("cat", "dog"), [0, 1])
    assert (found.image_wh, found.model, found.version) == ((96, 48), "toy", "3")


@pytest.mark.parametrize(
    "options, labels",
    [
        ({"model": "toy", "version": 1}, ("cat", "dog")),
        ({"score_threshold": 0.7}, ("cat",)),
        ({"max_detections": 1}, ("cat",)),
        ({"classes": ["dog"]}, ("dog",)),
        ({"classes": [0, "dog"]}, ("cat", "dog")),
        ({"iou_threshold": 0, "agnostic_nms": True, "clip": False}, ("cat", "dog")),
    ],
)
async def test_options_reach_the_core(connect, url, png, options, labels):
    """Each of them, over both faces."""
    async with connect(url) as client:
        found = await client.detect(png, **options)
    assert found.labels == labels
    assert found.version == str(options.get("version", 3))


async def test_models_are_described(connect, url):
    """The same, whichever face is asked."""
    async with connect(url) as client:
        (model,) = await client.models()
        assert model == await client.model("toy")
        with pytest.raises(Refused) as caught:
            await client.model("other")
    assert (model.name, model.versions, model.labels, model.input_wh) == ("toy", ("1", "3"), ("cat", "dog"), (64, 32))
    assert (model.score_threshold, model.iou_threshold, model.facts) == (0.5, 0.7, {"variant": "none"})
    assert caught.value.code == "model_not_found"


async def test_health_is_told(connect, url, predictor):
    """Live all the time, and ready while something is served."""
    async with connect(url) as client:
        before = await client.health()
        predictor.models = {}
        after = await client.health()
    assert (before.live, before.ready, after.live, after.ready) == (True, True, True, False)


@pytest.mark.parametrize(
    "image, options, code",
    [
        (b"hello", {}, "unsupported_media_type"),
        (b"", {}, "invalid_image"),
        (b"\xff" * 200_000, {}, "image_too_large"),
        (None, {"model": "other"}, "model_not_found"),
        (None, {"classes": ["bird"]}, "invalid_parameter"),
        (None, {"max_detections": 10**6}, "invalid_parameter"),
    ],
)
async def test_refusals_have_the_gateway_s_code(connect, url, png, image, options, code):
    """The same over both faces, with the id that the log has."""
    async with connect(url) as client:
        with pytest.raises(Refused) as caught:
            await client.detect(png if image is None else image, **options)
    assert caught.value.code == code
    assert caught.value.request_id


async def test_a_slow_answer_times_out(connect, url, png, predictor):
    """And leaves nothing running in the gateway."""
    predictor.go.clear()
    async with connect(url) as client, asyncio.timeout(30):
        with pytest.raises(TimedOut) as caught:
            await client.detect(png, timeout_seconds=0.3)
    assert caught.value.code == "deadline_exceeded"


async def test_what_passes_is_waited_for(connect, url, png, predictor):
    """Triton is away, and comes back."""
    predictor.error = TritonUnavailable("no Triton")
    async with connect(url, max_attempts=100) as client, asyncio.timeout(60):
        asking = asyncio.create_task(client.detect(png))
        await until(lambda: len(predictor.tensors) >= 2)
        predictor.error = None
        assert len(await asking) == 2


async def test_a_batch_waits_its_turn(connect, url, png):
    """More at a time than the gateway lets in: what it refuses is tried again, and all are answered."""
    async with connect(url, max_attempts=100) as client:
        found = await client.all("detect_many", [png] * 40, concurrency=4 * MAX_INFLIGHT)
    assert [len(each) for each in found] == [2] * 40


async def test_keys_are_shown(connect, rest_face, rpc_face, core, keyring, png):
    """The right one is let in, over both faces; none or another is not."""
    secret = keyring.add("camera")
    async with Access(keyring.path) as access, contextlib.AsyncExitStack() as stack:
        for face in (rest_face, rpc_face):
            object.__setattr__(face, "core", _replaced(core, access))
        rest = await stack.enter_async_context(TestServer(application(rest_face)))
        port = await stack.enter_async_context(serving_rpc(rpc_face, host="127.0.0.1", port=0, grace_seconds=5))
        for url in (f"http://127.0.0.1:{rest.port}", f"grpc://127.0.0.1:{port}"):
            async with connect(url, key=secret) as client:
                assert len(await client.detect(png)) == 2
            for wrong in (None, "wrong"):
                async with connect(url, key=wrong) as client:
                    with pytest.raises(Refused) as caught:
                        await client.detect(png)
                    assert caught.value.code == "unauthorized"
                    if url.startswith("grpc"):
                        with pytest.raises(Refused) as caught:
                            await client.all("stream", [png])
                        assert caught.value.code == "unauthorized"


def _replaced(core, access):
    import dataclasses  # noqa: PLC0415

    from gateway.access import Permitted  # noqa: PLC0415

    return dataclasses.replace(core, access=access, predictor=Permitted(core.predictor))


@pytest.mark.parametrize("face", ["rest", "grpc"])
async def test_a_priority_reaches_the_core(connect, rest_face, rpc_face, core, keyring, png, face):
    """A key that allows no more than low gets low, and hears so if it asks for more; a stream's frames as well."""
    secret = keyring.add("batch-job", priority="low")
    async with Access(keyring.path) as access, contextlib.AsyncExitStack() as stack:
        for each in (rest_face, rpc_face):
            object.__setattr__(each, "core", _replaced(core, access))
        if face == "rest":
            rest = await stack.enter_async_context(TestServer(application(rest_face)))
            url = f"http://127.0.0.1:{rest.port}"
        else:
            port = await stack.enter_async_context(serving_rpc(rpc_face, host="127.0.0.1", port=0, grace_seconds=5))
            url = f"grpc://127.0.0.1:{port}"
        async with connect(url, key=secret) as client:
            assert len(await client.detect(png, priority="low")) == 2
            with pytest.raises(Refused, match="priority is 'high'; this key allows 'low' at most"):
                await client.detect(png, priority="high")
            if face == "grpc":
                (frame,) = await client.all("stream", [png], priority="normal")
                assert "this key allows 'low' at most" in str(frame.error)


def test_the_client_knows_the_gateways_priorities():
    """By the same names, the most urgent first."""
    assert tuple(Priority) == PRIORITIES


# --- streams ----------------------------------------------------------------------------------------------------------


async def test_a_stream_finds_what_a_request_finds(connect, grpc_url, png):
    """Bit for bit, in order, and each frame once."""
    async with connect(grpc_url) as client:
        alone = await client.detect(png)
        frames = await client.all("stream", [png] * 50)
    assert [(frame.index, frame.dropped, frame.error) for frame in frames] == [(index, 0, None) for index in range(50)]
    assert {frame.detections.xyxy.tobytes() for frame in frames} == {alone.xyxy.tobytes()}
    assert {frame.detections.scores.tobytes() for frame in frames} == {alone.scores.tobytes()}


async def test_a_frame_that_is_no_image_has_its_own_error(connect, grpc_url, png):
    """The others are answered."""
    async with connect(grpc_url) as client:
        frames = await client.all("stream", [png, b"hello", png])
    assert [frame.error and frame.error.code for frame in frames] == [None, "unsupported_media_type", None]
    assert frames[1].error.request_id


async def test_the_latest_frames_are_few_and_the_last_is_among_them(connect, grpc_url, png, predictor):
    """While the gateway is busy, newer frames replace those that wait; none is lost without being counted."""
    predictor.go.clear()
    seen = []

    def camera():
        for _ in range(100):
            yield png
            seen.append(png)

    async with connect(grpc_url) as client:
        streaming = asyncio.create_task(client.all("stream", camera(), latest=True))
        await until(lambda: predictor.tensors and len(seen) == 100)
        predictor.go.set()
        frames = await streaming
    assert frames[-1].index == 99
    assert len(frames) < 20
    assert sum(1 + frame.dropped for frame in frames) == 100


async def test_a_gateway_that_drains_hands_its_streams_over(connect, grpc_url, png, lifecycle):
    """It says UNAVAILABLE after what it has read; the client sends the rest elsewhere, here to nobody: it is told."""
    async with connect(grpc_url, max_attempts=2) as client:
        assert len(await client.all("stream", [png] * 3)) == 3
        lifecycle.drain()
        with pytest.raises(Refused) as caught:
            await client.all("stream", [png] * 30, timeout_seconds=5)
    assert caught.value.is_retryable


async def test_leaving_a_stream_cancels_its_work(connect, grpc_url, png):
    """The gateway stops working for it, and the client keeps no thread."""
    async with connect(grpc_url) as client, asyncio.timeout(30):
        assert len(await client.all("stream", iter(lambda: png, None), first=3)) == 3
        await until(lambda: not own_threads())
        assert len(await client.detect(png)) == 2
