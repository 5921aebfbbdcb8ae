"""`/v1/stream` over a real WebSocket: answers, replacement, errors in their place, and each way that one ends."""

import asyncio
import base64
import dataclasses
import json

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import WSCloseCode, WSMsgType

from gateway.access import Access, Permitted
from gateway.rest.access import KEY_PROTOCOL
from gateway.rest.console.stream import PROTOCOL
from tests.console.conftest import serving
from tests.gateway.conftest import LIMITS

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def http():
    async with aiohttp.ClientSession() as session:
        yield session


@pytest_asyncio.fixture(loop_scope="session")
async def guarded(rest_face, keyring, clock, predictor):
    """The address of a server that asks for keys, and what knows them."""
    access = Access(keyring.path, clock)
    core = dataclasses.replace(rest_face.core, predictor=Permitted(predictor), access=access)
    async with serving(dataclasses.replace(rest_face, core=core)) as url:
        yield url, access


def stream(http, url, query="", **options):
    return http.ws_connect(f"{url}v1/stream?{query}", protocols=(PROTOCOL,), **options)


async def answers(socket, count):
    async with asyncio.timeout(30):
        return [json.loads((await socket.receive()).data) for _ in range(count)]


async def ending(socket):
    """Code and reason of what must be a stream's end."""
    async with asyncio.timeout(30):
        message = await socket.receive()
    assert message.type in {WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING}, message
    return socket.close_code, message.extra


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


def sample(metrics, name, **labels):
    return metrics.registry.get_sample_value(f"eagleeye_{name}", labels)


