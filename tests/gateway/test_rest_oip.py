"""The Open Inference Protocol over real HTTP: each route, both forms of tensors, and each refusal."""

import asyncio
import base64
import gzip
import importlib.metadata
import json
import struct
import zlib

import numpy as np
import pytest
from structlog.testing import capture_logs
from tritonclient.utils import deserialize_bytes_tensor

from gateway import errors
from gateway.batch import MAX_IMAGES
from tests.gateway.conftest import LIMITS, MAX_INFLIGHT

INFER = "/v2/models/toy/infer"
JSON_LENGTH = "Inference-Header-Content-Length"
DTYPES = {"INT32": np.int32, "FP32": np.float32}
ALL_OUTPUTS = [
    {"name": "num_detections", "datatype": "INT32", "shape": [1], "data": [2]},
    {"name": "boxes", "datatype": "FP32", "shape": [2, 4], "data": [0, 0, 48, 48, 48, 0, 96, 48]},
    {"name": "scores", "datatype": "FP32", "shape": [2], "data": [0.9, 0.6]},
    {"name": "class_ids", "datatype": "INT32", "shape": [2], "data": [0, 1]},
    {"name": "labels", "datatype": "BYTES", "shape": [2], "data": ["cat", "dog"]},
]


def to_base64(image):
    return base64.b64encode(image).decode()


def to_raw(*images):
    return b"".join(struct.pack("<I", len(image)) + image for image in images)


def json_request(*images, **changes):
    """A request for all outputs of `images` as JSON, then changed field by field."""
    tensor = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [len(images)],
        "data": [to_base64(image) for image in images],
    }
    return {"inputs": [tensor], **changes}


def image_input(**changes):
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], **changes}]}


def binary_request(*images, **changes):
    """Body and headers of the same request with binary data."""
    raw = to_raw(*images)
    tensor = image_input(shape=[len(images)], parameters={"binary_data_size": len(raw)})
    head = json.dumps({**tensor, **changes}).encode()
    return {"data": head + raw, "headers": {JSON_LENGTH: str(len(head))}}


async def answer(response):
    """The JSON of an answer, binary data put back in their place, checked to have the shape they claim."""
    assert response.status == 200, await response.text()
    body = await response.read()
    length = int(response.headers.get(JSON_LENGTH, len(body)))
    assert response.content_type == (
        "application/octet-stream" if JSON_LENGTH in response.headers else "application/json"
    )
    message, start = json.loads(body[:length]), length
    for output in message["outputs"]:
        if "parameters" in output:
            end = start + output.pop("parameters")["binary_data_size"]
            output["data"] = to_list(body[start:end], output["datatype"])
            start = end
        assert len(output["data"]) == np.prod(output["shape"])
    assert start == len(body)
    return message


def to_list(raw, datatype):
    if datatype == "BYTES":
        return [text.decode() for text in deserialize_bytes_tensor(raw)]
    return np.frombuffer(raw, DTYPES[datatype]).astype(object).tolist()


def names_and_labels(message):
    labels = [output["data"] for output in message["outputs"] if output["name"] == "labels"]
    return message["model_version"], *labels


async def refusal(response):
    """Status, code and text of a problem document, which clients of the protocol find in `error`."""
    body = await response.json()
    assert response.content_type == "application/problem+json"
    assert body["error"] == body["detail"]
    return response.status, body["code"], body["detail"]


async def test_infer_answers_with_json(rest, png):
    """The whole answer: flat lists, the newest version, and the request's own id."""
    response = await rest.post(INFER, json=json_request(png, id="mine"))
    expected = {"model_name": "toy", "model_version": "3", "id": "mine", "outputs": ALL_OUTPUTS}
    assert await answer(response) == expected


async def test_infer_takes_binary_data(rest, png):
    """The same answer as for JSON, without an id if none was given."""
    response = await rest.post(INFER, **binary_request(png))
    assert await answer(response) == {"model_name": "toy", "model_version": "3", "outputs": ALL_OUTPUTS}


