"""The gRPC face over a real channel: calls, tensors, and each error as a status."""

import asyncio
import importlib.metadata
import inspect
import struct

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from structlog.testing import capture_logs
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor

from gateway import errors
from gateway.batch import MAX_IMAGES
from gateway.rpc import GRPC_STATUS
from gateway.rpc_server import serving_rpc
from tests.gateway.conftest import LIMITS, MAX_INFLIGHT

SERVICE = "inference.GRPCInferenceService"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
DTYPES = {"INT32": np.int32, "FP32": np.float32}


def to_raw(*images):
    return b"".join(struct.pack("<I", len(image)) + image for image in images)


def infer_request(*images, **changes):
    """A request for all outputs of `images`, then changed field by field."""
    fields = {
        "model_name": "toy",
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [len(images)]}],
        "raw_input_contents": [to_raw(*images)],
    }
    return service_pb2.ModelInferRequest(**fields | changes)


def to_parameters(**values):
    kinds = {str: "string_param", bool: "bool_param", int: "int64_param", float: "double_param"}
    return {name: service_pb2.InferParameter(**{kinds[type(value)]: value}) for name, value in values.items()}


def tensors(response):
    """A response's outputs as lists by name, checked to have the shape they claim."""
    found = {}
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if output.datatype == "BYTES":
            array = np.array([text.decode() for text in deserialize_bytes_tensor(raw)], object)
        else:
            array = np.frombuffer(raw, DTYPES[output.datatype])
        found[output.name] = array.reshape(tuple(output.shape)).tolist()
    return found


async def refusal(call):
    """Status, stable code and text of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    return error.code().name, dict(error.trailing_metadata()).get("eagleeye-code"), error.details()


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


def test_every_error_of_the_core_has_a_status():
    """The table is complete: no error can fall through to INTERNAL."""
    concrete = {
        error
        for _, error in inspect.getmembers(errors, inspect.isclass)
        if issubclass(error, errors.GatewayError) and error is not errors.GatewayError
    }
    assert set(GRPC_STATUS) == concrete


async def test_infer_answers_with_tensors(rpc, png):
    """The whole answer: names, types, shapes and values; the newest version, and the request's own id."""
    response = await rpc.ModelInfer(infer_request(png, id="mine"))
    assert (response.model_name, response.model_version, response.id) == ("toy", "3", "mine")
    assert [(output.name, output.datatype, list(output.shape)) for output in response.outputs] == [
        ("num_detections", "INT32", [1]),
        ("boxes", "FP32", [2, 4]),
        ("scores", "FP32", [2]),
        ("class_ids", "INT32", [2]),
        ("labels", "BYTES", [2]),
    ]
    assert tensors(response) == {
        "num_detections": [2],
        "boxes": [[0, 0, 48, 48], [48, 0, 96, 48]],
        "scores": [np.float32(0.9), np.float32(0.6)],
        "class_ids": [0, 1],
        "labels": ["cat", "dog"],
    }


async def test_several_images_answer_in_a_row(rpc, predictor, png):
    """All are in work at the same time, and `num_detections` tells them apart."""
    predictor.go.clear()
    call = rpc.ModelInfer(infer_request(*[png] * MAX_INFLIGHT))
    await until(lambda: len(predictor.tensors) == MAX_INFLIGHT)
    predictor.go.set()
    found = tensors(await call)
    assert found["num_detections"] == [2] * MAX_INFLIGHT
    assert found["labels"] == ["cat", "dog"] * MAX_INFLIGHT
    assert len(found["boxes"]) == 2 * MAX_INFLIGHT


async def test_images_may_come_as_typed_contents(rpc, png):
    """`bytes_contents` is the protocol's other way to send them."""
    image = {"name": "image", "datatype": "BYTES", "shape": [2], "contents": {"bytes_contents": [png, png]}}
    response = await rpc.ModelInfer(infer_request(inputs=[image], raw_input_contents=[]))
    assert tensors(response)["num_detections"] == [2, 2]


async def test_only_requested_outputs_are_sent(rpc, png):
    """In the order of the request."""
    response = await rpc.ModelInfer(infer_request(png, outputs=[{"name": "scores"}, {"name": "num_detections"}]))
    assert list(tensors(response)) == ["scores", "num_detections"]


