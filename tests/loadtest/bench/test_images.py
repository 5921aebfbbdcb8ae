"""Images to measure with."""

import io

import numpy as np
import pytest
from PIL import Image

from loadtest.bench.images import FORMATS, SIZES_WH, encoded, jpegs, photo


@pytest.mark.parametrize("image_format", FORMATS)
def test_every_format_holds_the_picture(image_format):
    """In its size, and near enough to the pixels where it is lossy."""
    with Image.open(io.BytesIO(encoded("720p", image_format))) as image:
        assert (image.format, image.size) == (image_format, SIZES_WH["720p"])
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - photo("720p")).mean() < 5


def test_pictures_are_the_same_on_every_run():
    """Two that are made apart are equal."""
    assert (photo.__wrapped__("720p", 1) == photo("720p", 1)).all()


def test_a_jpeg_is_as_large_as_a_photograph():
    """0.5 to 0.7 MB at 1080p: what its bits cost a decoder is what makes it slow."""
    assert 500_000 < len(encoded("1080p")) < 700_000


def test_callers_send_different_pictures():
    """No two of them are alike."""
    assert len(set(jpegs("720p"))) == 4