async def test_infer_answers_with_binary_data(rest, png):
    """Every output, as the request's parameter says; numbers are as exact as in JSON."""
    response = await rest.post(INFER, **binary_request(png, parameters={"binary_data_output": True}))
    outputs = (await answer(response))["outputs"]
    scores = next(output for output in outputs if output["name"] == "scores")
    scores["data"] = [float(str(np.float32(score))) for score in scores["data"]]
    assert outputs == ALL_OUTPUTS
    assert JSON_LENGTH in response.headers


async def test_a_body_may_be_the_image_itself(rest, png):
    """A JSON of length 0 stands for defaults, and for one image without the length before it."""
    response = await rest.post(INFER, data=png, headers={JSON_LENGTH: "0"})
    assert (await answer(response))["outputs"] == ALL_OUTPUTS


async def test_only_requested_outputs_are_sent(rest, png):
    """In the order of the request, and each in its own form."""
    outputs = [
        {"name": "scores", "parameters": {"binary_data": True}},
        {"name": "class_ids"},
        {"name": "labels", "parameters": {"binary_data": False}},
    ]
    response = await rest.post(INFER, json=json_request(png, outputs=outputs))
    body = await response.read()
    message = json.loads(body[: int(response.headers[JSON_LENGTH])])
    assert [(output["name"], output.get("parameters"), output.get("data")) for output in message["outputs"]] == [
        ("scores", {"binary_data_size": 8}, None),
        ("class_ids", None, [0, 1]),
        ("labels", None, ["cat", "dog"]),
    ]
    assert body.endswith(np.array([0.9, 0.6], np.float32).tobytes())


async def test_an_output_overrides_the_request(rest, png):
    """`binary_data_output` is for the outputs that do not say."""
    outputs = [{"name": "scores"}, {"name": "class_ids", "parameters": {"binary_data": False}}]
    request = json_request(png, outputs=outputs, parameters={"binary_data_output": True})
    response = await rest.post(INFER, json=request)
    message = json.loads((await response.read())[: int(response.headers[JSON_LENGTH])])
    assert ["data" in output for output in message["outputs"]] == [False, True]


@pytest.mark.parametrize("is_binary", [False, True])
async def test_sizes_of_images_are_sent_when_asked_for(rest, png, is_binary):
    """Width and height of each, and only by name, in both forms."""
    request = json_request(png, png, outputs=[{"name": "image_wh", "parameters": {"binary_data": is_binary}}])
    (output,) = (await answer(await rest.post(INFER, json=request)))["outputs"]
    assert output == {"name": "image_wh", "datatype": "INT32", "shape": [2, 2], "data": [96, 48, 96, 48]}


async def test_tritons_own_parameter_sets_a_deadline(rest, predictor, png):
    """In microseconds; the nearer one holds if there are several."""
    predictor.go.clear()
    parameters = {"timeout": 50_000, "timeout_ms": 4000}
    status, code, detail = await refusal(await rest.post(INFER, json=json_request(png, parameters=parameters)))
    assert (status, code) == (504, "deadline_exceeded")
    assert " 50 ms" in detail


@pytest.mark.parametrize("is_binary", [False, True])
async def test_nothing_found_is_empty_tensors(rest, png, is_binary):
    """Shapes with a zero, in both forms."""
    parameters = {"score_threshold": 0.95, "binary_data_output": is_binary}
    message = await answer(await rest.post(INFER, json=json_request(png, parameters=parameters)))
    assert [(output["shape"], output["data"]) for output in message["outputs"]] == [
        ([1], [0]),
        ([0, 4], []),
        ([0], []),
        ([0], []),
        ([0], []),
    ]


@pytest.mark.parametrize("to_request", [lambda *images: {"json": json_request(*images)}, binary_request])
async def test_several_images_answer_in_a_row(rest, predictor, png, to_request):
    """All are in work at the same time, and `num_detections` tells them apart."""
    predictor.go.clear()
    request = asyncio.create_task(rest.post(INFER, **to_request(*[png] * MAX_INFLIGHT)))
    async with asyncio.timeout(30):
        while len(predictor.tensors) < MAX_INFLIGHT:
            await asyncio.sleep(0.005)
    predictor.go.set()
    found = {output["name"]: output for output in (await answer(await request))["outputs"]}
    assert found["num_detections"]["data"] == [2] * MAX_INFLIGHT
    assert found["labels"]["data"] == ["cat", "dog"] * MAX_INFLIGHT
    assert found["boxes"]["shape"] == [2 * MAX_INFLIGHT, 4]


