"""gRPC messages as they are built, and answers as they are read, without a network."""

import struct

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from eagleeye.client.address import Address
from eagleeye.client.errors import InvalidResponse, Refused, TimedOut, Unreachable
from eagleeye.client.query import Query
from eagleeye.client.results import Health
from eagleeye.client.rpc import Rpc, call_error, frame_request, read_detections, read_stream_answer
from tests.eagleeye.client.answers import BOX, SCORE, answer, detection, http, infer_response, stream_error
from tests.eagleeye.client.test_rest import read as read_rest

RPC = Rpc(Address.parse("grpc://host:9"), "secret")


def test_a_request_holds_the_image_and_what_was_chosen():
    """As any client of the protocol would send it, and the time left as well."""
    query = Query(model="toy", version=2, score_threshold=0.5)
    method, message = RPC.detect(b"image", query).request(1.5)
    assert (method, message.model_name, message.model_version) == ("ModelInfer", "toy", "2")
    assert {name: value.string_param for name, value in message.parameters.items()} == {
        "score_threshold": "0.5",
        "timeout_ms": "1500",
    }
    assert [(each.name, each.datatype, list(each.shape)) for each in message.inputs] == [("image", "BYTES", [1])]
    assert list(message.raw_input_contents) == [struct.pack("<I", 5) + b"image"]
    assert "image_wh" in [output.name for output in message.outputs]


def test_a_frame_has_an_id_and_a_mode():
    """Beside what a single image has."""
    message = frame_request("7", b"image", Query(), latest=True, timeout_seconds=2)
    assert message.id == "7"
    assert {name: value.string_param for name, value in message.parameters.items()} == {
        "mode": "latest",
        "timeout_ms": "2000",
    }


def test_keys_are_metadata():
    """And no key is none."""
    assert RPC.metadata == (("x-api-key", "secret"),)
    assert Rpc(Address.parse("grpc://host:9"), None).metadata == ()


def test_both_faces_give_the_same_objects():
    """Bit for bit, and arrays that the caller may change."""
    by_rest, by_rpc = read_rest(http(answer(detection()))), read_detections(infer_response())
    for name in ("xyxy", "scores", "class_ids"):
        ours, theirs = getattr(by_rest, name), getattr(by_rpc, name)
        assert (ours.tobytes(), ours.dtype, ours.shape) == (theirs.tobytes(), theirs.dtype, theirs.shape)
        assert ours.flags.writeable
        assert theirs.flags.writeable
    for name in ("labels", "image_wh", "model", "version"):
        assert getattr(by_rest, name) == getattr(by_rpc, name)
        assert type(getattr(by_rest, name)) is type(getattr(by_rpc, name))
    assert by_rpc.xyxy.tolist() == np.array([BOX], np.float32).tolist()
    assert by_rpc.scores.tolist() == [np.float32(SCORE)]


def test_nothing_found_is_empty_arrays():
    """Of the right shapes and types."""
    found = read_detections(
        infer_response(
            num_detections=("INT32", np.array([0], np.int32)),
            boxes=("FP32", np.zeros((0, 4), np.float32)),
            scores=("FP32", np.zeros(0, np.float32)),
            class_ids=("INT32", np.zeros(0, np.int32)),
            labels=("BYTES", np.zeros(0, object)),
        )
    )
    assert (len(found), found.xyxy.shape, found.image_wh) == (0, (0, 4), (640, 480))


@pytest.mark.parametrize(
    "changes",
    [
        {"image_wh": None},
        {"boxes": ("FP32", np.zeros((2, 4), np.float32))},
        {"boxes": ("FP64", np.zeros((1, 4), np.float64))},
        {"scores": ("FP32", np.array([np.nan], np.float32))},
        {"scores": ("INT32", np.array([1], np.int32))},
        {"num_detections": ("INT32", np.array([2], np.int32))},
        {"num_detections": ("INT32", np.array([1, 1], np.int32))},
        {"labels": ("BYTES", np.array(["a", "b"], object))},
    ],
)
def test_what_is_no_detection_result_is_said_so(changes):
    """An error of one line, whatever is wrong with it."""
    with pytest.raises(InvalidResponse, match=r"^the answer .*$"):
        read_detections(infer_response(**changes))


@pytest.mark.parametrize("raw", [b"", b"\x09\0\0\0abc", b"\x03\0\0\0abcd", b"\x02\0\0\0\xff\xff"])
def test_damaged_texts_are_said_so(raw):
    """Too short, too long, or no UTF-8."""
    message = infer_response()
    message.raw_output_contents[4] = raw
    with pytest.raises(InvalidResponse):
        read_detections(message)


def test_raw_contents_that_fit_no_output_are_said_so():
    """One is missing, or has another length than its shape says."""
    missing, short = infer_response(), infer_response()
    del missing.raw_output_contents[-1]
    short.raw_output_contents[1] = b"abc"
    for message in (missing, short, service_pb2.ModelInferResponse()):
        with pytest.raises(InvalidResponse):
            read_detections(message)


def failure(status, details="what is wrong", **metadata):
    trailing = [(name.replace("_", "-"), value) for name, value in metadata.items()]
    return call_error(status, details, trailing, "host:9")


def test_a_server_without_tls_is_said_so():
    """As gRPC tells it; trying again would not help."""
    error = failure("UNAVAILABLE", "Tls handshake failed: SSL_ERROR_SSL: error:100000f7:WRONG_VERSION_NUMBER")
    assert (error.code, error.is_retryable) == ("unreachable", False)
    assert str(error) == "what answers at host:9 does not speak TLS, as https:// and grpcs:// addresses need it"