async def test_sizes_of_images_are_sent_when_asked_for(rpc, png):
    """Width and height of each, and only by name."""
    request = infer_request(png, png, outputs=[{"name": "image_wh"}])
    assert tensors(await rpc.ModelInfer(request)) == {"image_wh": [[96, 48], [96, 48]]}


async def test_nothing_found_is_empty_tensors(rpc, png):
    """Shapes with a zero, and contents for each output all the same."""
    response = await rpc.ModelInfer(infer_request(png, parameters=to_parameters(score_threshold=0.95)))
    assert tensors(response) == {"num_detections": [0], "boxes": [], "scores": [], "class_ids": [], "labels": []}
    assert [list(output.shape) for output in response.outputs] == [[1], [0, 4], [0], [0], [0]]


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, ("3", ["cat", "dog"])),
        ({"model_name": ""}, ("3", ["cat", "dog"])),
        ({"model_version": "1"}, ("1", ["cat", "dog"])),
        ({"parameters": to_parameters(score_threshold=0.7)}, ("3", ["cat"])),
        ({"parameters": to_parameters(max_detections=1)}, ("3", ["cat"])),
        ({"parameters": to_parameters(classes="dog, 0")}, ("3", ["cat", "dog"])),
        ({"parameters": to_parameters(classes="dog")}, ("3", ["dog"])),
        ({"parameters": to_parameters(iou_threshold=0, timeout_ms=4000.0)}, ("3", ["cat", "dog"])),
        ({"parameters": to_parameters(agnostic_nms=True, clip=True)}, ("3", ["cat", "dog"])),
        ({"parameters": to_parameters(score_threshold="0.7")}, ("3", ["cat"])),
        ({"parameters": to_parameters(timeout=4_000_000)}, ("3", ["cat", "dog"])),
        ({"parameters": to_parameters(timeout=0)}, ("3", ["cat", "dog"])),
        ({"parameters": to_parameters(timeout=10**18)}, ("3", ["cat", "dog"])),
        ({"parameters": to_parameters(sequence_id=7, sequence_start=True, sequence_end=False)}, ("3", ["cat", "dog"])),
        ({"parameters": to_parameters(sequence_id="camera-7")}, ("3", ["cat", "dog"])),
    ],
)
async def test_parameters_reach_the_core(rpc, png, changes, expected):
    """Each has its effect; a number may also come as text."""
    response = await rpc.ModelInfer(infer_request(png, **changes))
    assert (response.model_version, tensors(response)["labels"]) == expected


async def test_boxes_need_not_be_clipped(rpc, predictor, png):
    """A flag, as for every face."""
    predictor.boxes = [[-8, -4, 32, 32], [70, 0, 90, 32]]
    for clip, count in [(True, 1), (False, 2)]:
        response = await rpc.ModelInfer(infer_request(png, parameters=to_parameters(clip=clip)))
        assert tensors(response)["num_detections"] == [count]


