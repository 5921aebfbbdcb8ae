"""Detections drawn on pictures of any size."""

import itertools

import numpy as np
import pytest

from eagleeye.boards import LABELS
from gateway.annotate import draw_detections, encode_image, label_colour
from gateway.image import ImageLimits, decode

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


@pytest.mark.parametrize("height,width", [(240, 320), (2160, 3840)], ids=str)
def test_colours_and_text_survive_jpeg(height, width):
    """From 320 pixels to 4K, thin lines and small letters are nearly what was drawn."""
    drawn = draw(picture(height, width), ("mousebite", 0.88, np.array([0.3, 0.4, 0.5, 0.6]) * ([width, height] * 2)))
    sent = decode(encode_image(drawn, ".jpg"), ImageLimits(10_000_000, 10_000_000))

    assert np.abs(sent.astype(int) - drawn).max() <= 30


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