@pytest.mark.parametrize(
    "path, parameters, expected",
    [
        (INFER, None, ("3", ["cat", "dog"])),
        ("/v2/models/toy/versions/1/infer", {}, ("1", ["cat", "dog"])),
        (INFER, {"score_threshold": 0.7}, ("3", ["cat"])),
        (INFER, {"max_detections": 1}, ("3", ["cat"])),
        (INFER, {"classes": "dog"}, ("3", ["dog"])),
        (INFER, {"classes": ["dog", 0], "agnostic_nms": True, "clip": False}, ("3", ["cat", "dog"])),
        (INFER, {"iou_threshold": 0, "timeout_ms": 4000.0}, ("3", ["cat", "dog"])),
        (INFER, {"timeout": 4_000_000}, ("3", ["cat", "dog"])),
        (INFER, {"timeout": 0}, ("3", ["cat", "dog"])),
        (INFER, {"sequence_id": 7, "sequence_start": True, "sequence_end": False}, ("3", ["cat", "dog"])),
        (INFER, {"sequence_id": "camera-7"}, ("3", ["cat", "dog"])),
    ],
)
async def test_parameters_reach_the_core(rest, png, path, parameters, expected):
    """Each has its effect; null counts as left out."""
    message = await answer(await rest.post(path, json=json_request(png, parameters=parameters)))
    assert names_and_labels(message) == expected