def image_input(**changes):
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1]} | changes]}


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"parameters": to_parameters(score_threshold=2.0)}, "between 0 and 1"),
        ({"parameters": to_parameters(score_threshold=float("nan"))}, "between 0 and 1"),
        ({"parameters": to_parameters(score_threshold=True)}, "between 0 and 1"),
        ({"parameters": {"score_threshold": service_pb2.InferParameter()}}, "between 0 and 1"),
        ({"parameters": to_parameters(max_detections=0)}, "between 1 and 1000"),
        ({"parameters": to_parameters(max_detections=1.5)}, "whole number"),
        ({"parameters": to_parameters(timeout_ms=0)}, "1 to 600000"),
        ({"parameters": to_parameters(timeout=-1)}, "a whole number of microseconds, or 0 for none"),
        ({"parameters": to_parameters(timeout=0.5)}, "a whole number of microseconds, or 0 for none"),
        ({"parameters": to_parameters(classes="cow")}, "cat, dog"),
        ({"parameters": to_parameters(treshold=0.5)}, "allowed are score_threshold, iou_threshold"),
        ({"parameters": to_parameters(model="toy")}, "allowed are score_threshold, iou_threshold"),
        ({"model_version": "latest"}, "whole number from 1"),
        ({"outputs": [{"name": "masks"}]}, "allowed are num_detections, boxes"),
        ({"outputs": [{"name": "boxes"}, {"name": "boxes"}]}, "more than once"),
        ({"outputs": [{"name": "boxes", "parameters": to_parameters(classification=3)}]}, "no parameters"),
        ({"inputs": []}, "exactly one input, 'image'"),
        (image_input(name="images"), "exactly one input, 'image'"),
        ({"inputs": image_input()["inputs"] * 2}, "exactly one input, 'image'"),
        (image_input(datatype="UINT8", shape=[1, 640, 640, 3]), "must be BYTES [N]"),
        (image_input(shape=[]), "must be BYTES [N]"),
        (image_input(shape=[1, 1]), "must be BYTES [N]"),
        (image_input(shape=[0]), f"N from 1 to {MAX_IMAGES}"),
        (image_input(shape=[-1]), f"N from 1 to {MAX_IMAGES}"),
        (image_input(shape=[MAX_IMAGES + 1]), f"N from 1 to {MAX_IMAGES}"),
        (image_input(parameters=to_parameters(shared_memory_region="mine")), "no shared memory"),
        ({"raw_input_contents": []}, "has 0 elements; send 1"),
        ({"raw_input_contents": [b"", b""]}, "has 0 elements; send 1"),
        ({"raw_input_contents": [b""]}, "a length of 4 bytes"),
        ({"raw_input_contents": [b"\1\0"]}, "a length of 4 bytes"),
        ({"raw_input_contents": [struct.pack("<I", 5) + b"four"]}, "a length of 4 bytes"),
        ({"raw_input_contents": [to_raw(b"one", b"two")]}, "a length of 4 bytes"),
    ],
)
async def test_a_bad_request_is_explained(rpc, png, changes, says):
    """INVALID_ARGUMENT, with what is allowed."""
    status, code, detail = await refusal(rpc.ModelInfer(infer_request(png, **changes)))
    assert (status, code) == ("INVALID_ARGUMENT", "invalid_parameter")
    assert says in detail


@pytest.mark.parametrize(
    "image, code",
    [
        (b"", "invalid_image"),
        (b"hello", "unsupported_media_type"),
        (b"\xff\xd8\xff\xe0garbage", "invalid_image"),
        (bytes(LIMITS.max_bytes + 1), "image_too_large"),
    ],
    ids=["empty", "text", "damaged", "too large"],
)
async def test_one_bad_image_of_several_is_named(rpc, png, image, code):
    """The call fails with that image's error, and says which it is; a single one needs no number."""
    status, found, detail = await refusal(rpc.ModelInfer(infer_request(png, image, png)))
    assert (status, found) == ("INVALID_ARGUMENT", code)
    assert detail.startswith("image 1: ")
    alone = await refusal(rpc.ModelInfer(infer_request(image)))
    assert alone == (status, found, detail.removeprefix("image 1: "))


async def test_a_bad_image_stops_the_others(rpc, predictor, png):
    """Nobody will see their results. The bad one is read last: two threads are busy with those before it."""
    predictor.go.clear()
    await refusal(rpc.ModelInfer(infer_request(png, png, b"hello")))
    assert predictor.cancelled == len(predictor.tensors) > 0


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
async def test_a_message_over_the_cap_is_refused(rpc, png, compression):
    """Even one that is small until it is unpacked; the channel still serves the next call."""
    request = infer_request(bytes(LIMITS.max_bytes + 2_000_000))
    status, _, _ = await refusal(rpc.ModelInfer(request, compression=compression))
    assert status == "RESOURCE_EXHAUSTED"
    assert (await rpc.ModelInfer(infer_request(png))).outputs


@pytest.mark.parametrize("name", ["other", "\u4e2d" * 200_000])
async def test_an_unknown_model_is_not_found(rpc, png, name):
    """NOT_FOUND, however long the name is, for an inference as well as for a look-up."""
    assert (await refusal(rpc.ModelInfer(infer_request(png, model_name=name))))[:2] == ("NOT_FOUND", "model_not_found")
    request = service_pb2.ModelMetadataRequest(name=name)
    assert (await refusal(rpc.ModelMetadata(request)))[:2] == ("NOT_FOUND", "model_not_found")


async def test_an_overloaded_gateway_says_when_to_come_back(rpc, predictor, png):
    """RESOURCE_EXHAUSTED with `retry-after` in seconds."""
    predictor.error = errors.Overloaded("full", retry_after_seconds=7)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rpc.ModelInfer(infer_request(png, id="mine"))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details() == "full"
    assert dict(caught.value.trailing_metadata()) == {
        "eagleeye-code": "overloaded",
        "retry-after": "7",
        "x-request-id": "mine",
    }


