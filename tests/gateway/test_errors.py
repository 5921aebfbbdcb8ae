"""One table of errors on two faces: each error of the core, as a caller of either gets it from a real server."""

import inspect

import grpc
import pytest

from gateway import errors
from gateway.rest.problems import HTTP_STATUS
from gateway.rpc import GRPC_STATUS
from tests.gateway.test_rest_oip import INFER, json_request
from tests.gateway.test_rpc import infer_request

EXPECTED = {
    "invalid_image": (400, "INVALID_ARGUMENT"),
    "invalid_parameter": (400, "INVALID_ARGUMENT"),
    "unauthorized": (401, "UNAUTHENTICATED"),
    "model_not_found": (404, "NOT_FOUND"),
    "image_too_large": (413, "INVALID_ARGUMENT"),
    "unsupported_media_type": (415, "INVALID_ARGUMENT"),
    "rate_limited": (429, "RESOURCE_EXHAUSTED"),
    "invalid_prediction": (502, "INTERNAL"),
    "overloaded": (503, "RESOURCE_EXHAUSTED"),
    "triton_unavailable": (503, "UNAVAILABLE"),
    "deadline_exceeded": (504, "DEADLINE_EXCEEDED"),
}
RETRY_AFTER_SECONDS = {"rate_limited": "7", "overloaded": "7", "triton_unavailable": "1"}


def concrete_errors():
    classes = (each for _, each in inspect.getmembers(errors, inspect.isclass))
    return [each for each in classes if issubclass(each, errors.GatewayError) and each is not errors.GatewayError]


def an_error(kind):
    """One of a kind; what takes seconds to wait gets 7."""
    return kind("what was wrong", 7) if kind in {errors.Overloaded, errors.RateLimited} else kind("what was wrong")


def test_every_error_has_its_place_in_both_tables():
    """None can fall through to 500 or INTERNAL, no table has one that is not there, and no code stands for two."""
    kinds = concrete_errors()
    assert set(HTTP_STATUS) == set(GRPC_STATUS) == set(kinds)
    assert sorted(kind.code for kind in kinds) == sorted(EXPECTED)


@pytest.mark.parametrize("kind", concrete_errors())
async def test_both_faces_answer_alike(rest, rpc, predictor, png, kind):
    """The same code, text and time to wait; a status that fits; and the next request is served as usual."""
    predictor.error = an_error(kind)
    http_status, grpc_status = EXPECTED[kind.code]
    wait = RETRY_AFTER_SECONDS.get(kind.code)

    for response in (await rest.post("/v1/detect", data=png), await rest.post(INFER, json=json_request(png))):
        problem = await response.json()
        assert (response.status, problem["status"], problem["code"]) == (http_status, http_status, kind.code)
        assert "what was wrong" in problem["detail"]
        assert response.headers.get("Retry-After") == wait

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rpc.ModelInfer(infer_request(png, id="mine"))
    assert (caught.value.code().name, caught.value.details()) == (grpc_status, problem["detail"])
    trailing = dict(caught.value.trailing_metadata())
    assert (trailing["eagleeye-code"], trailing["x-request-id"]) == (kind.code, "mine")
    assert trailing.get("retry-after") == wait

    predictor.error = None
    assert (await rest.post("/v1/detect", data=png)).status == 200
    assert (await rpc.ModelInfer(infer_request(png))).outputs
