"""Calibration images are seen as the gateway sees them."""

import re
import shutil

import numpy as np
import pytest

from export.calibration import CalibrationSet, read_calibration
from export.errors import OptionError
from gateway.image import ImageLimits, decode
from gateway.resize import ResizeMode, resize


def test_images_are_what_the_gateway_makes(calibration_folder):
    """Each file becomes the very tensor that a request with it would become, in the order of the names."""
    images = list(read_calibration(calibration_folder, 64))

    limits = ImageLimits(10**6, 10**6)
    for image, file in zip(images, sorted(calibration_folder.iterdir()), strict=True):
        expected, _ = resize(decode(file.read_bytes(), limits), (64, 64), ResizeMode.STRETCH)
        assert (image.dtype, image.shape) == (np.uint8, (1, 64, 64, 3))
        np.testing.assert_array_equal(image[0], expected)


@pytest.mark.parametrize(
    "count, picks", [(1, [0]), (3, [0, 2, 4]), (4, [0, 1, 3, 4]), (6, list(range(6))), (9, list(range(6)))]
)
def test_sample_is_spread(calibration_folder, count, picks):
    """A sample has as many as asked for, from the whole range, and never more than there are."""
    whole = read_calibration(calibration_folder, 64)

    assert whole.sample(count) == CalibrationSet(tuple(whole.files[pick] for pick in picks), 64)


def test_digest_is_of_the_content(calibration_folder, tmp_path):
    """Names don't count, pixels do."""
    before = read_calibration(calibration_folder, 64).digest()
    for file in calibration_folder.iterdir():
        shutil.copy(file, tmp_path / f"copy-{file.name}")

    assert read_calibration(tmp_path, 64).digest() == before
    (tmp_path / "copy-5.png").unlink()
    assert read_calibration(tmp_path, 64).digest() != before


def test_other_files_are_passed_over(calibration_folder, tmp_path):
    """Annotations and folders beside the images are no images."""
    shutil.copy(calibration_folder / "0.png", tmp_path / "0.PNG")
    (tmp_path / "annotations.json").write_text("{}")
    (tmp_path / "folder.jpg").mkdir()

    assert [file.name for file in read_calibration(tmp_path, 64).files] == ["0.PNG"]


def test_empty_folder_is_refused(tmp_path):
    """A folder without an image is named, with what counts as one."""
    with pytest.raises(OptionError, match=re.escape(f"{tmp_path} holds no image (.bmp, .jpeg, .jpg, .png, .webp)")):
        read_calibration(tmp_path, 64)


def test_missing_folder_is_refused(tmp_path):
    """So is one that is not there."""
    with pytest.raises(OptionError, match=r"cannot read the calibration folder .*: No such file"):
        read_calibration(tmp_path / "none", 64)


def test_broken_image_is_named(tmp_path):
    """A file that is no image stops the export with its name, instead of being left out."""
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nand then nothing")

    with pytest.raises(OptionError, match=r"calibration image .*broken\.png cannot be used: .*truncated or damaged"):
        list(read_calibration(tmp_path, 64))
