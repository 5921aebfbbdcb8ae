"""The Triton endpoint against a real gRPC server that can be told to misbehave in ways a real Triton seldom does."""

import asyncio
import contextlib

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.deadline import Deadline
from gateway.errors import DeadlineExceeded, InvalidPrediction, ModelNotFound, Overloaded, TritonUnavailable
from gateway.metrics import Metrics
from gateway.triton.endpoint import Endpoint
from tests.gateway.test_contract import config

SOON = 5.0


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Serves `toy` and answers what it is told to."""

    def __init__(self):
        self.ready = [("toy", "1"), ("toy", "3")]
        self.configs = {"toy": config()}
        self.outputs = {
            "boxes": ("FP32", np.arange(20, dtype=np.float32).reshape(1, 5, 4)),
            "scores": ("FP32", np.linspace(1, 0, 5, dtype=np.float32)[np.newaxis]),
            "class_ids": ("INT32", np.array([[0, 1, 1, 0, 1]], np.int32)),
        }
        self.failure = None
        self.infer = None
        self.requests = []
        self.remaining_seconds = None
        self.go = asyncio.Event()
        self.go.set()
        self.cancelled = asyncio.Event()

    async def RepositoryIndex(self, request, context):  # noqa: N802 (the service's names)
        models = [
            service_pb2.RepositoryIndexResponse.ModelIndex(name=name, version=version, state="READY")
            for name, version in self.ready
        ]
        return service_pb2.RepositoryIndexResponse(models=models)

    async def ModelConfig(self, request, context):  # noqa: N802
        return service_pb2.ModelConfigResponse(config=self.configs[request.name])

    async def ModelInfer(self, request, context):  # noqa: N802
        if self.infer:
            await self.infer(request, context)
        self.requests.append(request)
        self.remaining_seconds = context.time_remaining()
        if self.failure:
            await context.abort(self.failure, "secret detail")
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return service_pb2.ModelInferResponse(
            outputs=[
                service_pb2.ModelInferResponse.InferOutputTensor(name=name, datatype=datatype, shape=array.shape)
                for name, (datatype, array) in self.outputs.items()
            ],
            raw_output_contents=[array.tobytes() for _, array in self.outputs.values()],
        )


@pytest.fixture
def triton():
    return FakeTriton()


@contextlib.asynccontextmanager
async def serving(triton, port=0):
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    yield port
    triton.go.set()
    await server.stop(None)


@pytest.fixture
async def endpoint(triton):
    async with serving(triton) as port, Endpoint(f"127.0.0.1:{port}", Metrics()) as endpoint:
        yield endpoint


async def predict(endpoint, seconds=SOON):
    model, version = endpoint.find(None, None)
    height, width = model.input_wh[::-1]
    return await endpoint.predict(model, version, np.zeros((height, width, 3), np.uint8), Deadline.after(seconds))


async def until(condition):
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_prediction_is_asked_for_and_read(endpoint, triton):
    """One image, as the contract has it, to an explicit version."""
    predictions = await predict(endpoint)
    (request,) = triton.requests
    assert (request.model_name, request.model_version) == ("toy", "3")
    assert (request.inputs[0].datatype, list(request.inputs[0].shape)) == ("UINT8", [1, 32, 64, 3])
    assert len(request.raw_input_contents[0]) == 32 * 64 * 3
    assert predictions.boxes.tolist() == np.arange(20).reshape(5, 4).tolist()
    assert predictions.class_ids.tolist() == [0, 1, 1, 0, 1]


def floats(*shape, value=0.0):
    return np.full(shape, value, np.float32)


@pytest.mark.parametrize(
    "name, datatype, array",
    [
        ("boxes", "FP32", floats(0)),
        ("boxes", "FP32", floats(1, 4, 4)),
        ("scores", "FP32", floats(1, 5, value=np.nan)),
        ("boxes", "FP32", floats(1, 5, 4, value=np.inf)),
        ("scores", "FP64", np.zeros((1, 5))),
        ("class_ids", "FP32", floats(1, 5)),
        ("class_ids", "INT32", np.full((1, 5), 2, np.int32)),
        ("class_ids", "INT32", np.full((1, 5), -1, np.int32)),
    ],
    ids=["empty", "short", "not a number", "infinite", "wide", "wrong type", "unknown class", "negative class"],
)
async def test_an_answer_that_breaks_the_contract_is_an_error(endpoint, triton, name, datatype, array):
    """Above all an empty tensor: it is not "no detections"."""
    triton.outputs[name] = (datatype, array)
    with pytest.raises(InvalidPrediction, match="breaks the model contract"):
        await predict(endpoint)


async def test_a_missing_output_is_an_error(endpoint, triton):
    """All three tensors, or nothing."""
    del triton.outputs["scores"]
    with pytest.raises(InvalidPrediction):
        await predict(endpoint)


@pytest.mark.parametrize(
    "status, error",
    [
        (grpc.StatusCode.UNAVAILABLE, TritonUnavailable),
        (grpc.StatusCode.INTERNAL, TritonUnavailable),
        (grpc.StatusCode.INVALID_ARGUMENT, TritonUnavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded),
        (grpc.StatusCode.NOT_FOUND, ModelNotFound),
    ],
)
async def test_tritons_errors_become_ours(endpoint, triton, status, error):
    """In our own words: Triton's go to the log."""
    triton.failure = status
    with pytest.raises(error) as raised:
        await predict(endpoint)
    assert "secret" not in str(raised.value)


