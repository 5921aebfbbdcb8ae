"""Overload as callers meet it: refusals before the upload, priorities, memory and connections, on real faces."""

import asyncio
import contextlib
import gzip
from functools import partial

import click
import grpc
import pytest
from aiohttp import web
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.access import Access
from gateway.errors import InvalidParameter
from gateway.keys import Key, hash_secret
from gateway.oip import read_query
from gateway.parameters import read
from gateway.priority import Priority
from gateway.rest.connections import limited
from gateway.rpc_messages import address_of
from gateway.rpc_server import serving_rpc
from gateway.settings import ServingSettings
from tests.gateway.conftest import MAX_BODY_BYTES, MAX_HELD_BYTES, MAX_INFLIGHT
from tests.gateway.test_inputs import in_base64
from tests.gateway.test_rest import problem
from tests.gateway.test_rest_access import access, bearer, guarded, permitted, serve  # noqa: F401 (fixtures)
from tests.gateway.test_rpc import infer_request, refusal, to_parameters

URL = "/v1/detect"
HEAD = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


@contextlib.asynccontextmanager
async def full(rest, predictor, png):
    """While the block runs, every slot is taken, and so is the one place to wait in."""
    predictor.go.clear()
    held = [asyncio.create_task(rest.post(URL, data=png)) for _ in range(MAX_INFLIGHT + 1)]
    async with asyncio.timeout(30):
        while len(predictor.tensors) < MAX_INFLIGHT or 'eagleeye_queued{model="toy"} 1.0' not in await metrics_page(
            rest
        ):
            await asyncio.sleep(0.005)
    try:
        yield
    finally:
        predictor.go.set()
        assert [(await request).status for request in held] == [200] * len(held)


async def metrics_page(rest):
    return await (await rest.get("/metrics")).text()