@pytest.mark.parametrize(
    "status, code, is_retryable",
    [
        ("INVALID_ARGUMENT", "invalid_image", False),
        ("NOT_FOUND", "model_not_found", False),
        ("RESOURCE_EXHAUSTED", "overloaded", True),
        ("RESOURCE_EXHAUSTED", "rate_limited", True),
        ("UNAVAILABLE", "triton_unavailable", True),
        ("UNAVAILABLE", "shutting_down", True),
        ("INTERNAL", "internal", False),
    ],
)
def test_the_gateway_s_errors_keep_their_codes(status, code, is_retryable):
    """And are tried again where time helps."""
    error = failure(status, eagleeye_code=code, x_request_id="r", retry_after="2")
    assert isinstance(error, Refused)
    assert (error.code, error.request_id, str(error)) == (code, "r", f"{code}: what is wrong")
    assert (error.is_retryable, error.retry_after_seconds) == (is_retryable, 2)


@pytest.mark.parametrize("status", ["UNAVAILABLE", "CANCELLED"])
def test_a_connection_that_broke_is_tried_again(status):
    """Nobody but the network speaks."""
    error = failure(status, "Connection refused")
    assert isinstance(error, Unreachable)
    assert (error.is_retryable, str(error)) == (True, "no connection to the gateway at host:9: Connection refused")


def test_a_certificate_that_is_not_trusted_is_not_tried_again():
    """It will not be trusted the next time either."""
    assert not failure("UNAVAILABLE", "Ssl handshake failed: CERTIFICATE_VERIFY_FAILED").is_retryable


def test_time_that_ran_out_is_known_whoever_s_clock_it_was():
    """The call's own deadline, or the gateway's."""
    assert isinstance(failure("DEADLINE_EXCEEDED"), TimeoutError)
    assert isinstance(failure("DEADLINE_EXCEEDED", eagleeye_code="deadline_exceeded"), TimedOut)


def test_a_message_that_grpc_refused_is_an_image_too_large():
    """As it is over REST, where the gateway itself refuses it."""
    assert failure("RESOURCE_EXHAUSTED", "Received message larger than max (9 vs. 4)").code == "image_too_large"


@pytest.mark.parametrize("status", ["UNIMPLEMENTED", "UNKNOWN", "INTERNAL"])
def test_another_service_s_error_is_no_answer(status):
    """There is no code to pass on."""
    assert failure(status).code == "invalid_response"


def test_a_frame_s_error_comes_with_the_frame():
    """Code, request id and Retry-After are among the parameters."""
    error = read_stream_answer(stream_error("4", "overloaded", retry_after=3)).error
    assert (error.code, error.request_id, error.retry_after_seconds, error.is_retryable) == ("overloaded", "r", 3, True)
    assert str(error) == "overloaded: what is wrong"
    assert read_stream_answer(stream_error("4", "invalid_image")).error.retry_after_seconds is None


def test_a_frame_that_is_answered_with_something_else_has_an_error():
    """The stream goes on: the next may be whole."""
    message = service_pb2.ModelStreamInferResponse(infer_response=infer_response("4", scores=None))
    assert read_stream_answer(message)[:2] == ("4", None)
    assert isinstance(read_stream_answer(message).error, InvalidResponse)


def play(flow_of, **answers):
    """Run a flow of exchanges against these answers, by method."""

    def run(exchange):
        return exchange.read(answers[exchange.request(5).method])
        yield

    try:
        next(flow_of(run))
    except StopIteration as end:
        return end.value
    raise AssertionError


def config(**changes):
    texts = {
        "labels": '["open", "short"]',
        "input_wh": "[640, 480]",
        "score_threshold": "0.4",
        "iou_threshold": "0.7",
        "variant": "Ns",
        **changes,
    }
    parameters = {name: {"string_value": text} for name, text in texts.items()}
    return service_pb2.ModelConfigResponse(config={"name": "deeppcb", "parameters": parameters})


def test_models_are_read():
    """From the index, each one's metadata and its config; a model with several versions is one model."""
    index = [{"name": "deeppcb", "version": version, "state": "READY"} for version in "13"]
    index.append({"name": "broken", "version": "1", "state": "UNAVAILABLE"})
    (found,) = play(
        RPC.models,
        RepositoryIndex=service_pb2.RepositoryIndexResponse(models=index),
        ModelMetadata=service_pb2.ModelMetadataResponse(name="deeppcb", versions=["1", "3"]),
        ModelConfig=config(),
    )
    assert (found.name, found.versions, found.labels, found.input_wh) == (
        "deeppcb",
        ("1", "3"),
        ("open", "short"),
        (640, 480),
    )
    assert (found.score_threshold, found.iou_threshold, found.facts) == (0.4, 0.7, {"variant": "Ns"})


@pytest.mark.parametrize("changes", [{"labels": "open"}, {"input_wh": "[1]"}, {"score_threshold": "much"}])
def test_what_describes_no_detector_is_said_so(changes):
    """As a Triton does, whose models are others."""
    with pytest.raises(InvalidResponse, match="describes no detector"):
        play(
            lambda run: RPC.model("deeppcb", run),
            ModelMetadata=service_pb2.ModelMetadataResponse(versions=["1"]),
            ModelConfig=config(**changes),
        )


def test_health_is_two_calls():
    """Not to be ready is an answer and no error."""
    live = service_pb2.ServerLiveResponse(live=True)
    assert play(RPC.health, ServerLive=live, ServerReady=service_pb2.ServerReadyResponse(ready=False)) == Health(
        live=True, ready=False
    )
