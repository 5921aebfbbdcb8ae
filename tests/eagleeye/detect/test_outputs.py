"""Outputs, where the command's own tests cannot reach."""

from pathlib import PurePath

import numpy as np
import pytest

from eagleeye.detect.inputs import Source
from eagleeye.detect.outputs import SUFFIXES, Format, drawn, drawn_name
from eagleeye.detect.pictures import Failure, Picture, pixels_of, read_image
from eagleeye.detect.video import CODECS
from gateway.annotate import encode_image
from tests.eagleeye.detect.test_rows import FOUND

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 96, 3)).astype(np.uint8)


def picture(data, **more):
    return Picture("a.png", PurePath("a.png"), data, **more)


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.png", "b/a.PNG"])
def test_a_drawn_picture_keeps_its_name(name):
    """Where its format can be written."""
    assert drawn_name(PurePath(name)) == PurePath(name)


@pytest.mark.parametrize("name", ["a.webp", "b/a.bmp", "a", "stdin", ".a"])
def test_another_format_becomes_png(name):
    """The old suffix stays, so that no two pictures meet."""
    assert drawn_name(PurePath(name)) == PurePath(f"{name}.png")


def test_a_picture_is_drawn_on_as_it_was():
    """A PNG's pixels come back in RGB order; a frame has them already."""
    assert np.array_equal(pixels_of(picture(encode_image(PIXELS, ".png"))), PIXELS)
    assert pixels_of(picture(b"", pixels=PIXELS)) is PIXELS


@pytest.mark.parametrize("data", [b"", b"no picture"])
def test_what_opencv_cannot_read_fails_alone(data):
    """The gateway may know better."""
    with pytest.raises(Failure, match="OpenCV cannot read it"):
        pixels_of(picture(data))


def test_another_size_for_the_gateway_fails_alone():
    """Boxes would lie where they do not belong."""
    with pytest.raises(Failure, match=r"another size for the gateway: \(96, 48\), not \(48, 96\)"):
        drawn(picture(encode_image(np.rot90(PIXELS), ".png")), FOUND)


def test_every_suffix_of_a_video_can_be_written():
    """What is offered is what there is a codec for."""
    assert {suffix for suffix, form in SUFFIXES.items() if form is Format.VIDEO} == set(CODECS)


def test_a_file_that_cannot_be_read_is_a_failure(tmp_path):
    """With the reason."""
    (failed,) = [read_image(Source("x", tmp_path, PurePath("x"))).data]
    assert isinstance(failed, Failure)
    assert str(failed) == "cannot be read: Is a directory"


@pytest.mark.parametrize("name, said", [("a.png", "a.png"), ("a\nb\udce4.png", "'a\\nb\\udce4.png'")])
def test_a_name_is_one_line(name, said):
    """Whatever bytes it has."""
    assert str(Picture(name, PurePath("x"), b"")) == said
    assert str(Picture(name, PurePath("x"), b"", frame=7)) == f"{said}, frame 7"
