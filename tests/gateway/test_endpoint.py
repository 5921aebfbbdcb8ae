"""The Triton endpoint against a real gRPC server that can be told to misbehave in ways a real Triton seldom does."""

import asyncio
import contextlib
import gc
import sys

import grpc
import numpy as np
import pytest

from gateway.deadline import Deadline
from gateway.errors import DeadlineExceeded, InvalidPrediction, ModelNotFound, Overloaded, TritonUnavailable
from gateway.metrics import Metrics
from gateway.model import find
from gateway.triton.endpoint import Endpoint
from gateway.triton.failure import CallFailed
from gateway.triton.messages import Question
from tests.gateway.test_contract import config
from tests.gateway.triton.fake_triton import SOON, FakeTriton, serving, until
from tests.platform.conftest import free_ports


@pytest.fixture
def triton():
    return FakeTriton()


@pytest.fixture
async def endpoint(triton):
    async with serving(triton) as port, Endpoint(f"127.0.0.1:{port}", Metrics()) as endpoint:
        yield endpoint


async def predict(endpoint, seconds=SOON):
    """One inference; what the caller would be told if it fails."""
    model, version = find(endpoint.models, None, None)
    height, width = model.input_wh[::-1]
    question = Question(model, version, np.zeros((height, width, 3), np.uint8))
    try:
        return await endpoint.infer(question, Deadline.after(seconds))
    except CallFailed as failure:
        raise failure.error from failure


async def test_a_prediction_is_asked_for_and_read(endpoint, triton):
    """One image, as the contract has it, to an explicit version."""
    predictions = await predict(endpoint)
    (request,) = triton.requests
    assert (request.model_name, request.model_version) == ("toy", "3")
    assert (request.inputs[0].datatype, list(request.inputs[0].shape)) == ("UINT8", [1, 32, 64, 3])
    assert len(request.raw_input_contents[0]) == 32 * 64 * 3
    assert predictions.boxes.tolist() == np.arange(20).reshape(5, 4).tolist()
    assert predictions.class_ids.tolist() == [0, 1, 1, 0, 1]


async def test_what_was_sent_is_free_at_once(endpoint):
    """Half a megabyte each would pile up if it waited for a garbage collection, as with gRPC 1.83."""
    model, version = find(endpoint.models, None, None)
    question = Question(model, version, np.zeros((*model.input_wh[::-1], 3), np.uint8))
    message = question.message()
    holders = sys.getrefcount(message)
    gc.disable()
    try:
        await endpoint.infer(question, Deadline.after(SOON))
        await endpoint.infer_once(message, model, Deadline.after(SOON))
        await asyncio.sleep(0)
        assert sys.getrefcount(message) == holders
    finally:
        gc.enable()


def floats(*shape, value=0.0):
    return np.full(shape, value, np.float32)


@pytest.mark.parametrize(
    "name, datatype, array",
    [
        ("boxes", "FP32", floats(0)),
        ("boxes", "FP32", floats(1, 4, 4)),
        ("scores", "FP32", floats(1, 5, value=np.nan)),
        ("scores", "FP32", floats(1, 5, value=1.5)),
        ("scores", "FP32", floats(1, 5, value=-0.5)),
        ("boxes", "FP32", floats(1, 5, 4, value=np.inf)),
        ("scores", "FP64", np.zeros((1, 5))),
        ("class_ids", "FP32", floats(1, 5)),
        ("class_ids", "INT32", np.full((1, 5), 2, np.int32)),
        ("class_ids", "INT32", np.full((1, 5), -1, np.int32)),
    ],
    ids=[
        "empty",
        "short",
        "not a number",
        "above one",
        "below zero",
        "infinite",
        "wide",
        "wrong type",
        "unknown class",
        "negative class",
    ],
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
    seconds = 0.1
    while not triton.requests:  # time may be over before it is asked
        seconds *= 2
        with pytest.raises(DeadlineExceeded, match=f"{seconds * 1e3:.0f} ms"):
            await predict(endpoint, seconds=seconds)
    assert 0 < triton.remaining_seconds < seconds + 0.05


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
    assert find(endpoint.models, "toy", None)[1] == 4
    with pytest.raises(ModelNotFound, match="name one of them: other, toy"):
        find(endpoint.models, None, None)
    with pytest.raises(ModelNotFound, match="no version 1; served are: 3, 4"):
        find(endpoint.models, "toy", 1)
    triton.ready = []
    await until(lambda: not endpoint.models)
    with pytest.raises(TritonUnavailable):
        find(endpoint.models, None, None)


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
        port = await first.enter_async_context(serving(triton, *free_ports(1)))  # still free when it comes back
        metrics = Metrics()
        endpoint = await stack.enter_async_context(Endpoint(f"127.0.0.1:{port}", metrics))
        up = {"endpoint": endpoint.address}
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


async def test_a_proxy_for_the_world_outside_is_not_asked_for_triton(triton, monkeypatch):
    """Clusters set one for all pods; a pod's address is none of its business."""
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with serving(triton) as port, Endpoint(f"127.0.0.1:{port}", Metrics()) as endpoint:
        assert endpoint.models