async def test_the_parameter_sets_a_deadline(rpc, predictor, png):
    """A prediction that outlives the caller's patience fails, and the next call is served as usual."""
    predictor.go.clear()
    call = rpc.ModelInfer(infer_request(png, parameters=to_parameters(timeout_ms=50)), timeout=30)
    status, code, detail = await refusal(call)
    assert (status, code) == ("DEADLINE_EXCEEDED", "deadline_exceeded")
    assert "50 ms" in detail
    predictor.go.set()
    assert (await rpc.ModelInfer(infer_request(png))).outputs


@pytest.mark.parametrize(
    "given, nearest_ms",
    [
        ({"timeout": 50_000}, 50),
        ({"timeout": 50_000, "timeout_ms": 4000}, 50),
        ({"timeout": 60_000_000, "timeout_ms": 50}, 50),
    ],
)
async def test_tritons_own_parameter_sets_a_deadline(rpc, predictor, png, given, nearest_ms):
    """In microseconds; the nearer one holds if there are several."""
    predictor.go.clear()
    call = rpc.ModelInfer(infer_request(png, parameters=to_parameters(**given)), timeout=30)
    status, code, detail = await refusal(call)
    assert (status, code) == ("DEADLINE_EXCEEDED", "deadline_exceeded")
    assert f" {nearest_ms} ms" in detail


async def test_the_call_sets_a_deadline(rpc, predictor, metrics, png):
    """The client's own deadline ends the work, even if the parameter would allow more, and is counted as such."""
    predictor.go.clear()
    seconds = 0.1
    while not predictor.tensors:  # on a busy machine a call may end before it has come
        call = rpc.ModelInfer(infer_request(png, parameters=to_parameters(timeout_ms=60_000)), timeout=seconds)
        assert (await refusal(call))[0] == "DEADLINE_EXCEEDED"
        seconds *= 2
    labels = {"face": "grpc", "model": "toy", "code": "deadline_exceeded"}
    await until(lambda: metrics.registry.get_sample_value("eagleeye_requests_total", labels))
    await until(lambda: metrics.registry.get_sample_value("eagleeye_inflight", {"model": "toy"}) == 0)


async def test_a_client_that_leaves_cancels_its_predictions(rpc, predictor, metrics, png):
    """Nobody waits for the answer, so Triton need not compute it."""
    predictor.go.clear()
    call = rpc.ModelInfer(infer_request(png, png))
    while len(predictor.tensors) < 2:
        await asyncio.sleep(0.005)
    call.cancel()
    await until(lambda: predictor.cancelled == 2)
    labels = {"face": "grpc", "model": "toy", "code": "cancelled"}
    await until(lambda: metrics.registry.get_sample_value("eagleeye_requests_total", labels) == 1)


async def test_an_unexpected_error_shows_no_internals(rpc, predictor, png):
    """INTERNAL with the request id, and nothing of the cause, which the log has."""
    predictor.error = RuntimeError("secret")
    with capture_logs() as logs:
        status, code, detail = await refusal(rpc.ModelInfer(infer_request(png, id="mine")))
    assert (status, code) == ("INTERNAL", "internal")
    assert "secret" not in detail
    (unexpected,) = [line for line in logs if line["event"] == "unexpected error"]
    assert unexpected["exc_info"] is predictor.error
    assert unexpected["request_id"] == "mine"


async def test_calls_are_counted_and_logged(rpc, metrics, png):
    """One line a call, with the same fields as the other face's; an unknown model's name does not become a label."""
    with capture_logs() as logs:
        await rpc.ModelInfer(infer_request(png, id="one"))
        await rpc.ModelInfer(infer_request(png, png, id="two"))
        await refusal(rpc.ModelInfer(infer_request(png, model_name="other")))
        # a caller may know of a refusal before the log does
        await until(lambda: sum(line["event"] == "detect" for line in logs) == 3)
    one, two, other = [line for line in logs if line["event"] == "detect"]
    assert one.items() >= {"code": "ok", "request_id": "one", "images": 1, "best_label": "cat"}.items()
    assert two.items() >= {"code": "ok", "images": 2, "detections": 4, "image_bytes": 2 * len(png)}.items()
    assert other.items() >= {"code": "model_not_found", "status": "NOT_FOUND", "face": "grpc"}.items()
    for name, labels, value in [
        ("requests_total", {"face": "grpc", "model": "toy", "code": "ok"}, 2),
        ("requests_total", {"face": "grpc", "model": "", "code": "model_not_found"}, 1),
        ("request_seconds_count", {"face": "grpc", "model": "toy"}, 2),
        ("stage_seconds_count", {"stage": "encode", "model": "toy"}, 2),
        ("detections_total", {"model": "toy", "label": "cat"}, 3),
    ]:
        assert metrics.registry.get_sample_value(f"eagleeye_{name}", labels) == value


