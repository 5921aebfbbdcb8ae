"""Foreign HTTP clients against the live platform: they work unchanged, and see what `/v1/detect` answers."""

import asyncio
import base64
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from tritonclient.utils import InferenceServerException

from tests.conftest import REPOSITORY, missing
from tests.platform.conftest import MODEL, detections

CODINGS = [None, "gzip", "deflate"]
OUTPUTS = ("num_detections", "boxes", "scores", "class_ids", "labels")


@pytest.fixture
def address(platform):
    """host:port of the live REST face."""
    platform.wait_until_ready()
    return f"127.0.0.1:{platform.ports['http']}"


@pytest.fixture
def blocking(address):
    """Runs a function of the blocking client in a thread: it lives on gevent, which wants a thread of its own."""

    def run(function):
        with triton_http.InferenceServerClient(address) as client:
            return function(client)

    return lambda function: asyncio.to_thread(run, function)


@pytest.fixture
async def client(address):
    """The asynchronous client."""
    async with triton_http_aio.InferenceServerClient(address) as client:
        yield client


def image_input(*images, is_binary=True):
    tensor = triton_http.InferInput("image", [len(images)], "BYTES")
    elements = images if is_binary else [base64.b64encode(image) for image in images]
    return tensor.set_data_from_numpy(np.array(elements, object), binary_data=is_binary)


def outputs(is_binary):
    return [triton_http.InferRequestedOutput(name, binary_data=is_binary) for name in OUTPUTS]


def as_bytes(found):
    """Labels that came as JSON are `str`."""
    labels, *numbers = found
    return [label.encode() if isinstance(label, str) else label for label in labels], *numbers


async def test_the_blocking_client_reads_metadata(blocking):
    """Health, the server, and the model."""

    def look(client):
        ready = client.is_server_live(), client.is_server_ready(), client.is_model_ready(MODEL)
        versions = client.is_model_ready(MODEL, "1"), client.is_model_ready(MODEL, "9"), client.is_model_ready("other")
        about, model, config = (
            client.get_server_metadata(),
            client.get_model_metadata(MODEL),
            client.get_model_config(MODEL),
        )
        return ready, versions, about, model, config, client.get_model_repository_index()

    ready, versions, about, model, config, index = await blocking(look)
    assert ready == (True, True, True)
    assert versions == (True, False, False)
    assert (about["name"], "binary_tensor_data" in about["extensions"]) == ("eagleeye", True)
    assert [each["name"] for each in (*model["inputs"], *model["outputs"])] == ["image", *OUTPUTS, "image_wh"]
    assert [each["name"] for each in config["input"]] == ["image"]
    assert config["parameters"]["variant"] == {"string_value": "Ns"}
    assert index == [{"name": MODEL, "version": "1", "state": "READY", "reason": ""}]


async def test_the_asynchronous_client_reads_metadata(client):
    """The same."""
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready(MODEL)
    assert not await client.is_model_ready(MODEL, "9")
    assert (await client.get_server_metadata())["name"] == "eagleeye"
    assert (await client.get_model_metadata(MODEL))["versions"] == ["1"]
    assert [each["name"] for each in await client.get_model_repository_index()] == [MODEL]


@pytest.mark.parametrize("has_binary_outputs", [False, True])
@pytest.mark.parametrize("has_binary_inputs", [False, True])
async def test_the_blocking_client_finds_what_detect_finds(
    blocking, board, expected, has_binary_inputs, has_binary_outputs
):
    """Bit for bit, as JSON and as binary data."""
    image, wanted = image_input(board, is_binary=has_binary_inputs), outputs(has_binary_outputs)
    result = await blocking(lambda client: client.infer(MODEL, [image], outputs=wanted))
    assert as_bytes(detections(result)) == expected