async def test_unknown_fields_are_let_be(rest, png):
    """Clients of Triton and KServe send some, such as the model's name."""
    request = json_request(png, model_name="toy", outputs=None)
    request["inputs"][0]["parameters"] = {"content_type": "base64"}
    assert (await rest.post(INFER, json=request)).status == 200


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"parameters": {"score_threshold": 2}}, "between 0 and 1"),
        ({"parameters": {"score_threshold": True}}, "between 0 and 1"),
        ({"parameters": {"score_threshold": None}}, "score_threshold must be a number, not null"),
        ({"parameters": {"score_threshold": "0.7"}}, "score_threshold must be a number, not a text"),
        ({"parameters": {"classes": "a" * 20_000}}, "classes has more than 10,000 characters"),
        ({"parameters": {"max_detections": 1.5}}, "whole number"),
        ({"parameters": {"timeout": 0.5}}, "a whole number of microseconds, or 0 for none"),
        ({"parameters": {"timeout": "9"}}, "timeout must be a whole number, not a text"),
        ({"parameters": {"treshold": 0.5}}, "allowed are score_threshold, iou_threshold"),
        ({"parameters": {"model": "toy"}}, "allowed are score_threshold, iou_threshold"),
        ({"parameters": {"binary_data_output": "yes"}}, "binary_data_output must be true or false"),
        ({"parameters": []}, "parameters must be an object"),
        ({"id": 7}, "id must be a text"),
        ({"outputs": {}}, "outputs must be a list"),
        ({"outputs": ["boxes"]}, "each of outputs must be an object"),
        ({"outputs": [{}]}, "allowed are num_detections, boxes"),
        ({"outputs": [{"name": "masks"}]}, "allowed are num_detections, boxes"),
        ({"outputs": [{"name": "boxes"}, {"name": "boxes"}]}, "more than once"),
        ({"outputs": [{"name": "boxes", "parameters": {"classification": 3}}]}, "allowed are binary_data"),
        ({"outputs": [{"name": "boxes", "parameters": {"binary_data": 1}}]}, "binary_data must be true or false"),
        ({"inputs": None}, "exactly one input, 'image'"),
        ({"inputs": []}, "exactly one input, 'image'"),
        ({"inputs": ["image"]}, "each of inputs must be an object"),
        ({"inputs": [{"name": 1}]}, "name must be a text"),
        (image_input(name="images"), "exactly one input, 'image'"),
        ({"inputs": image_input()["inputs"] * 2}, "exactly one input, 'image'"),
        (image_input(datatype="UINT8", shape=[1, 640, 640, 3]), "must be BYTES [N]"),
        (image_input(datatype=None), "must be BYTES [N]"),
        (image_input(shape=None), "must be BYTES [N]"),
        (image_input(shape=[1, 1]), "must be BYTES [N]"),
        (image_input(shape=[0]), f"N from 1 to {MAX_IMAGES}"),
        (image_input(shape=[-1]), f"N from 1 to {MAX_IMAGES}"),
        (image_input(shape=[MAX_IMAGES + 1]), f"N from 1 to {MAX_IMAGES}"),
        (image_input(shape=["1"]), "each of shape must be a whole number"),
        (image_input(shape=[True]), "each of shape must be a whole number"),
        (image_input(shape=1), "shape must be a list"),
        (image_input(parameters={"shared_memory_region": "mine"}), "allowed are binary_data_size, content_type"),
        (image_input(parameters={"content_type": "str"}), "content_type must be 'base64'"),
        (image_input(parameters={"binary_data_size": "9"}), "binary_data_size must be a whole number"),
        (image_input(parameters={"binary_data_size": 9}), "binary_data_size 9, and 0 bytes follow the JSON"),
        (image_input(), "has 0 elements in data"),
        (image_input(data=["", ""]), "has 2 elements in data, and 0 bytes follow the JSON; send 1"),
        (image_input(data="AAAA"), "data must be a list"),
        (image_input(data=[[1, 2]]), "element 0 of 'image' is not base64"),
        (image_input(data=["no base64!"]), "element 0 of 'image' is not base64"),
        (image_input(data=["AAA"]), "element 0 of 'image' is not base64"),
        (image_input(data=["\u4e2d"]), "element 0 of 'image' is not base64"),
    ],
)
async def test_a_bad_request_is_explained(rest, png, changes, says):
    """400, with what is allowed."""
    status, code, detail = await refusal(await rest.post(INFER, json=json_request(png, **changes)))
    assert (status, code) == (400, "invalid_parameter")
    assert says in detail


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b"{}{}", b'{"id": NaN}', b"[" * 100_000, b'{"id": "\\ud800"}', b"[" + b"0," * 20_000],
    ids=["empty", "cut", "no text", "two", "NaN", "deep", "half a character", "many values"],
)
async def test_what_is_not_json_is_explained(rest, body):
    """400, and how to send binary data."""
    status, code, detail = await refusal(await rest.post(INFER, data=body))
    assert (status, code) == (400, "invalid_parameter")
    assert "JSON" in detail.split(";")[0]
    assert f"; if binary data follow the JSON, {JSON_LENGTH} must be" in detail


async def test_json_must_be_an_object(rest):
    """A list has no fields."""
    assert (await refusal(await rest.post(INFER, data=b"[]")))[2] == "the request must be an object"


@pytest.mark.parametrize("length", ["", "-1", "1.0", "1e1", "10_0", "\u0663", "1000000", "9" * 5000])
async def test_a_bad_header_length_is_explained(rest, png, length):
    """400, with the range that this body allows."""
    request = binary_request(png)
    total = len(request["data"])
    status, _, detail = await refusal(await rest.post(INFER, data=request["data"], headers={JSON_LENGTH: length}))
    assert status == 400
    assert f"it must be a whole number from 0 to {total}, the length of the body" in detail


@pytest.mark.parametrize("shift", [-1, 1])
async def test_a_header_length_that_misses_the_end_of_the_json(rest, png, shift):
    """Is told from the JSON, which does not end there."""
    request = binary_request(png)
    length = int(request["headers"][JSON_LENGTH]) + shift
    status, _, detail = await refusal(await rest.post(INFER, data=request["data"], headers={JSON_LENGTH: str(length)}))
    assert status == 400
    assert "must be the JSON's length" in detail