async def test_the_server_describes_itself(rpc):
    """Name and version of the package."""
    about = await rpc.ServerMetadata(service_pb2.ServerMetadataRequest())
    assert (about.name, about.version) == ("eagleeye", importlib.metadata.version("eagleeye"))


async def test_a_model_is_described(rpc):
    """What it takes and gives; -1 where a size is free."""
    model = await rpc.ModelMetadata(service_pb2.ModelMetadataRequest(name="toy"))
    assert (model.name, list(model.versions)) == ("toy", ["1", "3"])
    assert [(each.name, each.datatype, list(each.shape)) for each in (*model.inputs, *model.outputs)] == [
        ("image", "BYTES", [-1]),
        ("num_detections", "INT32", [-1]),
        ("boxes", "FP32", [-1, 4]),
        ("scores", "FP32", [-1]),
        ("class_ids", "INT32", [-1]),
        ("labels", "BYTES", [-1]),
        ("image_wh", "INT32", [-1, 2]),
    ]


async def test_the_config_of_a_model_is_tritons(rpc):
    """Its tensors, and as parameters what a client may want to know beside them."""
    config = (await rpc.ModelConfig(service_pb2.ModelConfigRequest(name="toy"))).config
    assert (config.name, config.platform, config.backend, config.max_batch_size) == ("toy", "eagleeye", "eagleeye", 0)
    data_type = model_config_pb2.DataType.Name
    assert [(each.name, data_type(each.data_type), list(each.dims)) for each in (*config.input, *config.output)] == [
        ("image", "TYPE_STRING", [-1]),
        ("num_detections", "TYPE_INT32", [-1]),
        ("boxes", "TYPE_FP32", [-1, 4]),
        ("scores", "TYPE_FP32", [-1]),
        ("class_ids", "TYPE_INT32", [-1]),
        ("labels", "TYPE_STRING", [-1]),
        ("image_wh", "TYPE_INT32", [-1, 2]),
    ]
    assert {name: parameter.string_value for name, parameter in config.parameters.items()} == {
        "labels": '["cat","dog"]',
        "input_wh": "[64,32]",
        "score_threshold": "0.5",
        "iou_threshold": "0.7",
        "variant": "none",
    }


@pytest.mark.parametrize("name, version", [("other", ""), ("toy", "2")])
async def test_the_config_of_what_is_not_served(rpc, name, version):
    """NOT_FOUND."""
    request = service_pb2.ModelConfigRequest(name=name, version=version)
    assert (await refusal(rpc.ModelConfig(request)))[:2] == ("NOT_FOUND", "model_not_found")


async def test_models_are_listed(rpc, predictor):
    """Every version of each, as Triton lists them; none while Triton is away."""
    index = await rpc.RepositoryIndex(service_pb2.RepositoryIndexRequest(ready=True))
    assert [(each.name, each.version, each.state, each.reason) for each in index.models] == [
        ("toy", "1", "READY", ""),
        ("toy", "3", "READY", ""),
    ]
    predictor.models = {}
    assert not (await rpc.RepositoryIndex(service_pb2.RepositoryIndexRequest())).models


@pytest.mark.parametrize("name, version, ready", [("toy", "", True), ("toy", "x", False), ("other", "", False)])
async def test_a_model_is_ready_if_it_is_served(rpc, name, version, ready):
    """What nobody serves is not ready, which is an answer and no error."""
    request = service_pb2.ModelReadyRequest(name=name, version=version)
    assert (await rpc.ModelReady(request)).ready is ready


async def test_readiness_follows_triton_and_liveness_does_not(rpc, predictor):
    """A gateway without Triton is alive, and not ready."""

    async def state():
        live = await rpc.ServerLive(service_pb2.ServerLiveRequest())
        ready = await rpc.ServerReady(service_pb2.ServerReadyRequest())
        return live.live, ready.ready

    assert await state() == (True, True)
    predictor.models = {}
    assert await state() == (True, False)


