"""`POST /v1/detect` of the live platform as curl calls it: forms, pictures, compression, `Expect`."""

import asyncio
import gzip
import json
import shutil

import pytest

from eagleeye.boards import LABELS
from gateway.image import ImageLimits, decode
from tests.conftest import missing

DEFECTS = set(LABELS)


@pytest.fixture
async def curl(platform):
    """Runs curl against the gateway; returns what it wrote to standard output."""
    if not shutil.which("curl"):
        missing("curl")

    async def curl(target, *arguments):
        process = await asyncio.create_subprocess_exec(
            "curl", "--silent", "--show-error", *arguments, platform.url + target, stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(90):
            output, _ = await process.communicate()
        assert process.returncode == 0
        return output

    return curl


@pytest.fixture
def picture(platform):
    return platform.folder / "state" / "board.jpg"


def labels(answer):
    return {detection["label"] for detection in answer["detections"]}


async def test_a_form_with_several_pictures(curl, picture, tmp_path):
    """Both pictures are found in, by their names, and a text between them is an error of its own."""
    text = tmp_path / "text.txt"
    text.write_text("no picture")
    files = [argument for path in (picture, text, picture) for argument in ("--form", f"file=@{path}")]
    answer = json.loads(await curl("/v1/detect", *files, "--form", "score_threshold=0.5"))
    first, second, third = answer["results"]
    assert [each["file"] for each in answer["results"]] == ["board.jpg", "text.txt", "board.jpg"]
    assert labels(first) == labels(third) == DEFECTS
    assert second["error"]["code"] == "unsupported_media_type"


async def test_an_annotated_picture(curl, picture):
    """The answer is a JPEG of the picture's size that differs from it, where the boxes are."""
    drawn = await curl("/v1/detect", "--data-binary", f"@{picture}", "--header", "Accept: image/jpeg")
    limits = ImageLimits(10_000_000, 10_000_000)
    before, after = decode(picture.read_bytes(), limits), decode(drawn, limits)
    assert after.shape == before.shape
    assert 0.001 < (abs(after.astype(int) - before).max(axis=2) > 60).mean() < 0.2


async def test_a_compressed_picture(curl, picture, tmp_path):
    """What gzip packed is unpacked first."""
    packed = tmp_path / "board.jpg.gz"
    packed.write_bytes(gzip.compress(picture.read_bytes()))
    answer = await curl("/v1/detect", "--data-binary", f"@{packed}", "--header", "Content-Encoding: gzip")
    assert labels(json.loads(answer)) == DEFECTS


async def test_coco_rows(curl, picture):
    """Rows for a result file, with the caller's image id."""
    rows = json.loads(await curl("/v1/detect?format=coco&image_id=7", "--data-binary", f"@{picture}"))
    assert {row["image_id"] for row in rows} == {7}
    assert {row["label"] for row in rows} == DEFECTS
    assert all(width > 0 and height > 0 for _, _, width, height in (row["bbox"] for row in rows))


async def test_an_upload_that_is_too_large_is_not_even_sent(curl, tmp_path):
    """The refusal comes instead of `100 Continue`, and curl sends nothing."""
    big = tmp_path / "big"
    big.write_bytes(bytes(30_000_000))
    report = ["--output", "/dev/null", "--write-out", "%{http_code} %{size_upload}"]
    said = await curl("/v1/detect", "--data-binary", f"@{big}", "--header", "Expect: 100-continue", *report)
    assert said == b"413 0"
