"""Keys and limits over a real gRPC channel."""

import asyncio
import dataclasses

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.access import Access, Permitted
from gateway.detector import Detector
from gateway.rpc_server import serving_rpc
from tests.fakes import MODEL
from tests.gateway.conftest import LIMITS, admission
from tests.gateway.test_rpc import SERVICE, infer_request, reflect, refusal, until

TOY = service_pb2.ModelMetadataRequest(name="toy")


@pytest.fixture
def access(keyring, clock):
    return Access(keyring.path, clock)


@pytest.fixture
async def port(rpc_face, predictor, access, metrics):
    """Of a server that asks for keys and serves two models."""
    predictor.models["other"] = dataclasses.replace(MODEL, name="other")
    permitted = Permitted(predictor)
    async with Detector(permitted, LIMITS, admission(metrics), metrics, threads=1) as detector:
        core = dataclasses.replace(rpc_face.core, detector=detector, predictor=permitted, access=access)
        face = dataclasses.replace(rpc_face, core=core)
        async with serving_rpc(face, host="127.0.0.1", port=0, grace_seconds=5, max_open_calls=20) as port:
            yield port


@pytest.fixture
async def channel(port):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel


def ways(secret):
    """The metadata that a key may be sent in."""
    return [(("authorization", f"Bearer {secret}"),), (("x-api-key", secret),)]


async def test_no_key_and_a_wrong_key_are_unauthenticated(rpc, png):
    """With the code and the words of the other face; a large message is not waited for."""
    for metadata in (None, *ways("wrong"), (("authorization", "Basic wrong"),)):
        assert (await refusal(rpc.ModelMetadata(TOY, metadata=metadata)))[:2] == ("UNAUTHENTICATED", "unauthorized")
        refused = await refusal(rpc.ModelInfer(infer_request(png), metadata=metadata))
        assert refused[:2] == ("UNAUTHENTICATED", "unauthorized")
    assert "X-API-Key" in (await refusal(rpc.ModelMetadata(TOY)))[2]


async def test_a_known_key_is_let_in(rpc, keyring, access, png):
    """By either metadata, for every call."""
    secret = keyring.add("one")
    await access.reload()
    for metadata in ways(secret):
        assert (await rpc.ModelInfer(infer_request(png), metadata=metadata)).model_name == "toy"
        assert (await rpc.ModelMetadata(TOY, metadata=metadata)).name == "toy"
        assert (await rpc.ServerMetadata(service_pb2.ServerMetadataRequest(), metadata=metadata)).name == "eagleeye"


async def test_a_key_that_is_removed_stops_working(rpc, keyring, access):
    """While the gateway runs, on a channel that is open."""
    metadata = ways(keyring.add("one"))[0]
    await access.reload()
    assert (await rpc.ModelMetadata(TOY, metadata=metadata)).name == "toy"
    keyring.remove("one")
    await access.reload()
    assert (await refusal(rpc.ModelMetadata(TOY, metadata=metadata)))[0] == "UNAUTHENTICATED"