@pytest.mark.parametrize("has_binary_outputs", [False, True])
@pytest.mark.parametrize("has_binary_inputs", [False, True])
async def test_the_asynchronous_client_finds_what_detect_finds(
    client, board, expected, has_binary_inputs, has_binary_outputs
):
    """Bit for bit, as JSON and as binary data."""
    image, wanted = image_input(board, is_binary=has_binary_inputs), outputs(has_binary_outputs)
    assert as_bytes(detections(await client.infer(MODEL, [image], outputs=wanted))) == expected


@pytest.mark.parametrize("response_coding", CODINGS)
@pytest.mark.parametrize("request_coding", CODINGS)
async def test_the_blocking_client_may_compress(blocking, board, expected, request_coding, response_coding):
    """Either way, or both."""

    def infer(client):
        return client.infer(
            MODEL,
            [image_input(board)],
            request_compression_algorithm=request_coding,
            response_compression_algorithm=response_coding,
        )

    assert detections(await blocking(infer)) == expected


@pytest.mark.parametrize("is_binary", [False, True])
@pytest.mark.parametrize("coding", CODINGS)
async def test_the_asynchronous_client_may_compress(client, board, expected, coding, is_binary):
    """Both ways. Without a wish of its own it takes any coding, and reads errors and metadata only as they are."""
    result = await client.infer(
        MODEL,
        [image_input(board, is_binary=is_binary)],
        outputs=outputs(is_binary),
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    assert as_bytes(detections(result)) == expected


async def test_several_images_with_parameters(client, board, expected):
    """In one request, under the caller's own id."""
    parameters = {"max_detections": 2, "score_threshold": 0.3}
    result = await client.infer(
        MODEL, [image_input(board, board)], model_version="1", request_id="mine", parameters=parameters
    )
    assert result.as_numpy("num_detections").tolist() == [2, 2]
    assert result.as_numpy("boxes").tolist() == expected[3][:2] * 2
    assert result.get_response()["id"] == "mine"


async def test_tritons_own_options_are_taken(blocking, client, board, expected):
    """Those that its clients put into the request: a timeout in microseconds, and those of sequences."""
    options = {"timeout": 20_000_000, "sequence_id": 7, "sequence_start": True, "sequence_end": True}
    result = await blocking(lambda client: client.infer(MODEL, [image_input(board)], **options))
    assert detections(result) == expected
    assert detections(await client.infer(MODEL, [image_input(board)], **options)) == expected


async def test_an_error_reaches_the_blocking_client(blocking):
    """Its status, and the text that says what is allowed."""

    def infer(client):
        with pytest.raises(InferenceServerException) as caught:
            client.infer(MODEL, [image_input(b"hello")])
        return caught.value

    error = await blocking(infer)
    assert error.status() == "415"
    assert error.message().startswith("the body is not an image")
    assert "JPEG, PNG, WebP and BMP" in error.message()


async def test_an_error_reaches_the_asynchronous_client(client, board):
    """Also that of a model that nobody serves."""
    with pytest.raises(InferenceServerException) as caught:
        await client.infer("other", [image_input(board)])
    assert caught.value.status() == "404"
    assert f"served are: {MODEL}" in caught.value.message()


async def test_the_kserve_client_finds_what_detect_finds(platform, board, expected, tmp_path):
    """Lists models, reads metadata and infers, as JSON and as binary data."""
    python = REPOSITORY / ".venv-kserve" / "bin" / "python"
    if not python.exists():
        missing("the KServe SDK, in .venv-kserve,")
    image = tmp_path / "board.jpg"
    image.write_bytes(board)
    script = Path(__file__).with_name("kserve_client.py")
    command = [python, str(script), platform.url, MODEL, str(image)]
    client = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=120, check=False)
    assert client.returncode == 0, client.stderr
    seen = json.loads(client.stdout)
    assert seen["ready"] == {"server": [True, True], "model": True, "unknown": False}
    assert seen["models"] == [MODEL]
    assert seen["server"]["name"] == "eagleeye"
    assert [each["name"] for each in seen["model"]["outputs"]] == [*OUTPUTS, "image_wh"]
    labels, *numbers = expected
    assert seen["found"] == [[[label.decode() for label in labels], *numbers]] * 4
    assert seen["refused"] == 415
