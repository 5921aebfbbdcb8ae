"""REST requests as they are built, and answers as they are read, without a network."""

import json

import numpy as np
import orjson
import pytest

from eagleeye.client.address import Address
from eagleeye.client.errors import InvalidResponse, Refused, TimedOut, Unreachable
from eagleeye.client.query import Query
from eagleeye.client.rest import Rest
from eagleeye.client.results import Health
from tests.eagleeye.client.answers import BOX, SCORE, answer, detection, http, problem

MODEL = {
    "name": "deeppcb",
    "versions": ["1", "3"],
    "state": "ready",
    "input": {"width": 640, "height": 480, "resize": "stretch"},
    "labels": ["open", "short"],
    "defaults": {"score_threshold": 0.4, "iou_threshold": 0.7},
    "facts": {"variant": "Ns"},
}


def rest(url="http://host:8080", key=None):
    return Rest(Address.parse(url), key)


def read(response):
    return rest().detect(b"image", Query()).read(response)


def play(flow_of, *responses):
    """Run a flow of exchanges against these responses; its result and the paths that were asked for."""
    paths = []
    left = iter(responses)

    def run(exchange):
        paths.append(exchange.request(5).target)
        return exchange.read(next(left))
        yield

    try:
        next(flow_of(run))
    except StopIteration as end:
        return end.value, paths
    raise AssertionError


def test_a_request_holds_the_image_and_what_was_chosen():
    """The image is the body as it is; everything else is in the query, and the time left as well."""
    query = Query(model="a b", version=2, score_threshold=0.5, classes=["cat", "dog"])
    request = rest(key="secret").detect(b"image", query).request(1.5)
    path, _, text = request.target.partition("?")
    assert (request.method, path, request.body) == ("POST", "/v1/detect", b"image")
    assert text.split("&") == [
        "model=a+b",
        "version=2",
        "score_threshold=0.5",
        "classes=cat%2Cdog",
        "timeout_ms=1500",
    ]
    assert request.headers["X-API-Key"] == "secret"
    assert request.headers["Content-Type"] == "application/octet-stream"


def test_a_path_before_the_gateway_s_own_is_kept():
    """Behind a proxy it may live in a folder."""
    assert rest("https://host/eagle eye".replace(" ", "-")).detect(b"", Query()).request(1).target == (
        "/eagle-eye/v1/detect?timeout_ms=1000"
    )


def test_no_key_is_no_header():
    """Many gateways need none."""
    assert "X-API-Key" not in rest().detect(b"", Query()).request(1).headers


def test_an_answer_becomes_arrays():
    """Every field, its type and its shape."""
    found = read(http(answer(detection(), detection(label="open", class_id=0))))
    assert found.xyxy.dtype == found.scores.dtype == np.float32
    assert found.class_ids.dtype == np.int32
    assert found.xyxy.tolist() == np.array([BOX, BOX], np.float32).tolist()
    assert found.scores.tolist() == np.array([SCORE, SCORE], np.float32).tolist()
    assert (found.class_ids.tolist(), found.labels) == ([5, 0], ("pin-hole", "open"))
    assert (found.image_wh, found.model, found.version) == ((640, 480), "deeppcb", "3")


def test_nothing_found_is_empty_arrays():
    """Of the right shapes and types."""
    found = read(http(answer()))
    assert (len(found), found.xyxy.shape, found.scores.shape, found.class_ids.dtype) == (0, (0, 4), (0,), np.int32)
    assert found.xyxy.dtype == found.scores.dtype == np.float32


def test_whole_numbers_are_numbers():
    """JSON writes 10 for 10.0."""
    box = {"x1": 1, "y1": 2, "x2": 3, "y2": 4}
    assert read(http(answer(detection(box=box, score=1)))).xyxy.tolist() == [[1, 2, 3, 4]]


