"""Detections drawn on pictures of any size, and the command that asks a gateway for them."""

import asyncio
import itertools

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner

from eagleeye.annotate import annotate, decode_image, draw_detections, encode_image, label_colour
from eagleeye.boards import LABELS

GREY = 90


def picture(height, width):
    """A plain grey picture."""
    return np.full((height, width, 3), GREY, np.uint8)


def draw(image, *detections):
    """Draws (label, score, box) triples."""
    labels = [label for label, _, _ in detections]
    scores = np.array([score for _, score, _ in detections], float)
    return draw_detections(image, np.array([box for _, _, box in detections], float).reshape(-1, 4), labels, scores)


def test_a_label_has_one_colour_for_ever():
    """Colours do not depend on the process or on what else is in the picture."""
    assert [label_colour(label) for label in ("open", "person")] == [(0, 69, 230), (30, 0, 180)]


def test_labels_of_the_shipped_model_are_told_apart_by_colour():
    """Any two of the six colours differ well."""
    colours = [np.array(label_colour(label)) for label in LABELS]

    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(colours, 2)) > 60


def test_the_picture_that_came_in_is_left_alone():
    """Drawing makes a new picture, also of a read-only one."""
    image = picture(100, 100)
    image.flags.writeable = False

    drawn = draw(image, ("open", 0.5, [10, 40, 60, 90]))

    assert np.all(image == GREY)
    assert not np.array_equal(drawn, image)


def test_a_box_is_drawn_in_the_colour_of_its_label():
    """The outline stands on the rounded coordinates, and the inside stays as it was."""
    drawn = draw(picture(200, 200), ("short", 0.9, [50.4, 99.6, 150, 180]))

    assert drawn[180, 100].tolist() == list(label_colour("short"))
    assert drawn[140, 50].tolist() == list(label_colour("short"))
    assert np.all(drawn[110:170, 60:140] == GREY)


def test_no_detections_draw_nothing():
    """The empty answer is the picture itself, as a copy."""
    image = picture(64, 48)
    drawn = draw(image)

    assert np.array_equal(drawn, image)
    assert not np.shares_memory(drawn, image)


@pytest.mark.parametrize("height,width", [(1, 1), (32, 32), (8, 2000), (2000, 8), (480, 640), (2160, 3840)], ids=str)
def test_pictures_of_any_size_can_be_drawn_on(height, width):
    """From one pixel to 4K the size stays, and a box over everything is seen at the rim."""
    drawn = draw(picture(height, width), ("pin-hole", 0.75, [0, 0, width, height]))

    assert drawn.shape == (height, width, 3)
    assert drawn[-1, -1].tolist() == list(label_colour("pin-hole"))


def test_lines_and_text_grow_with_the_picture():
    """The same scene at six times the size has a tag of about six times the height."""
    heights = []
    for scale in (1, 6):
        drawn = draw(picture(400 * scale, 400 * scale), ("open", 0.5, np.array([100, 200, 300, 300]) * scale))
        tag = np.all(drawn == label_colour("open"), axis=2)[: 199 * scale]
        heights.append(np.ptp(np.nonzero(tag)[0]))

    assert heights[1] / heights[0] == pytest.approx(6, rel=0.2)


@pytest.mark.parametrize(
    "box",
    [
        [0, 0, 30, 30],
        [610, 0, 640, 30],
        [0, 450, 30, 480],
        [610, 450, 640, 480],
        [-50, -50, 700, 700],
        [700, 500, 800, 600],
    ],
    ids=["top left", "top right", "bottom left", "bottom right", "all around", "outside"],
)
def test_the_whole_text_stays_in_the_picture(box):
    """At any border the tag has all its ink: as much as in the middle of the picture."""
    reference = draw(picture(480, 640), ("mousebite", 0.88, [300, 200, 330, 230]))
    drawn = draw(picture(480, 640), ("mousebite", 0.88, box))

    assert text_ink(drawn) == text_ink(reference)


def text_ink(image):
    """How many pixels of a drawn picture are text: neither ground nor the label's colour."""
    colour = np.all(image == label_colour("mousebite"), axis=2)
    return np.count_nonzero(~colour & np.any(image != GREY, axis=2))


def test_tags_of_neighbours_do_not_cover_one_another():
    """Two boxes side by side, nearer than their tags are wide, show both texts whole."""
    alone = draw(picture(480, 640), ("mousebite", 0.88, [300, 200, 330, 230]))
    both = draw(picture(480, 640), ("mousebite", 0.88, [300, 200, 330, 230]), ("mousebite", 0.88, [335, 200, 365, 230]))

    assert text_ink(both) == 2 * text_ink(alone)


def test_a_tag_keeps_off_other_boxes():
    """The upper of two stacked boxes is still seen whole: the lower one's tag goes elsewhere."""
    upper, lower = [300, 200, 330, 230], [300, 235, 330, 265]
    drawn = draw(picture(480, 640), ("short", 0.5, upper), ("mousebite", 0.9, lower))

    assert drawn[230, 300:331].tolist() == [list(label_colour("short"))] * 31


def test_text_that_cannot_be_read_is_left_out():
    """On a picture too small for its text the box is drawn alone."""
    drawn = draw(picture(32, 32), ("a label far too long for this picture", 0.5, [4, 4, 28, 28]))

    assert np.all(drawn[8:24, 8:24] == GREY)


@pytest.mark.parametrize(
    "image,xyxy,labels,scores",
    [
        pytest.param(np.zeros((9, 9), np.uint8), np.zeros((0, 4)), [], np.zeros(0), id="grey"),
        pytest.param(np.zeros((9, 9, 3)), np.zeros((0, 4)), [], np.zeros(0), id="float"),
        pytest.param(np.zeros((0, 9, 3), np.uint8), np.zeros((0, 4)), [], np.zeros(0), id="no pixels"),
        pytest.param(picture(9, 9), np.zeros((1, 4)), [], np.zeros(0), id="more boxes than labels"),
        pytest.param(picture(9, 9), np.zeros((1, 4)), ["open"], np.zeros(2), id="more scores than labels"),
        pytest.param(picture(9, 9), np.full((1, 4), np.nan), ["open"], np.zeros(1), id="NaN"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(image, xyxy, labels, scores):
    """A wrong shape, dtype or number is a ValueError, not a strange picture."""
    with pytest.raises(ValueError, match=r"must be|need"):
        draw_detections(image, xyxy, labels, scores)


def test_a_png_comes_back_as_it_was():
    """Encoding and decoding keep RGB order and every pixel."""
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)

    assert np.array_equal(decode_image(encode_image(image, ".PNG")), image)


@pytest.mark.parametrize("data", [b"", b"no picture"])
def test_bytes_that_are_no_picture_decode_to_none(data):
    """What OpenCV cannot read is None, not an exception."""
    assert decode_image(data) is None


# --- the command ------------------------------------------------------------------------------------------------------


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