@pytest.mark.parametrize(
    "raw, size, says",
    [
        (b"", 5, "binary_data_size 5, and 0 bytes follow the JSON"),
        (to_raw(b"one")[:-1], 7, "binary_data_size 7, and 6 bytes follow the JSON"),
        (to_raw(b"one") + b"more", 7, "binary_data_size 7, and 11 bytes follow the JSON"),
        (to_raw(b"one"), -7, "binary_data_size -7, and 7 bytes follow the JSON"),
        (to_raw(b"one")[:-1], 6, "a length of 4 bytes"),
        (b"", 0, "a length of 4 bytes"),
        (b"\1\0", 2, "a length of 4 bytes"),
        (b"\xff\xff\xff\xffone", 7, "a length of 4 bytes"),
        (to_raw(b"one", b"two"), 14, "a length of 4 bytes"),
        (to_raw(b"one"), None, "7 bytes follow the JSON; send 1 elements"),
    ],
    ids=["missing", "cut", "more", "negative", "cut element", "nothing", "cut length", "huge", "two", "unclaimed"],
)
async def test_bad_binary_data_are_explained(rest, raw, size, says):
    """400, with what is allowed."""
    options = {} if size is None else {"binary_data_size": size}
    head = json.dumps(image_input(parameters=options)).encode()
    status, code, detail = await refusal(await rest.post(INFER, data=head + raw, headers={JSON_LENGTH: str(len(head))}))
    assert (status, code) == (400, "invalid_parameter")
    assert says in detail


async def test_data_come_once(rest, png):
    """In the JSON or after it, not both."""
    raw = to_raw(png)
    tensor = image_input(data=[to_base64(png)], parameters={"binary_data_size": len(raw)})
    head = json.dumps(tensor).encode()
    response = await rest.post(INFER, data=head + raw, headers={JSON_LENGTH: str(len(head))})
    assert "then there must be no data" in (await refusal(response))[2]


@pytest.mark.parametrize(
    "image, status, code",
    [
        (b"", 400, "invalid_image"),
        (b"hello", 415, "unsupported_media_type"),
        (b"\xff\xd8\xff\xe0garbage", 400, "invalid_image"),
    ],
    ids=["empty", "text", "damaged"],
)
async def test_one_bad_image_of_several_is_named(rest, png, image, status, code):
    """The request fails with that image's error, and says which it is; a single one needs no number."""
    found = await refusal(await rest.post(INFER, **binary_request(png, image, png)))
    assert found[:2] == (status, code)
    assert found[2].startswith("image 1: ")
    alone = await refusal(await rest.post(INFER, **binary_request(image)))
    assert alone == (*found[:2], found[2].removeprefix("image 1: "))


async def test_a_bad_image_stops_the_others(rest, predictor, png):
    """Nobody will see their results. The bad one is read last: two threads are busy with those before it."""
    predictor.go.clear()
    await refusal(await rest.post(INFER, **binary_request(png, png, b"hello")))
    assert predictor.cancelled == len(predictor.tensors) > 0


async def test_a_client_that_leaves_cancels_its_predictions(rest, predictor, png):
    """Nobody waits for the answer, so Triton need not compute it."""
    predictor.go.clear()
    request = asyncio.create_task(rest.post(INFER, **binary_request(png, png)))
    async with asyncio.timeout(30):
        while len(predictor.tensors) < 2:
            await asyncio.sleep(0.005)
        request.cancel()
        while predictor.cancelled < 2:
            await asyncio.sleep(0.005)


async def test_a_body_may_come_in_chunks(rest, png):
    """Without a declared length, cut anywhere."""
    request = binary_request(png)

    async def chunks():
        for start in range(0, len(request["data"]), 7):
            yield request["data"][start : start + 7]

    message = await answer(await rest.post(INFER, data=chunks(), headers=request["headers"]))
    assert message["outputs"] == ALL_OUTPUTS


async def test_a_body_over_the_cap_is_refused(rest):
    """413, and the server still serves."""
    status, code, _ = await refusal(await rest.post(INFER, **binary_request(bytes(LIMITS.max_bytes + 1))))
    assert (status, code) == (413, "image_too_large")
    assert (await rest.get("/v2/health/live")).status == 200