async def refusal(http, url, query="", **options):
    """Status and stable code of a handshake that fails."""
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    headers |= {"Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(), **options}
    async with http.get(f"{url}v1/stream?{query}", headers=headers) as response:
        return response.status, (await response.json())["code"]


async def test_a_frame_is_answered_as_detect_answers_an_image(http, url, png):
    """The same fields, after the number of the frame and how many gave way to it."""
    async with stream(http, url, "score_threshold=0.7&version=1") as socket:
        assert socket.protocol == PROTOCOL
        await socket.send_bytes(png)
        (answer,) = await answers(socket, 1)
    async with http.post(f"{url}v1/detect?score_threshold=0.7&version=1", data=png) as response:
        expected = await response.json()
    assert set(answer) == {"frame", "dropped", *expected}
    assert (answer["frame"], answer["dropped"], answer["model"]) == (0, 0, {"name": "toy", "version": "1"})
    assert answer["detections"] == expected["detections"] != []


async def test_every_frame_is_answered_in_order_if_asked(http, url, png):
    """`ordered` drops none, however fast they come."""
    async with stream(http, url, "mode=ordered") as socket:
        for _ in range(9):
            await socket.send_bytes(png)
        found = await answers(socket, 9)
    assert [(answer["frame"], answer["dropped"], "error" in answer) for answer in found] == [
        (number, 0, False) for number in range(9)
    ]


async def test_the_newest_frame_replaces_the_one_that_waits(http, url, png, predictor, metrics, frames_read):
    """While one is in work the others give way, and the next answer says how many did."""
    predictor.go.clear()
    async with stream(http, url) as socket:
        await socket.send_bytes(png)
        await until(lambda: predictor.tensors)
        for _ in range(5):
            await socket.send_bytes(png)
        await until(lambda: len(frames_read) == 6)
        assert sample(metrics, "held_bytes") == 2 * len(png)
        predictor.go.set()
        found = await answers(socket, 2)
    assert [(answer["frame"], answer["dropped"]) for answer in found] == [(0, 0), (5, 4)]
    assert sample(metrics, "frames_dropped_total", model="toy") == 4


@pytest.mark.parametrize(
    "message, code",
    [(b"", "invalid_image"), (b"\xff\xd8\xff no more", "invalid_image"), (b"GIF89a", "unsupported_media_type"),
     ("text", "invalid_parameter")],
    ids=["empty", "damaged", "no image", "text"],
)  # fmt: skip
async def test_a_bad_message_is_told_in_its_place(http, url, png, message, code):
    """The frames before and after it are answered, and the stream goes on."""
    async with stream(http, url, "mode=ordered") as socket:
        await socket.send_bytes(png)
        await (socket.send_str if isinstance(message, str) else socket.send_bytes)(message)
        await socket.send_bytes(png)
        found = await answers(socket, 3)
    assert [answer.get("error", {}).get("code") for answer in found] == [None, code, None]
    assert found[1]["error"]["status"] in {400, 415}
    assert found[1]["request_id"]


async def test_a_defect_of_ours_ends_one_frame_only(http, url, png, predictor):
    """The caller learns the request id, and no more."""
    predictor.error = RuntimeError("secret")
    async with stream(http, url) as socket:
        await socket.send_bytes(png)
        (broken,) = await answers(socket, 1)
        predictor.error = None
        await socket.send_bytes(png)
        (whole,) = await answers(socket, 1)
    assert (broken["error"]["status"], broken["error"]["code"]) == (500, "internal")
    assert "secret" not in str(broken)
    assert whole["detections"]


async def test_deadlines_count_from_arrival(http, url, png, predictor):
    """A frame that is not answered in its time is told so."""
    predictor.go.clear()
    async with stream(http, url, "timeout_ms=50") as socket:
        await socket.send_bytes(png)
        (answer,) = await answers(socket, 1)
    assert answer["error"]["code"] == "deadline_exceeded"


async def test_a_message_that_is_too_large_ends_the_stream(http, url):
    """Nothing larger than an image may be is kept."""
    async with stream(http, url) as socket:
        await socket.send_bytes(bytes(LIMITS.max_bytes + 1))
        code, _ = await ending(socket)
    assert code == WSCloseCode.MESSAGE_TOO_BIG


async def test_a_caller_who_leaves_leaves_nothing_behind(http, url, png, predictor, metrics):
    """Its frames are cancelled, and their bytes given back."""
    predictor.go.clear()
    async with stream(http, url, "mode=ordered") as socket:
        for _ in range(3):
            await socket.send_bytes(png)
        await until(lambda: predictor.tensors)
        assert sample(metrics, "streams") == 1
    await until(lambda: not sample(metrics, "held_bytes") and not sample(metrics, "streams"))
    assert predictor.cancelled == len(predictor.tensors)


async def test_draining_ends_streams_after_their_answers(http, url, png, predictor, lifecycle):
    """With 1001, so that a client knows to connect again."""
    predictor.go.clear()
    async with stream(http, url) as socket:
        await socket.send_bytes(png)
        await until(lambda: predictor.tensors)
        lifecycle.drain()
        await asyncio.sleep(0.6)
        predictor.go.set()
        (answer,) = await answers(socket, 1)
        code, reason = await ending(socket)
    assert answer["detections"]
    assert (code, "connect again" in reason) == (WSCloseCode.GOING_AWAY, True)


@pytest.mark.parametrize(
    "origin, is_let_in",
    [(None, True), ("own", True), ("https://evil.example", False), ("null", False), ("https://app.example", True)],
)
async def test_pages_of_other_origins_are_refused(http, rest_face, origin, is_let_in):
    """A browser lets any page connect; the gateway lets its own, those allowed, and callers who are no pages."""
    async with serving(dataclasses.replace(rest_face, cors_origins=("https://app.example",))) as url:
        headers = {} if origin is None else {"Origin": url.rstrip("/") if origin == "own" else origin}
        if is_let_in:
            async with stream(http, url, headers=headers) as socket:
                assert not socket.closed
        else:
            assert await refusal(http, url, **headers) == (403, "forbidden_origin")


@pytest.mark.parametrize(
    "query", ["mode=newest", "score=1", "score_threshold=2", "classes=cat&classes=dog", "format=coco"]
)
async def test_a_bad_query_is_refused(http, url, query):
    """Before the stream begins."""
    assert await refusal(http, url, query) == (400, "invalid_parameter")


async def test_who_does_not_upgrade_is_told_to(http, url):
    """As any HTTP client would be."""
    async with http.get(f"{url}v1/stream") as response:
        assert (response.status, (await response.json())["code"]) == (426, "upgrade_required")
        assert response.headers["Upgrade"] == "websocket"
    for path in ("v1/stream", "v1/live"):
        async with http.head(url + path) as response:
            assert response.status == 405


def offered(secret):
    return KEY_PROTOCOL + base64.urlsafe_b64encode(secret.encode()).decode().rstrip("=")


async def test_a_page_offers_its_key_as_a_subprotocol(http, guarded, keyring, png):
    """A browser can set no header; the key does not come back."""
    url, access = guarded
    secret = keyring.add("page")
    await access.reload()
    async with http.ws_connect(f"{url}v1/stream", protocols=(PROTOCOL, offered(secret))) as socket:
        assert socket.protocol == PROTOCOL
        await socket.send_bytes(png)
        (answer,) = await answers(socket, 1)
    assert answer["detections"]
    assert await refusal(http, url) == (401, "unauthorized")
    for wrong in (offered("eagleeye_wrong"), KEY_PROTOCOL, KEY_PROTOCOL + "!", KEY_PROTOCOL + "_w"):
        assert await refusal(http, url, **{"Sec-WebSocket-Protocol": f"{PROTOCOL}, {wrong}"}) == (401, "unauthorized")


async def test_each_frame_takes_a_token_of_its_key(http, guarded, keyring, clock, png):
    """The first has the handshake's; what is over is told, and the stream goes on when there are tokens again."""
    url, access = guarded
    secret = keyring.add("camera", rate=1.0, burst=2)
    await access.reload()
    async with stream(http, url, "mode=ordered", headers={"X-API-Key": secret}) as socket:
        for _ in range(3):
            await socket.send_bytes(png)
        found = await answers(socket, 3)
        clock.advance(1)
        await socket.send_bytes(png)
        found += await answers(socket, 1)
    assert [answer.get("error", {}).get("code") for answer in found] == [None, None, "rate_limited", None]
    assert found[2]["error"]["retry_after_seconds"] == 1


async def test_a_stream_ends_with_its_key(http, guarded, keyring):
    """Within a second, also if nothing is sent."""
    url, access = guarded
    secret = keyring.add("camera")
    await access.reload()
    async with stream(http, url, headers={"Authorization": f"Bearer {secret}"}) as socket:
        keyring.remove("camera")
        await access.reload()
        code, reason = await ending(socket)
    assert (code, "not known" in reason) == (WSCloseCode.POLICY_VIOLATION, True)
