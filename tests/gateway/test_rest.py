"""The REST face over real HTTP: routes, parameters, and each error as a problem document."""

import asyncio
import inspect

import pytest

from gateway import errors
from gateway.rest.problems import HTTP_STATUS


async def problem(response):
    """The problem document of a response, checked to be one."""
    body = await response.json()
    assert response.content_type == "application/problem+json"
    assert body["status"] == response.status
    assert body["request_id"] == response.headers["X-Request-Id"]
    return response.status, body["code"], body["detail"]


def test_every_error_of_the_core_has_a_status():
    """The table is complete: no error can fall through to 500."""
    concrete = {
        error
        for _, error in inspect.getmembers(errors, inspect.isclass)
        if issubclass(error, errors.GatewayError) and error is not errors.GatewayError
    }
    assert set(HTTP_STATUS) == concrete
    assert len({error.code for error in concrete}) == len(concrete)


@pytest.mark.parametrize("path", ["/v1/detect", "/detect", "/api/detect"])
async def test_detect_answers_with_boxes(rest, png, path):
    """The whole answer, field by field; content type or none makes no difference."""
    response = await rest.post(path, data=png, headers={"Content-Type": "text/nonsense", "X-Request-Id": "mine"})
    body = await response.json()
    assert response.status == 200
    assert set(body.pop("timing_ms")) == {"decode", "preprocess", "infer", "postprocess", "total"}
    assert body == {
        "model": {"name": "toy", "version": "3"},
        "image": {"width": 96, "height": 48},
        "detections": [
            {"label": "cat", "class_id": 0, "score": 0.9, "box": {"x1": 0, "y1": 0, "x2": 48, "y2": 48}},
            {"label": "dog", "class_id": 1, "score": 0.6, "box": {"x1": 48, "y1": 0, "x2": 96, "y2": 48}},
        ],
        "request_id": "mine",
    }
    assert response.headers["Cache-Control"] == "no-store"


async def test_parameters_reach_the_core(rest, png):
    """Each parameter has its effect."""

    async def found(query):
        body = await (await rest.post(f"/v1/detect?{query}", data=png)).json()
        return body["model"]["version"], [detection["label"] for detection in body["detections"]]

    assert await found("") == ("3", ["cat", "dog"])
    assert await found("model=toy&version=1") == ("1", ["cat", "dog"])
    assert await found("score_threshold=0.7") == ("3", ["cat"])
    assert await found("max_detections=1") == ("3", ["cat"])
    assert await found("classes=dog,%200") == ("3", ["cat", "dog"])
    assert await found("classes=dog") == ("3", ["dog"])
    assert await found("iou_threshold=0&timeout_ms=4000") == ("3", ["cat", "dog"])


@pytest.mark.parametrize(
    "query, says",
    [
        ("score_threshold=2", "between 0 and 1"),
        ("score_threshold=nan", "between 0 and 1"),
        ("score_threshold=", "between 0 and 1"),
        ("iou_threshold=-1", "between 0 and 1"),
        ("iou_threshold=high", "between 0 and 1"),
        ("max_detections=0", "between 1 and 1000"),
        ("max_detections=1e3", "whole number"),
        ("max_detections=1_0", "whole number"),
        ("version=0", "whole number from 1"),
        ("version=latest", "whole number from 1"),
        ("timeout_ms=0", "1 to 600000"),
        ("timeout_ms=inf", "1 to 600000"),
        ("classes=", "ids or labels"),
        ("classes=cow", "cat, dog"),
        ("classes=2", "ids 0 to 1"),
        ("model=", "the name of a model"),
        ("agnostic_nms=1", "true or false"),
        ("clip=no", "true or false"),
        ("format=png", "json, jpeg, coco"),
        ("image_id=-1", "whole number"),
        ("treshold=0.5", "allowed are model, version, score_threshold"),
        ("version=1&version=2", "more than once"),
    ],
)
async def test_a_bad_parameter_is_explained(rest, png, query, says):
    """400, with what is allowed."""
    status, code, detail = await problem(await rest.post(f"/v1/detect?{query}", data=png))
    assert (status, code) == (400, "invalid_parameter")
    assert says in detail


@pytest.mark.parametrize(
    "body, status, code",
    [
        (b"", 400, "invalid_image"),
        (b"hello", 415, "unsupported_media_type"),
        (b"\xff\xd8\xff\xe0garbage", 400, "invalid_image"),
        (bytes(100_001), 413, "image_too_large"),
    ],
    ids=["empty", "text", "damaged", "too large"],
)
async def test_a_bad_image_is_explained(rest, body, status, code):
    """The status fits, and the connection still serves the next request."""
    assert (await problem(await rest.post("/v1/detect", data=body)))[:2] == (status, code)
    assert (await rest.get("/healthz")).status == 200


async def test_a_chunked_body_over_the_cap_is_refused_while_it_arrives(rest):
    """An endless upload without a declared length gets its refusal before it ends."""

    async def endless():
        while True:
            yield bytes(10_000)
            await asyncio.sleep(0)

    async with asyncio.timeout(30):
        response = await rest.post("/v1/detect", data=endless())
        assert (await problem(response))[:2] == (413, "image_too_large")


