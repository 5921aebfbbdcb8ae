"""The command that asks a gateway about a picture and draws what it answers."""

import asyncio

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner

from eagleeye.annotate import annotate, decode_image
from gateway.annotate import encode_image
from tests.gateway.test_annotate import draw, picture


def test_a_png_comes_back_as_it_was():
    """Encoding and decoding keep RGB order and every pixel."""
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)

    assert np.array_equal(decode_image(encode_image(image, ".PNG")), image)


@pytest.mark.parametrize("data", [b"", b"no picture"])
def test_bytes_that_are_no_picture_decode_to_none(data):
    """What OpenCV cannot read is None, not an exception."""
    assert decode_image(data) is None


REQUESTS = web.AppKey("requests", list)


@pytest.fixture
async def gateway():
    """A gateway that answers one pin-hole, whatever it gets, and keeps what it got under REQUESTS."""

    async def detect(request):
        request.app[REQUESTS].append((dict(request.query), await request.read()))
        box = {"x1": 10, "y1": 20, "x2": 50, "y2": 60}
        return web.json_response(
            {
                "model": {"name": "deeppcb", "version": "1"},
                "image": {"width": 120, "height": 100},
                "detections": [{"label": "pin-hole", "class_id": 5, "score": 0.75, "box": box}],
                "timing_ms": {},
                "request_id": "1",
            }
        )

    app = web.Application()
    app[REQUESTS] = []
    app.router.add_post("/v1/detect", detect)
    async with TestServer(app) as server:
        yield server


async def run_annotate(*arguments):
    """Runs the command in a thread of its own, as it brings its own event loop."""
    return await asyncio.to_thread(CliRunner().invoke, annotate, [str(argument) for argument in arguments])


async def test_annotate_draws_what_the_gateway_answers(tmp_path, gateway):
    """The command sends the file's bytes and parameters, and writes the drawn answer."""
    source, output = tmp_path / "board.png", tmp_path / "annotated.png"
    source.write_bytes(encode_image(picture(100, 120), ".png"))

    answer = await run_annotate(source, "--url", gateway.make_url("/"), "--output", output, "--score-threshold", 0.3)

    assert answer.exit_code == 0, answer.output
    assert gateway.app[REQUESTS] == [({"score_threshold": "0.3"}, source.read_bytes())]
    expected = draw(picture(100, 120), ("pin-hole", 0.75, [10, 20, 50, 60]))
    assert np.array_equal(decode_image(output.read_bytes()), expected)


@pytest.mark.parametrize(
    "size,output,reason",
    [
        pytest.param((50, 50), "out.png", "another size", id="gateway saw another size"),
        pytest.param((100, 120), "out.bmp", ".jpg, .jpeg or .png", id="unknown suffix"),
        pytest.param((100, 120), "missing/out.png", "No such file", id="missing folder"),
    ],
)
async def test_annotate_that_fails_writes_nothing(tmp_path, gateway, size, output, reason):
    """What cannot be drawn or written ends with exit code 1 and one line."""
    source = tmp_path / "board.png"
    source.write_bytes(encode_image(picture(*size), ".png"))

    answer = await run_annotate(source, "--url", gateway.make_url("/"), "--output", tmp_path / output)

    assert answer.exit_code == 1
    assert answer.output.startswith("Error: ")
    assert answer.output.count("\n") == 1
    assert reason in answer.output
    assert list(tmp_path.iterdir()) == [source]


async def test_annotate_without_a_gateway_is_one_clear_line(tmp_path, unused_tcp_port):
    """A refused connection names the address."""
    source = tmp_path / "board.png"
    source.write_bytes(encode_image(picture(100, 120), ".png"))
    url = f"http://127.0.0.1:{unused_tcp_port}"

    answer = await run_annotate(source, "--url", url, "--output", tmp_path / "out.png")

    assert answer.exit_code == 1
    assert answer.output.startswith(f"Error: the gateway at {url} cannot be reached")


async def test_annotate_refuses_a_file_that_is_no_picture(tmp_path, gateway):
    """Text is refused before anything is sent."""
    source = tmp_path / "board.png"
    source.write_text("no picture")

    answer = await run_annotate(source, "--url", gateway.make_url("/"), "--output", tmp_path / "out.png")

    assert (answer.exit_code, answer.output) == (1, f"Error: {source} is no picture\n")
    assert not gateway.app[REQUESTS]
