"""Requests that come before any Triton does: both faces hold them, in bounds, and go on when one serves."""

import asyncio

import grpc
import pytest

from gateway.access import Permitted
from gateway.errors import TritonUnavailable
from gateway.hold import Hold
from gateway.model import find
from tests.fakes import MODEL, FakePredictor
from tests.gateway.test_rest_oip import INFER, json_request
from tests.gateway.test_rpc import infer_request, to_parameters, until

MOST = 4
PATIENT = "timeout_ms=30000"


class Absent(FakePredictor):
    """Serves nothing until it comes, and may leave with its next request."""

    def __init__(self):
        super().__init__()
        self.models = {}
        self.is_leaving = False

    def find(self, name, version):
        return find(self.models, name, version)

    def come(self):
        self.models = {MODEL.name: MODEL}

    async def predict(self, *request, **options):
        if self.is_leaving:
            self.models, self.is_leaving = {}, False
            raise TritonUnavailable("it has been scaled away")
        return await super().predict(*request, **options)


@pytest.fixture
def predictor():
    return Absent()


@pytest.fixture
def hold(predictor, metrics):
    return Hold(predictor, MOST, metrics)


@pytest.fixture
def held(metrics):
    """How many images wait without a model, as an autoscaler sees it."""
    return lambda: metrics.registry.get_sample_value("eagleeye_queued", {"model": ""}) or 0


async def answer(sent):
    response = await sent
    return response.status, await response.json()


def code(answered):
    status, content = answered
    return status, content.get("code")


@pytest.fixture
async def asked(rest, predictor, held):
    """Sends a request that is held, and tells what it has become when a Triton is there."""
    tasks = []

    async def asked(path, images=1, **body):
        before = held()
        tasks.append(asyncio.create_task(answer(rest.post(path, **body))))
        await until(lambda: held() == before + images)
        predictor.come()
        return await tasks[-1]

    yield asked
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_an_image_is_answered_when_a_triton_has_come(asked, held, png):
    """By the model that serves then; log and metrics know its name."""
    status, content = await asked(f"/v1/detect?{PATIENT}", data=png)
    assert (status, content["model"]) == (200, {"name": "toy", "version": "3"})
    assert held() == 0


async def test_images_of_a_list_count_each(asked):
    """What waits is counted in images, as it is in front of a model."""
    status, content = await asked("/v1/detect", images=2, json={"images": ["AAAA"] * 2, "timeout_ms": 30000})
    assert (status, [each["error"]["code"] for each in content["results"]]) == (200, ["unsupported_media_type"] * 2)


@pytest.mark.parametrize(
    "query, status, problem",
    [
        ("classes=unicorn", 400, "invalid_parameter"),
        ("model=other", 404, "model_not_found"),
        ("version=9", 404, "model_not_found"),
    ],
)
async def test_what_a_request_asks_for_is_looked_at_when_there_is_a_model(asked, png, query, status, problem):
    """Its error is the request's own, as it would have been at once."""
    assert code(await asked(f"/v1/detect?{PATIENT}&{query}", data=png)) == (status, problem)


async def test_the_open_inference_protocol_is_held_too(asked, png):
    """Over REST."""
    status, content = await asked(INFER, json=json_request(png, parameters={"timeout_ms": 30000}))
    assert (status, content["model_name"], content["model_version"]) == (200, "toy", "3")


async def test_a_call_over_grpc_is_held(rpc, predictor, held, png):
    """Until its answer is there."""
    call = rpc.ModelInfer(infer_request(png), timeout=30)
    await until(lambda: held() == 1)
    predictor.come()
    assert (await call).model_version == "3"


async def test_frames_of_a_stream_are_held(rpc, predictor, held, png):
    """Each is answered in its turn."""
    call = rpc.ModelStreamInfer()
    for number in range(3):
        await call.write(infer_request(png, id=str(number), parameters=to_parameters(timeout_ms=30000)))
    await until(lambda: held() == 3)
    predictor.come()
    await call.done_writing()
    assert [each.infer_response.id async for each in call] == ["0", "1", "2"]
    assert held() == 0


async def test_a_deadline_ends_the_wait(rest, rpc, held, png):
    """On both faces, with words that say what was waited for and when to come again."""
    response = await rest.post("/v1/detect?timeout_ms=50", data=png)
    problem = await response.json()
    assert (response.status, problem["code"], response.headers["Retry-After"]) == (503, "triton_unavailable", "1")
    assert "no Triton has come to serve a detector within the 50 ms" in problem["detail"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rpc.ModelInfer(infer_request(png, parameters=to_parameters(timeout_ms=50)))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert dict(caught.value.trailing_metadata())["retry-after"] == "1"
    assert held() == 0


async def test_who_leaves_frees_the_place(rest, rpc, held, png):
    """A cancelled call over either face is not held any longer."""
    call = rpc.ModelInfer(infer_request(png), timeout=30)
    request = asyncio.create_task(rest.post(f"/v1/detect?{PATIENT}", data=png))
    await until(lambda: held() == 2)
    call.cancel()
    request.cancel()
    await until(lambda: held() == 0)


async def test_more_than_may_be_held_is_refused_at_once(rest, rpc, predictor, metrics, held, png):
    """Before its upload, and with a time to come again; those before it are answered all the same."""
    waiting = [asyncio.create_task(answer(rest.post(f"/v1/detect?{PATIENT}", data=png))) for _ in range(MOST)]
    await until(lambda: held() == MOST)
    for path, body in (("/v1/detect", {"data": png}), (INFER, {"json": json_request(png)})):
        response = await rest.post(path, **body)
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
        assert "4 of the 4 images that may wait" in (await response.json())["detail"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rpc.ModelInfer(infer_request(png))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert metrics.registry.get_sample_value("eagleeye_shed_total", {"model": "", "reason": "hold"}) == 3
    predictor.come()
    assert [status for status, _ in await asyncio.gather(*waiting)] == [200] * MOST


async def test_a_request_whose_triton_leaves_is_held_again(rest, predictor, held, png):
    """It was let in, and the last Triton was scaled away."""
    predictor.is_leaving = True
    predictor.come()
    request = asyncio.create_task(answer(rest.post(f"/v1/detect?{PATIENT}", data=png)))
    await until(lambda: held() == 1)
    predictor.come()
    assert (await request)[0] == 200


async def test_a_caller_who_may_use_no_model_is_not_held(predictor, metrics):
    """What is served counts, and not what this caller may see of it."""
    predictor.come()
    assert Permitted(predictor).models == {}
    assert not Hold(predictor, MOST, metrics).is_due


async def test_a_gateway_that_stops_answers_what_it_holds(rest, rpc, hold, held, png):
    """At once, so that its callers ask another one; and it holds nothing more, also not in streams."""
    waiting = asyncio.create_task(answer(rest.post(f"/v1/detect?{PATIENT}", data=png)))
    stream = rpc.ModelStreamInfer()
    await stream.write(infer_request(png, parameters=to_parameters(timeout_ms=30000)))
    await until(lambda: held() == 2)

    hold.stop()

    for status, problem in (await waiting, await answer(rest.post(f"/v1/detect?{PATIENT}", data=png))):
        assert (status, problem["code"]) == (503, "triton_unavailable")
        assert "this gateway is stopping" in problem["detail"]
    assert "this gateway is stopping" in (await stream.read()).error_message
    assert held() == 0


async def test_by_default_nothing_is_held(predictor, metrics):
    """The request is refused as soon as it comes."""
    hold = Hold(predictor, 0, metrics)
    assert (hold.is_enabled, hold.is_due) == (False, False)
