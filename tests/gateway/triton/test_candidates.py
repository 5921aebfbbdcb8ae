"""Inference for a candidate in the shadow: asked once, and whatever comes of it costs nobody else anything."""

import asyncio

import grpc
import numpy as np
import pytest

from gateway.deadline import Deadline
from gateway.errors import DeadlineExceeded, InvalidPrediction, ModelNotFound, TritonUnavailable
from gateway.metrics import Metrics
from gateway.triton.discovery import FixedAddresses
from gateway.triton.fleet import Fleet
from gateway.triton.health import State
from tests.gateway.triton.fake_triton import SOON, FakeTriton, serving, until


@pytest.fixture
def triton():
    return FakeTriton()


@pytest.fixture
async def fleet(triton):
    async with (
        serving(triton) as port,
        Fleet(FixedAddresses(frozenset({f"127.0.0.1:{port}"})), Metrics()) as fleet,
    ):
        yield fleet


def endpoint(fleet):
    (only,) = fleet._endpoints.values()
    return only


async def predict_once(fleet, version=1, seconds=SOON):
    model, _ = fleet.find("toy", None)
    tensor = np.zeros((*model.input_wh[::-1], 3), np.uint8)
    return await fleet.predict_once(model, version, tensor, Deadline.after(seconds))


async def test_the_version_that_is_named_is_asked(fleet, triton):
    """Whatever the default is; nothing is paid into the budget of retries, or taken out."""
    before = fleet.describe()["retry_budget"]
    predictions = await predict_once(fleet)
    assert [request.model_version for request in triton.requests] == ["1"]
    assert len(predictions.scores) == 5
    assert fleet.describe()["retry_budget"] == before


@pytest.mark.parametrize("failure", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE])
async def test_failures_are_no_fault_of_the_triton(fleet, triton, failure):
    """Three errors in a row would eject it, were they a caller's. None is repeated, and Triton's words are not told."""
    triton.failure = failure
    for _ in range(5):
        with pytest.raises(TritonUnavailable, match=r"^Triton could not run toy"):
            await predict_once(fleet)
    assert len(triton.requests) == 5
    assert endpoint(fleet).health.state in {State.WARMING, State.SERVING}


async def test_a_candidate_that_hangs_is_no_stall(fleet, triton):
    """Nor does it count as work, which would keep callers' requests away."""
    triton.go.clear()
    call = asyncio.create_task(predict_once(fleet))
    await until(lambda: triton.requests)
    assert endpoint(fleet).outstanding == 0
    call.cancel()
    await triton.cancelled.wait()
    with pytest.raises(DeadlineExceeded):
        await predict_once(fleet, seconds=0.05)


async def test_a_broken_answer_is_told_apart(fleet, triton):
    """As any answer, it is checked."""
    triton.outputs["scores"] = ("FP32", np.zeros((1, 4), np.float32))
    with pytest.raises(InvalidPrediction):
        await predict_once(fleet)


async def test_a_version_that_nobody_has_is_not_waited_for(fleet, triton):
    """Nor one behind another interface, which the tensor would not fit."""
    with pytest.raises(ModelNotFound, match="no Triton serves version 2 of toy"):
        await predict_once(fleet, version=2)
    assert triton.requests == []


async def test_a_triton_that_is_taken_away_fails_the_call(triton):
    """A closed channel cancels what is under way, which is no cancellation of ours."""
    async with serving(triton) as port:
        async with Fleet(FixedAddresses(frozenset({f"127.0.0.1:{port}"})), Metrics()) as fleet:
            triton.go.clear()
            call = asyncio.create_task(predict_once(fleet))
            await until(lambda: triton.requests)
        with pytest.raises(TritonUnavailable):
            await call