async def test_a_refusal_comes_before_the_upload(rest, predictor, png):
    """The header is enough; and when the body comes all the same, the connection serves the next request."""
    async with full(rest, predictor, png):
        reader, writer = await asyncio.open_connection(rest.host, rest.port)
        writer.write(HEAD % (URL.encode(), 90_000))
        async with asyncio.timeout(30):
            head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 1\r\n" in head
        await reader.readuntil(b"}")
        writer.write(bytes(90_000) + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(30):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.close()


@pytest.mark.parametrize("path", [URL, "/v2/models/toy/infer"])
async def test_a_refusal_says_when_to_come_back(rest, predictor, png, path):
    """503 with its code, its reason and Retry-After, and no image is looked at."""
    headers = {"Inference-Header-Content-Length": "0"}
    async with full(rest, predictor, png):
        response = await rest.post(path, data=b"garbage", headers=headers)
        status, code, detail = await problem(response)
        assert (status, code, response.headers["Retry-After"]) == (503, "overloaded", "1")
        assert "1 images wait for toy already" in detail
    assert 'eagleeye_shed_total{model="toy",reason="queue"} 1.0' in await metrics_page(rest)


async def test_over_grpc_a_refusal_is_resource_exhausted(rest, rpc, predictor, png):
    """With the same seconds in its metadata."""
    async with full(rest, predictor, png):
        call = rpc.ModelInfer(infer_request(png))
        assert (await refusal(call))[:2] == ("RESOURCE_EXHAUSTED", "overloaded")
        assert dict(await call.trailing_metadata())["retry-after"] == "1"


@pytest.mark.parametrize(
    "send", [{"data": bytes(90_000)}, {"data": gzip.compress(bytes(90_000)), "headers": {"Content-Encoding": "gzip"}}]
)
async def test_a_body_without_room_in_memory_is_refused(rest, core, send):
    """Declared, or found out while it is inflated; what it held is given back."""
    with core.memory.hold("address 127.0.0.1") as hold:
        hold(MAX_HELD_BYTES // 2 - 10_000)
        assert (await problem(await rest.post(URL, **send)))[:2] == (503, "overloaded")
    page = await metrics_page(rest)
    assert "eagleeye_held_bytes 0.0" in page
    assert 'eagleeye_shed_total{model="",reason="memory"} 1.0' in page


@pytest.mark.parametrize("path", ["/v1/detect", "/v2/models/toy/infer"])
async def test_a_body_that_may_never_come_is_too_large_and_not_too_early(rest, core, path):
    """413, also while there is no room for it: coming back later would not help."""
    with core.memory.hold("address 127.0.0.1") as hold:
        hold(MAX_HELD_BYTES // 2)
        response = await rest.post(path, data=bytes(MAX_BODY_BYTES + 1))
    assert (await response.json())["code"] == "image_too_large"


@pytest.mark.parametrize(
    "peer, address",
    [("ipv4:10.0.0.7:4711", "10.0.0.7"), ("ipv6:%5B::1%5D:4711", "::1"), ("ipv6:[fd00::7]:4711", "fd00::7")],
)
def test_an_address_is_the_same_caller_on_both_faces(peer, address):
    """Without keys its share is one, whichever face it comes to."""
    assert address_of(peer) == address


async def test_over_grpc_memory_counts_as_well(rpc, core, png):
    """A call finds room as the other face's requests do."""
    with core.memory.hold("address 127.0.0.1") as hold:
        hold(MAX_HELD_BYTES // 2)
        assert (await refusal(rpc.ModelInfer(infer_request(png))))[:2] == ("RESOURCE_EXHAUSTED", "overloaded")
    await rpc.ModelInfer(infer_request(png))


@pytest.mark.parametrize("priority", Priority)
def test_a_priority_has_a_name_or_tritons_number(priority):
    """Its clients number levels from 1, the highest; 0 stands for the default."""
    assert read({"priority": priority.value})[0].priority is priority
    assert read_query({"priority": priority.value}, "", "")[0].priority is priority
    assert read_query({"priority": str(priority.rank)}, "", "")[0].priority is priority
    assert read_query({"priority": "0"}, "", "")[0].priority is read({})[0].priority is Priority.NORMAL


@pytest.mark.parametrize("text", ["", "urgent", "HIGH", "4", "-1", "1.5"])
@pytest.mark.parametrize("read_texts", [read, partial(read_query, name="", version="")])
def test_another_priority_is_explained(read_texts, text):
    """With what is allowed."""
    with pytest.raises(InvalidParameter, match="it must be one of high, normal, low"):
        read_texts({"priority": text})


async def test_every_face_takes_a_priority(rest, rpc, png):
    """As a parameter of the query, of an envelope, and of both protocols' requests, by name or by number."""
    infer = "/v2/models/toy/infer"
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [""]}
    assert (await rest.post(f"{URL}?priority=low", data=png)).status == 200
    assert (await rest.post(URL, json={"image": in_base64(png), "priority": "low"})).status == 200
    response = await rest.post(infer, json={"inputs": [image], "parameters": {"priority": 9}})
    assert "high, normal, low" in (await problem(response))[2]
    by_number = {"priority": service_pb2.InferParameter(uint64_param=1)}
    for parameters in (by_number, to_parameters(priority="low")):
        assert (await rpc.ModelInfer(infer_request(png, parameters=parameters))).model_name == "toy"


async def test_a_key_says_which_priority_is_allowed(guarded, keyring, access, png):  # noqa: F811 (fixtures)
    """Normal unless it says another; who asks for more is told so, and who asks for none gets what there is."""
    secrets = {
        name: keyring.add(name, **({"priority": name} if name != "none" else {})) for name in ("none", "high", "low")
    }
    await access.reload()

    async def status(name, query):
        response = await guarded.post(f"{URL}?model=toy{query}", data=png, headers=bearer(secrets[name]))
        return response.status if response.status == 200 else await problem(response)

    assert [await status(name, "") for name in secrets] == [200] * 3
    assert await status("high", "&priority=high") == 200
    assert await status("none", "&priority=normal") == 200
    for name, asked, most in (("none", "high", "normal"), ("low", "normal", "low")):
        code, kind, detail = await status(name, f"&priority={asked}")
        assert (code, kind) == (400, "invalid_parameter")
        assert f"this key allows '{most}' at most" in detail


def test_a_key_without_a_known_priority_is_refused(keyring):
    """What a file may say is checked as it is read."""
    with pytest.raises(ValueError, match="'priority' must be one of high, normal, low"):
        Key("one", hash_secret("x"), priority="urgent")
    keyring.add("one", priority="high")
    (caller,) = Access(keyring.path)._callers.values()
    assert caller.key.highest_priority is Priority.HIGH


def test_a_budget_too_small_for_the_largest_request_is_refused():
    """With the option to change."""
    with pytest.raises(click.ClickException, match="--max-inflight-bytes is 1; it must be at least twice"):
        ServingSettings(max_inflight_bytes=1)


@pytest.fixture
async def port():
    """That of a server with room for two connections, which hangs up after a second without a request."""

    async def answer(_):
        return web.Response(text="served")

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, keepalive_timeout=1)
    await runner.setup()
    refused = []
    listener = await asyncio.get_running_loop().create_server(
        limited(runner.server, 2, lambda: refused.append(1)), "127.0.0.1", 0
    )
    yield listener.sockets[0].getsockname()[1]
    listener.close()
    await runner.cleanup()


async def ask(reader, writer):
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(30):
        return (await reader.readuntil(b"\r\n")).decode().split()[1]


async def test_connections_over_the_limit_are_refused(port):
    """With a status and a time to come back; those that are there are served, and so is the next one when one left."""
    first, second, third = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    assert [await ask(*each) for each in (first, second, third)] == ["200", "200", "503"]
    async with asyncio.timeout(30):
        rest_of_it = await third[0].read()
    assert b"Retry-After: 1\r\n" in rest_of_it
    assert b'"code":"overloaded"' in rest_of_it
    first[1].close()
    await first[1].wait_closed()
    third[1].close()
    async with asyncio.timeout(30):
        while True:  # until the server has heard of it
            next_one = await asyncio.open_connection("127.0.0.1", port)
            status = await ask(*next_one)
            next_one[1].close()
            if status == "200":
                break
    second[1].close()


@pytest.mark.parametrize("sent", [b"", b"GET /", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_a_connection_that_completes_no_header_is_cut_off(port, sent):
    """However it drips: the time for a header counts from its connection's start, not from its last byte."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)

    async def drip():
        while sent:
            await asyncio.sleep(0.05)
            writer.write(b"x")

    dripping = asyncio.create_task(drip())
    async with asyncio.timeout(30):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    dripping.cancel()
    writer.close()


async def test_open_calls_over_the_limit_are_refused(rpc_face):
    """By gRPC itself."""
    async with (
        serving_rpc(rpc_face, host="127.0.0.1", port=0, grace_seconds=1, max_open_calls=1) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        rpc = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        stream = rpc.ModelStreamInfer()
        await stream.wait_for_connection()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rpc.ServerLive(service_pb2.ServerLiveRequest())
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        stream.cancel()
