"""Preprocessing against the official one's fixtures, and the way back for boxes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.resize import ResizeMode, resize


@pytest.fixture(scope="module")
def fixtures(shared_dir):
    with np.load(shared_dir / "damo-yolo" / "parity" / "preprocess.npz") as archive:
        return dict(archive)


def stretched(fixtures):
    """Every fixture but the source image and the keep-ratio one, as (H, W, 3)."""
    return {name: array for name, array in fixtures.items() if name != "image" and array.shape[1:] != (36, 64)}


def test_stretch_equals_the_official_preprocessing(fixtures):
    """Official pixels within one step, which is the fixtures' own tolerance."""
    for name, planes in stretched(fixtures).items():
        expected = planes.transpose(1, 2, 0).astype(int)
        tensor, _ = resize(fixtures["image"], expected.shape[1::-1], ResizeMode.STRETCH)
        assert np.abs(tensor.astype(int) - expected).max() <= 1, name


def test_letterbox_equals_the_official_keep_ratio(fixtures):
    """One scale, whole pixels, zeros at the right and the bottom."""
    (expected,) = (array for array in fixtures.values() if array.shape[1:] == (36, 64))
    tensor, back = resize(fixtures["image"], (64, 64), ResizeMode.LETTERBOX)
    assert np.abs(tensor[:36].astype(int) - expected.transpose(1, 2, 0)).max() <= 1
    assert not tensor[36:].any()
    assert back.scale_wh == (64 / 217, 36 / 123)


@given(
    source_wh=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    size_wh=st.tuples(st.integers(1, 10), st.integers(1, 10)),
    mode=st.sampled_from(ResizeMode),
)
def test_the_way_back_ends_where_the_image_ends(source_wh, size_wh, mode):
    """The part of the tensor that shows the image maps back onto the whole image, also for odd and thin sizes."""
    width, height = source_wh
    size_wh = (size_wh[0] * 32, size_wh[1] * 32)
    tensor, back = resize(np.full((height, width, 3), 255, np.uint8), size_wh, mode)
    shown = tensor.any(axis=2)
    shown_wh = (shown.any(axis=0).sum(), shown.any(axis=1).sum())

    box = back.to_source(np.array([[0, 0, *shown_wh]], np.float32))

    assert tensor.shape == (*size_wh[::-1], 3)
    assert box[0] == pytest.approx([0, 0, width, height], rel=1e-5)