async def test_probes_need_no_key(rpc, channel):
    """Health, and whether the server lives and is ready; what tells of models does."""
    health = health_pb2_grpc.HealthStub(channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    assert (await health.Check(health_pb2.HealthCheckRequest())).status == serving
    watcher = health.Watch(health_pb2.HealthCheckRequest())
    assert (await watcher.read()).status == serving
    watcher.cancel()
    assert (await rpc.ServerLive(service_pb2.ServerLiveRequest())).live
    assert (await rpc.ServerReady(service_pb2.ServerReadyRequest())).ready
    for call, request in (
        (rpc.ModelReady, service_pb2.ModelReadyRequest(name="toy")),
        (rpc.ServerMetadata, service_pb2.ServerMetadataRequest()),
    ):
        assert (await refusal(call(request)))[0] == "UNAUTHENTICATED"


async def test_reflection_needs_a_key(port, keyring, access):
    """It describes what a caller without one may not call; with one it works."""
    with pytest.raises(grpc.RpcError) as caught:
        await asyncio.to_thread(reflect, port)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED

    metadata = ways(keyring.add("one"))[0]
    await access.reload()
    call = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    list_services = b"\x3a\x00"  # field 7 of ServerReflectionRequest, empty
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stream = channel.stream_stream(call)(iter([list_services]), metadata=metadata)
        answers = [answer async for answer in stream]
    assert SERVICE.encode() in answers[0]


async def test_a_call_that_is_not_there_needs_a_key_too(channel, keyring, access):
    """Nobody learns without one what is there."""
    call = channel.unary_unary(f"/{SERVICE}/Nonsense")
    assert (await refusal(call(b"")))[0] == "UNAUTHENTICATED"
    metadata = ways(keyring.add("one"))[0]
    await access.reload()
    assert (await refusal(call(b"", metadata=metadata)))[0] == "UNIMPLEMENTED"


@pytest.mark.parametrize("has_message", [True, False])
async def test_calls_that_need_no_key_leave_room_for_those_with_one(rpc, channel, keyring, access, png, has_message):
    """As streams, or left open before a message, where no handler sees them. Who leaves makes room."""
    metadata, request = ways(keyring.add("one"))[0], service_pb2.ServerLiveRequest()
    await access.reload()
    watch, live = health_pb2_grpc.HealthStub(channel).Watch, channel.stream_stream(f"/{SERVICE}/ServerLive")
    held = []

    async with asyncio.timeout(60):
        while await (last := rpc.ServerLive(request)).code() is grpc.StatusCode.OK:
            held.append(watch(health_pb2.HealthCheckRequest()) if has_message else live())
        refused = await refusal(last)
        assert (await rpc.ModelInfer(infer_request(png), metadata=metadata)).outputs
        for call in held:
            call.cancel()
        while await rpc.ServerLive(request).code() is not grpc.StatusCode.OK:
            pass

    assert refused[:2] == ("RESOURCE_EXHAUSTED", "overloaded")
    assert refused[2] == "10 calls without a key are open, which are as many as may be"


async def test_a_rate_limit_is_kept_to_the_call(rpc, keyring, access, clock):
    """RESOURCE_EXHAUSTED with `retry-after`, as the other face's 429."""
    metadata = ways(keyring.add("one", rate=0.5, burst=2))[1]
    await access.reload()
    for _ in range(2):
        await rpc.ModelMetadata(TOY, metadata=metadata)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rpc.ModelMetadata(TOY, metadata=metadata)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailing = dict(caught.value.trailing_metadata())
    assert (trailing["eagleeye-code"], trailing["retry-after"]) == ("rate_limited", "2")
    clock.advance(1.999)
    assert (await refusal(rpc.ModelMetadata(TOY, metadata=metadata)))[1] == "rate_limited"
    clock.advance(0.001)
    assert (await rpc.ModelMetadata(TOY, metadata=metadata)).name == "toy"


async def test_a_key_sees_its_models_only(rpc, keyring, access, png):
    """What it may not use is as if it were not there."""
    metadata = ways(keyring.add("one", models=("toy",)))[0]
    await access.reload()
    other = service_pb2.ModelReadyRequest(name="other")
    assert not (await rpc.ModelReady(other, metadata=metadata)).ready
    index = await rpc.RepositoryIndex(service_pb2.RepositoryIndexRequest(), metadata=metadata)
    assert {each.name for each in index.models} == {"toy"}
    for call in (
        rpc.ModelMetadata(service_pb2.ModelMetadataRequest(name="other"), metadata=metadata),
        rpc.ModelConfig(service_pb2.ModelConfigRequest(name="other"), metadata=metadata),
        rpc.ModelInfer(infer_request(png, model_name="other"), metadata=metadata),
    ):
        status, code, detail = await refusal(call)
        assert (status, code) == ("NOT_FOUND", "model_not_found")
        assert detail.endswith("served are: toy")
    assert (await rpc.ModelInfer(infer_request(png, model_name=""), metadata=metadata)).model_name == "toy"


async def test_calls_at_the_same_time_are_not_mixed_up(rpc, keyring, access, predictor, png):
    """One caller's key does not open a model to another while both are in work."""
    toy, other = (ways(keyring.add(name, models=(name,)))[0] for name in ("toy", "other"))
    await access.reload()
    predictor.go.clear()
    calls = [
        rpc.ModelInfer(infer_request(png, model_name=name), metadata=metadata)
        for name, metadata in (("toy", toy), ("other", other), ("toy", other), ("other", toy))
    ]
    while len(predictor.tensors) < 2:
        await asyncio.sleep(0.005)
    predictor.go.set()
    codes = [await call.code() for call in calls]
    assert [code.name for code in codes] == ["OK", "OK", "NOT_FOUND", "NOT_FOUND"]


async def test_the_log_line_has_the_name_of_the_key(rpc, keyring, access, metrics, png):
    """Refusals are logged and counted like other calls; none is a failure of ours."""
    metadata = ways(keyring.add("camera-7", rate=0.1))[0]
    await access.reload()
    with capture_logs() as logs:
        await rpc.ModelInfer(infer_request(png), metadata=metadata)
        await refusal(rpc.ModelInfer(infer_request(png), metadata=metadata))
        await refusal(rpc.ModelInfer(infer_request(png)))
        await until(lambda: len(logs) == 3)  # a caller may know of a refusal before the log does
    assert [(line["code"], line.get("key"), line["log_level"]) for line in logs] == [
        ("ok", "camera-7", "info"),
        ("rate_limited", "camera-7", "info"),
        ("unauthorized", None, "info"),
    ]
    for code in ("rate_limited", "unauthorized"):
        labels = {"face": "grpc", "model": "", "code": code}
        assert metrics.registry.get_sample_value("eagleeye_requests_total", labels) == 1


async def test_a_large_message_of_a_stranger_is_not_received(port):
    """Nor unpacked: the refusal does not wait for it."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        rpc = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        status, _, _ = await refusal(rpc.ModelInfer(infer_request(bytes(LIMITS.max_bytes + 2_000_000))))
    assert status == "UNAUTHENTICATED"