def test_every_float32_survives_json():
    """The gateway writes as many digits as tell a float32 apart; reading them gives the same bits."""
    bits = np.random.default_rng(4).integers(0, 2**32, 40_000, np.uint32)
    numbers = bits.view(np.float32)
    numbers = np.concatenate([numbers[np.isfinite(numbers)], np.linspace(0, 640, 20_000, dtype=np.float32)])
    numbers = numbers[: len(numbers) // 4 * 4].reshape(-1, 4)
    written = orjson.dumps([list(row) for row in numbers], option=orjson.OPT_SERIALIZE_NUMPY)
    boxes = [dict(zip(("x1", "y1", "x2", "y2"), row, strict=True)) for row in json.loads(written)]
    found = read(http(answer(*(detection(box=box) for box in boxes))))
    assert found.xyxy.tobytes() == numbers.tobytes()


@pytest.mark.parametrize(
    "content",
    [
        b"hello",
        b"",
        b"\xff\xfe",
        b"null",
        b"[" * 100_000,
        {"results": []},
        answer(detection(score=float("nan"))),
        answer(detection(score=1e300)),
        answer(detection(score="0.5")),
        answer(detection(score=None)),
        answer(detection(class_id=2**40)),
        answer(detection(class_id=1.5)),
        answer(detection(class_id=True)),
        answer(detection(label=3)),
        answer(detection(box={"x1": 1})),
        answer(detection(box=[1, 2, 3, 4])),
        answer(image={"width": "640", "height": 480}),
        answer(model="deeppcb"),
        answer(detections={"a": 1}),
        answer(detections=3),
    ],
)
def test_what_is_no_detection_result_is_said_so(content):
    """An error of one line, whatever is wrong with it."""
    with pytest.raises(InvalidResponse, match=r"^the answer is not .*$") as caught:
        read(http(content))
    assert caught.value.code == "invalid_response"
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    "status, code, is_retryable",
    [
        (400, "invalid_image", False),
        (401, "unauthorized", False),
        (404, "model_not_found", False),
        (429, "rate_limited", True),
        (500, "internal", False),
        (502, "invalid_prediction", False),
        (503, "overloaded", True),
        (503, "triton_unavailable", True),
        (503, "something_new", True),
        (400, "something_new", False),
    ],
)
def test_the_gateway_s_errors_keep_their_codes(status, code, is_retryable):
    """And are tried again where time helps."""
    with pytest.raises(Refused) as caught:
        read(http(problem(code), status, retry_after="2"))
    error = caught.value
    assert (error.code, error.request_id, str(error)) == (code, "r", f"{code}: what is wrong")
    assert (error.is_retryable, error.retry_after_seconds) == (is_retryable, 2)


def test_a_deadline_that_the_gateway_found_exceeded_is_the_caller_s():
    """One class tells of it, whoever's clock ran first."""
    with pytest.raises(TimedOut, match=r"^what is wrong$") as caught:
        read(http(problem("deadline_exceeded"), 504))
    assert (caught.value.code, caught.value.is_retryable) == ("deadline_exceeded", False)


@pytest.mark.parametrize("status", [502, 503])
def test_a_proxy_whose_gateway_is_away_is_tried_again(status):
    """It answers with a page of its own."""
    with pytest.raises(Unreachable, match=f"status {status}: <h1>Bad Gateway</h1>") as caught:
        read(http(b"<h1>Bad\nGateway</h1>", status))
    assert caught.value.is_retryable


@pytest.mark.parametrize("status", [301, 404, 500, 504])
def test_another_service_s_error_is_no_answer(status):
    """There is no code to pass on."""
    with pytest.raises(InvalidResponse, match=f"status {status}: an empty body"):
        read(http(b"", status))


@pytest.mark.parametrize("text", ["Wed, 21 Oct 2026 07:28:00 GMT", "-1", "1.5", "", "²", "99999999999"])
def test_a_retry_after_that_the_gateway_never_sends_is_none(text):
    """The backoff stands."""
    with pytest.raises(Refused) as caught:
        read(http(problem("overloaded"), 503, retry_after=text))
    assert caught.value.retry_after_seconds is None


def test_models_are_read():
    """All fields, of the list and of one."""
    (listed,), paths = play(rest().models, http({"models": [MODEL]}))
    (one), more = play(lambda run: rest().model("a/b", run), http(MODEL))
    assert paths + more == ["/v1/models", "/v1/models/a%2Fb"]
    assert listed == one
    assert (one.name, one.versions, one.labels, one.input_wh) == (
        "deeppcb",
        ("1", "3"),
        ("open", "short"),
        (640, 480),
    )
    assert (one.score_threshold, one.iou_threshold, one.facts) == (0.4, 0.7, {"variant": "Ns"})


@pytest.mark.parametrize("content", [{}, {"models": [{}]}, {**MODEL, "labels": [1]}, [], b"hello"])
def test_what_describes_no_model_is_said_so(content):
    """From either route."""
    with pytest.raises(InvalidResponse):
        play(lambda run: rest().model("m", run), http(content))
    with pytest.raises(InvalidResponse):
        play(rest().models, http(content))


@pytest.mark.parametrize("status, ready", [(200, True), (503, False)])
def test_health_is_two_probes(status, ready):
    """Not to be ready is an answer and no error."""
    health, paths = play(rest().health, http(b""), http(b"", status))
    assert (health, paths) == (Health(live=True, ready=ready), ["/v2/health/live", "/v2/health/ready"])


def test_a_probe_that_is_not_there_is_an_error():
    """What answers is no gateway."""
    with pytest.raises(InvalidResponse, match="status 404"):
        play(rest().health, http(b"", 404))