COMPRESSORS = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("coding", COMPRESSORS)
async def test_a_compressed_request_is_inflated(rest, png, coding):
    """The JSON's length counts before compression."""
    request = binary_request(png)
    headers = {**request["headers"], "Content-Encoding": coding}
    message = await answer(await rest.post(INFER, data=COMPRESSORS[coding](request["data"]), headers=headers))
    assert message["outputs"] == ALL_OUTPUTS


@pytest.mark.parametrize("coding", COMPRESSORS)
async def test_a_bomb_is_refused_while_it_inflates(rest, coding):
    """A body that is small on the wire and large in memory meets the same cap."""
    bomb = COMPRESSORS[coding](bytes(50_000_000))
    assert len(bomb) < LIMITS.max_bytes
    response = await rest.post(INFER, data=bomb, headers={"Content-Encoding": coding})
    assert (await refusal(response))[:2] == (413, "image_too_large")


@pytest.mark.parametrize("coding", COMPRESSORS)
async def test_an_answer_is_compressed_on_request(rest, png, coding):
    """An error is not: clients of the protocol read it as it comes."""
    headers = {"Accept-Encoding": coding}
    response = await rest.post(INFER, json=json_request(png), headers=headers)
    assert response.headers["Content-Encoding"] == coding
    assert (await answer(response))["outputs"] == ALL_OUTPUTS
    assert "Content-Encoding" not in (await rest.post(INFER, data=b"", headers=headers)).headers


async def test_an_answer_is_not_compressed_unasked(rest, png):
    """It costs time."""
    response = await rest.post(INFER, json=json_request(png), headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in response.headers


async def test_a_deadline_is_a_gateway_timeout(rest, predictor, png):
    """A prediction that outlives `timeout_ms` answers 504, and says what was allowed."""
    predictor.go.clear()
    request = json_request(png, parameters={"timeout_ms": 50})
    status, code, detail = await refusal(await rest.post(INFER, json=request))
    assert (status, code) == (504, "deadline_exceeded")
    assert "50 ms" in detail


async def test_an_overloaded_gateway_says_when_to_come_back(rest, predictor, png):
    """503 with Retry-After."""
    predictor.error = errors.Overloaded("full", retry_after_seconds=7)
    response = await rest.post(INFER, json=json_request(png))
    assert (await refusal(response))[:2] == (503, "overloaded")
    assert response.headers["Retry-After"] == "7"


@pytest.mark.parametrize("model", ["other", "toy/versions/2"])
async def test_an_unknown_model_is_not_found(rest, png, model):
    """404 for an inference as well as for look-ups; the same for a version."""
    responses = [
        await rest.post(f"/v2/models/{model}/infer", json=json_request(png)),
        await rest.get(f"/v2/models/{model}"),
        await rest.get(f"/v2/models/{model}/ready"),
    ]
    assert [(await refusal(response))[:2] for response in responses] == [(404, "model_not_found")] * 3


async def test_a_version_is_a_number(rest, png):
    """400, with what is allowed."""
    status, _, detail = await refusal(await rest.post("/v2/models/toy/versions/latest/infer", json=json_request(png)))
    assert status == 400
    assert "whole number from 1" in detail


async def test_unknown_routes_and_methods_are_errors_of_the_protocol_too(rest):
    """Such as those that change models: the gateway only reads."""
    assert (await refusal(await rest.post("/v2/repository/models/toy/unload")))[:2] == (404, "not_found")
    assert (await refusal(await rest.get(INFER)))[:2] == (405, "method_not_allowed")


async def test_an_unexpected_error_shows_no_internals(rest, predictor, png):
    """500 with the request id, and nothing of the cause."""
    predictor.error = RuntimeError("secret")
    status, code, detail = await refusal(await rest.post(INFER, json=json_request(png)))
    assert (status, code) == (500, "internal")
    assert "secret" not in detail


async def test_the_server_describes_itself(rest):
    """Name and version of the package, and what is there beyond the protocol's core."""
    assert await (await rest.get("/v2")).json() == {
        "name": "eagleeye",
        "version": importlib.metadata.version("eagleeye"),
        "extensions": ["binary_tensor_data", "parameters"],
    }


@pytest.mark.parametrize("path", ["/v2/models/toy", "/v2/models/toy/versions/1"])
async def test_a_model_is_described(rest, path):
    """What it takes and gives; -1 where a size is free."""
    assert await (await rest.get(path)).json() == {
        "name": "toy",
        "versions": ["1", "3"],
        "platform": "eagleeye",
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": "num_detections", "datatype": "INT32", "shape": [-1]},
            {"name": "boxes", "datatype": "FP32", "shape": [-1, 4]},
            {"name": "scores", "datatype": "FP32", "shape": [-1]},
            {"name": "class_ids", "datatype": "INT32", "shape": [-1]},
            {"name": "labels", "datatype": "BYTES", "shape": [-1]},
            {"name": "image_wh", "datatype": "INT32", "shape": [-1, 2]},
        ],
    }


