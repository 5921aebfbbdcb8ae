"""The lines of docs/command-line.md, and `eagleeye detect` over the shipped model and a real Triton."""

import json
import os
import shutil
import subprocess
import sys

import cv2
import pytest
from pycocotools.coco import COCO

from eagleeye.boards import LABELS
from tests.conftest import REPOSITORY

SECONDS = 120


@pytest.fixture
def workplace(tmp_path, board):
    """A folder as the page's reader has it: the sample, a folder of boards, and a video."""
    (tmp_path / ".eagleeye").mkdir()
    (tmp_path / ".eagleeye" / "board.jpg").write_bytes(board)
    (tmp_path / "boards").mkdir()
    pixels = cv2.imread(str(tmp_path / ".eagleeye" / "board.jpg"))
    shutil.copy(tmp_path / ".eagleeye" / "board.jpg", tmp_path / "boards" / "one.jpg")
    cv2.imwrite(str(tmp_path / "boards" / "two.png"), pixels[::-1])
    writer = cv2.VideoWriter(str(tmp_path / "belt.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (640, 480))
    for number in range(6):
        writer.write(pixels[20 * number : 20 * number + 480])
    writer.release()
    return tmp_path


@pytest.fixture
def shell(platform, workplace):
    """Runs a line of the page against the live gateway; returns what it wrote to standard output."""
    platform.wait_until_ready()

    def run(line):
        line = line.replace(".venv/bin/eagleeye", f"{sys.executable} -m eagleeye")
        line = line.replace("127.0.0.1:8081", f"127.0.0.1:{platform.ports['grpc']}")
        ended = subprocess.run(
            ["bash", "-c", line],
            cwd=workplace,
            env={**os.environ, "EAGLEEYE_URL": platform.url},
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        assert ended.returncode == 0, (line, ended.stderr.decode())
        return ended.stdout.decode()

    return run


def lines_of_the_page():
    """Its commands."""
    page = (REPOSITORY / "docs" / "command-line.md").read_text()
    return [line.strip() for line in page.splitlines() if line.startswith("    ")]


def test_every_line_of_the_page_works(shell, workplace):
    """In their order, and each leaves what it says."""
    said = {line: shell(line) for line in lines_of_the_page()}
    assert len(said) >= 9
    (first,) = (json.loads(text) for line, text in said.items() if line.endswith("detect .eagleeye/board.jpg"))
    assert {found["label"] for found in first["detections"]} == set(LABELS)
    (last,) = (json.loads(text) for line, text in said.items() if line.startswith("find "))
    assert last["input"] == "boards/one.jpg"
    assert last["detections"] == first["detections"]
    assert len((workplace / "found.jsonl").read_text().splitlines()) == 2
    assert (workplace / "found.csv").read_text().count("boards/two.png") >= 1
    coco = COCO(str(workplace / "found.json"))
    assert [category["name"] for category in coco.dataset["categories"]] == list(LABELS)
    assert len(coco.getAnnIds(imgIds=1)) == len(first["detections"])
    assert sorted(path.name for path in (workplace / "annotated").iterdir()) == ["one.jpg", "two.png"]
    capture = cv2.VideoCapture(str(workplace / "belt.found.webm"))
    assert (capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)) == (3, 12.5)
    capture.release()


def test_the_readmes_picture_can_be_made(shell, workplace):
    """`docs/pictures/board.jpg` is what the shipped model finds on the sample."""
    shell(".venv/bin/eagleeye detect .eagleeye/board.jpg --format images --output drawn")
    made, shown = (
        cv2.imread(str(path)) for path in (workplace / "drawn/board.jpg", REPOSITORY / "docs/pictures/board.jpg")
    )
    assert abs(made.astype(int) - shown).mean() < 1  # scores differ in their last digits between machines


def test_a_video_gives_the_same_rows_over_both_faces(shell, platform):
    """One stream or many requests: byte for byte."""
    rest = shell(".venv/bin/eagleeye detect belt.mp4")
    assert shell(f".venv/bin/eagleeye detect belt.mp4 --url grpc://127.0.0.1:{platform.ports['grpc']}") == rest
    assert [json.loads(line)["frame"] for line in rest.splitlines()] == list(range(6))