@pytest.mark.parametrize("service", ["", SERVICE])
async def test_health_follows_triton(channel, predictor, service):
    """For the server and for its service; a watcher hears of each change, also after another one has left."""
    health = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=service)
    assert (await health.Check(request)).status == SERVING
    leaver, watcher = health.Watch(request), health.Watch(request)
    assert (await leaver.read()).status == SERVING
    assert (await watcher.read()).status == SERVING
    leaver.cancel()
    predictor.models = {}
    async with asyncio.timeout(30):
        assert (await watcher.read()).status == NOT_SERVING
    assert (await health.Check(request)).status == NOT_SERVING


async def test_health_of_an_unknown_service(channel):
    """NOT_FOUND when asked once; a watcher is told, and may wait for it to appear."""
    health = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service="other")
    assert (await refusal(health.Check(request)))[0] == "NOT_FOUND"
    watcher = health.Watch(request)
    assert (await watcher.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watcher.cancel()


async def test_reflection_describes_the_services(rpc_face):
    """A client without our protobuf files learns the calls and their messages from the server."""
    async with serving_rpc(rpc_face, host="127.0.0.1", port=0, grace_seconds=5) as port:
        services, fields = await asyncio.to_thread(reflect, port)
    assert services == {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    assert "raw_input_contents" in fields


def reflect(port):
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        call = DescriptorPool(database).FindServiceByName(SERVICE).FindMethodByName("ModelInfer")
        return set(database.get_services()), list(call.input_type.fields_by_name)


@pytest.mark.parametrize("call", ["TraceSetting", "Nonsense"])
async def test_a_call_that_is_not_there_is_unimplemented(channel, caplog, call):
    """Without a traceback in the log for each."""
    assert (await refusal(channel.unary_unary(f"/{SERVICE}/{call}")(b"")))[0] == "UNIMPLEMENTED"
    assert not caplog.records


async def test_a_stop_lets_calls_finish(rpc_face, predictor, png):
    """Watchers hear NOT_SERVING and are let go, what is in work is answered, and new callers find nobody."""
    predictor.go.clear()
    async with asyncio.timeout(30), serving_rpc(rpc_face, host="127.0.0.1", port=0, grace_seconds=60) as port:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        rpc = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        watcher = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watcher.read()).status == SERVING
        call = rpc.ModelInfer(infer_request(png))
        await until(lambda: predictor.tensors)
        asyncio.get_running_loop().call_later(0.1, predictor.go.set)
    assert (await watcher.read()).status == NOT_SERVING
    assert await watcher.read() is grpc.aio.EOF
    assert (await call).outputs
    assert (await refusal(rpc.ModelInfer(infer_request(png))))[0] == "UNAVAILABLE"
    await channel.close()


async def test_health_through_a_shutdown(channel, lifecycle, rpc, png):
    """While this process drains it asks for no more calls, by Check and by Watch, and serves those that come."""
    health = health_pb2_grpc.HealthStub(channel)
    watcher = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    assert (await watcher.read()).status == SERVING
    lifecycle.drain()
    async with asyncio.timeout(30):
        assert (await watcher.read()).status == NOT_SERVING
    assert (await health.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
    assert (await rpc.ModelInfer(infer_request(png))).outputs
    watcher.cancel()


async def test_a_stop_does_not_wait_for_ever(rpc_face, predictor, png):
    """What is still in work when the time to drain is over is cancelled."""
    predictor.go.clear()
    async with asyncio.timeout(30), serving_rpc(rpc_face, host="127.0.0.1", port=0, grace_seconds=0.1) as port:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(infer_request(png))
        await until(lambda: predictor.tensors)
    assert (await refusal(call))[0] == "UNAVAILABLE"
    await until(lambda: predictor.cancelled)
    await channel.close()


async def test_a_busy_port_is_an_error(rpc_face, capfd):
    """Also one that a second gateway holds: ports are not shared. The error names it, and gRPC logs nothing."""
    async with serving_rpc(rpc_face, host="127.0.0.1", port=0, grace_seconds=5) as port:
        with pytest.raises(OSError, match=rf"{port}.*in use"):
            async with serving_rpc(rpc_face, host="127.0.0.1", port=port, grace_seconds=5):
                pass
    assert not capfd.readouterr().err