@pytest.mark.parametrize("path", ["/v2/models/toy/config", "/v2/models/toy/versions/1/config"])
async def test_the_config_of_a_model_is_tritons(rest, path):
    """Its tensors, and as parameters what a client may want to know beside them."""
    config = await (await rest.get(path)).json()
    parameters = {name: parameter["string_value"] for name, parameter in config.pop("parameters").items()}
    assert config == {
        "name": "toy",
        "platform": "eagleeye",
        "backend": "eagleeye",
        "max_batch_size": 0,
        "input": [{"name": "image", "data_type": "TYPE_STRING", "dims": [-1]}],
        "output": [
            {"name": "num_detections", "data_type": "TYPE_INT32", "dims": [-1]},
            {"name": "boxes", "data_type": "TYPE_FP32", "dims": [-1, 4]},
            {"name": "scores", "data_type": "TYPE_FP32", "dims": [-1]},
            {"name": "class_ids", "data_type": "TYPE_INT32", "dims": [-1]},
            {"name": "labels", "data_type": "TYPE_STRING", "dims": [-1]},
            {"name": "image_wh", "data_type": "TYPE_INT32", "dims": [-1, 2]},
        ],
    }
    assert json.loads(parameters.pop("labels")) == ["cat", "dog"]
    assert json.loads(parameters.pop("input_wh")) == [64, 32]
    assert parameters == {"score_threshold": "0.5", "iou_threshold": "0.7", "variant": "none"}


async def test_models_are_listed(rest):
    """As KServe lists them, and as Triton does."""
    assert await (await rest.get("/v2/models")).json() == {"models": ["toy"]}
    assert await (await rest.post("/v2/repository/index")).json() == [
        {"name": "toy", "version": "1", "state": "READY", "reason": ""},
        {"name": "toy", "version": "3", "state": "READY", "reason": ""},
    ]


@pytest.mark.parametrize("path", ["/v2/models/toy/ready", "/v2/models/toy/versions/3/ready"])
async def test_a_model_is_ready_if_it_is_served(rest, path):
    """With the body that KServe sends."""
    assert await (await rest.get(path)).json() == {"name": "toy", "ready": True}


async def test_readiness_follows_triton_and_liveness_does_not(rest, predictor):
    """A gateway without Triton is alive, and not ready."""

    async def states():
        responses = [await rest.get(f"/v2/health/{probe}") for probe in ("live", "ready")]
        return [(response.status, await response.json()) for response in responses]

    assert await states() == [(200, {"live": True}), (200, {"ready": True})]
    predictor.models = {}
    assert await states() == [(200, {"live": True}), (503, {"ready": False})]


async def test_requests_are_counted_and_logged(rest, metrics, png):
    """One line each, with the model as soon as it is known; probes are left out."""
    with capture_logs() as logs:
        await rest.post(INFER, **binary_request(png, png))
        await rest.post(INFER, data=b"")
        await rest.get("/v2/health/ready")
    good, bad = [line for line in logs if line["event"] == "detect"]
    assert good.items() >= {"code": "ok", "model": "toy", "images": 2, "detections": 4}.items()
    assert bad.items() >= {"code": "invalid_parameter", "model": "toy", "path": INFER}.items()
    for code in ("ok", "invalid_parameter"):
        labels = {"face": "rest", "model": "toy", "code": code}
        assert metrics.registry.get_sample_value("eagleeye_requests_total", labels) == 1