async def test_a_stalled_upload_is_cut_off(rest):
    """A client that declares a body and never sends it does not hold its place for long."""
    reader, writer = await asyncio.open_connection(rest.host, rest.port)
    writer.write(b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
    async with asyncio.timeout(30):
        answer = await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()
    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_an_unknown_model_is_not_found(rest, png):
    """404 for a detection as well as for a look-up."""
    assert (await problem(await rest.post("/v1/detect?model=other", data=png)))[:2] == (404, "model_not_found")
    assert (await problem(await rest.get("/v1/models/other")))[:2] == (404, "model_not_found")


async def test_an_overloaded_gateway_says_when_to_come_back(rest, predictor, png):
    """503 with Retry-After."""
    predictor.error = errors.Overloaded("full", retry_after_seconds=7)
    response = await rest.post("/v1/detect", data=png)
    assert (await problem(response))[:2] == (503, "overloaded")
    assert response.headers["Retry-After"] == "7"


async def test_a_deadline_is_a_gateway_timeout(rest, predictor, png):
    """A prediction that outlives the caller's patience answers 504, and the next request is served as usual."""
    predictor.go.clear()
    assert (await problem(await rest.post("/v1/detect?timeout_ms=50", data=png)))[:2] == (504, "deadline_exceeded")
    predictor.go.set()
    assert (await rest.post("/v1/detect", data=png)).status == 200


async def test_an_unexpected_error_shows_no_internals(rest, predictor, png):
    """500 with the request id, and nothing of the cause."""
    predictor.error = RuntimeError("secret")
    status, code, detail = await problem(await rest.post("/v1/detect", data=png))
    assert (status, code) == (500, "internal")
    assert "secret" not in detail


async def test_a_client_that_leaves_cancels_its_prediction(rest, predictor, png):
    """Nobody waits for the answer, so Triton need not compute it."""
    predictor.go.clear()
    request = asyncio.create_task(rest.post("/v1/detect", data=png))
    while not predictor.tensors:
        await asyncio.sleep(0.005)
    request.cancel()
    async with asyncio.timeout(30):
        while not predictor.cancelled:
            await asyncio.sleep(0.005)


async def test_models_are_described(rest):
    """The list and the look-up tell the same."""
    expected = {
        "name": "toy",
        "versions": ["1", "3"],
        "weights": {"3": 100},
        "shadow": None,
        "state": "ready",
        "input": {"width": 64, "height": 32, "resize": "stretch"},
        "labels": ["cat", "dog"],
        "defaults": {"score_threshold": 0.5, "iou_threshold": 0.7},
        "facts": {"variant": "none"},
    }
    assert await (await rest.get("/v1/models")).json() == {"models": [expected]}
    assert await (await rest.get("/v1/models/toy")).json() == expected


async def test_readiness_follows_triton_and_liveness_does_not(rest, predictor):
    """A gateway without Triton is alive, and not ready."""
    assert [(await rest.get(path)).status for path in ("/healthz", "/readyz")] == [200, 200]
    predictor.models = {}
    assert [(await rest.get(path)).status for path in ("/healthz", "/readyz")] == [200, 503]


async def test_unknown_routes_and_methods_are_problems_too(rest):
    """404 and 405, the latter with Allow."""
    assert (await problem(await rest.get("/nothing")))[:2] == (404, "not_found")
    response = await rest.get("/v1/detect")
    assert (await problem(response))[:2] == (405, "method_not_allowed")
    assert response.headers["Allow"] == "POST"


async def test_metrics_count_what_happened(rest, png):
    """The contract's names, with bounded labels: an unknown model's name does not become one."""
    await rest.post("/v1/detect", data=png)
    await rest.post("/v1/detect?model=other", data=png)
    page = await (await rest.get("/metrics")).text()
    for line in [
        'eagleeye_requests_total{code="ok",face="rest",model="toy"} 1.0',
        'eagleeye_requests_total{code="model_not_found",face="rest",model=""} 1.0',
        'eagleeye_request_seconds_count{face="rest",model="toy"} 1.0',
        'eagleeye_stage_seconds_count{model="toy",stage="decode"} 1.0',
        'eagleeye_stage_seconds_count{model="toy",stage="encode"} 1.0',
        'eagleeye_inflight{model="toy"} 0.0',
        'eagleeye_queued{model="toy"} 0.0',
        'eagleeye_detections_total{label="cat",model="toy"} 1.0',
        "eagleeye_image_bytes_count 1.0",
        "eagleeye_image_pixels_count 1.0",
    ]:
        assert line in page.splitlines()


@pytest.mark.parametrize("given", ["x" * 129, "a\tb", "caf\u00e9"])
async def test_an_unfit_request_id_is_replaced(rest, given):
    """What can't be logged safely is not echoed."""
    response = await rest.get("/healthz", headers={"X-Request-Id": given})
    assert response.headers["X-Request-Id"] != given


@pytest.mark.parametrize("path", ["/v1/models", "/healthz"])
async def test_an_expectation_that_nobody_knows_is_passed_over(rest, path):
    """The answer is ours, with its id, and not a bare 417."""
    response = await rest.get(path, headers={"Expect": "miracles"})
    assert response.status == 200
    assert response.headers["X-Request-Id"]


async def test_the_root_is_the_console(rest):
    """Whoever opens the address in a browser finds something to use."""
    response = await rest.get("/")
    assert (response.status, response.url.path, response.content_type) == (200, "/", "text/html")