async def test_the_deadline_reaches_triton(endpoint, triton):
    """Triton's side knows how long the caller waits, and a late answer is our error."""
    triton.go.clear()
    with pytest.raises(DeadlineExceeded, match="200 ms"):
        await predict(endpoint, seconds=0.2)
    assert 0 < triton.remaining_seconds < 0.25


async def test_cancellation_reaches_triton(endpoint, triton):
    """When the caller leaves, its call on Triton ends."""
    triton.go.clear()
    task = asyncio.create_task(predict(endpoint))
    await until(lambda: triton.requests)
    task.cancel()
    async with asyncio.timeout(SOON):
        await triton.cancelled.wait()


async def test_new_versions_and_models_appear_by_themselves(endpoint, triton):
    """What Triton loads is served within a second, without a restart; what it unloads is gone."""
    triton.configs["other"] = config(('"toy"', '"other"'))
    triton.ready = [("toy", "3"), ("toy", "4"), ("other", "1")]
    await until(lambda: set(endpoint.models) == {"toy", "other"})
    assert endpoint.find("toy", None)[1] == 4
    with pytest.raises(ModelNotFound, match="name one of them: other, toy"):
        endpoint.find(None, None)
    with pytest.raises(ModelNotFound, match="no version 1; served are: 3, 4"):
        endpoint.find("toy", 1)
    triton.ready = []
    await until(lambda: not endpoint.models)
    with pytest.raises(TritonUnavailable):
        endpoint.find(None, None)


async def test_a_model_that_is_no_detector_is_left_alone(endpoint, triton):
    """It is Triton's to serve; the gateway's own models stay unambiguous."""
    triton.configs["other"] = config(('"toy"', '"other"'), ("TYPE_UINT8", "TYPE_FP32"))
    triton.ready = [("toy", "3"), ("other", "1")]
    await until(lambda: endpoint.models["toy"].versions == (3,))
    assert set(endpoint.models) == {"toy"}


async def test_a_restarted_triton_is_read_anew(triton):
    """The same version may have another config after a restart; readiness follows within the probe's interval."""
    async with contextlib.AsyncExitStack() as stack:
        first = contextlib.AsyncExitStack()
        port = await first.enter_async_context(serving(triton))
        metrics = Metrics()
        endpoint = await stack.enter_async_context(Endpoint(f"127.0.0.1:{port}", metrics))
        up = {"endpoint": endpoint.url}
        assert metrics.registry.get_sample_value("eagleeye_triton_endpoint_up", up) == 1

        await first.aclose()
        await until(lambda: not endpoint.models)
        assert metrics.registry.get_sample_value("eagleeye_triton_endpoint_up", up) == 0

        triton.configs["toy"] = config(("0.65", "0.5"))
        await stack.enter_async_context(serving(triton, port))
        await until(lambda: endpoint.models)
        assert endpoint.models["toy"].iou_threshold == 0.5
        assert metrics.registry.get_sample_value("eagleeye_triton_endpoint_up", up) == 1


async def test_an_answer_that_nobody_thought_of_does_not_end_the_watch(endpoint, triton):
    """Versions are numbers; should one not be, nothing is served, and all is well when the next answer is right."""
    triton.ready = [("toy", "latest")]
    await until(lambda: not endpoint.models)
    triton.ready = [("toy", "3")]
    await until(lambda: endpoint.models)


async def test_a_new_config_of_the_same_version_counts(endpoint, triton):
    """Thresholds and labels may be set anew without a new version."""
    triton.configs["toy"] = config(("0.65", "0.5"))
    await until(lambda: endpoint.models["toy"].iou_threshold == 0.5)


async def test_a_version_that_was_just_replaced_does_not_cost_the_others(endpoint, triton):
    """Triton says UNAVAILABLE for it, too; but it is there, and serves all else."""

    async def replaced(_, context):
        await context.abort(grpc.StatusCode.UNAVAILABLE, "unknown model: 'toy' version 3 is not at ready state")

    triton.infer = replaced
    with pytest.raises(TritonUnavailable, match="just been replaced"):
        await predict(endpoint)
    assert endpoint.models
