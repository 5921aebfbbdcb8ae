"""Rows of an output, and how an interrupted run finds them again."""

import json
from pathlib import PurePath

import numpy as np
import pytest

from eagleeye import Detections
from eagleeye.detect.pictures import Failure, Picture
from eagleeye.detect.rows import (
    COLUMNS,
    answer_row,
    csv_lines,
    csv_rows,
    error_row,
    finished_csv,
    finished_json,
    json_line,
    recover,
)

FOUND = Detections(
    xyxy=np.array([[1.5, 2, 30.1, 40], [0, 0, 5, 6]], np.float32),
    scores=np.array([0.9, 0.6], np.float32),
    class_ids=np.array([1, 0], np.int32),
    labels=("dog", "cat"),
    image_wh=(96, 48),
    model="toy",
    version="3",
)
NOTHING = Detections(
    np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32), (), (96, 48), "toy", "3"
)


def picture(name="a.png", **more):
    return Picture(name, PurePath(name), b"", **more)


def test_a_row_says_what_the_gateway_says():
    """In the shape of its REST answer, with the shortest numbers that are the same float32."""
    assert answer_row(picture(), FOUND) == {
        "input": "a.png",
        "model": {"name": "toy", "version": "3"},
        "image": {"width": 96, "height": 48},
        "detections": [
            {"label": "dog", "class_id": 1, "score": 0.9, "box": {"x1": 1.5, "y1": 2.0, "x2": 30.1, "y2": 40.0}},
            {"label": "cat", "class_id": 0, "score": 0.6, "box": {"x1": 0.0, "y1": 0.0, "x2": 5.0, "y2": 6.0}},
        ],
    }


def test_a_frame_says_when_it_was():
    """Number and time, also where there is no answer."""
    frame = picture("a.mp4", frame=7, time_seconds=0.28)
    assert list(answer_row(frame, NOTHING).items())[:3] == [("input", "a.mp4"), ("frame", 7), ("time_seconds", 0.28)]
    assert error_row(frame, Failure("no", "invalid_image", "r1")) == {
        "input": "a.mp4",
        "frame": 7,
        "time_seconds": 0.28,
        "error": {"code": "invalid_image", "detail": "no", "request_id": "r1"},
    }


def test_csv_has_a_row_for_each_detection():
    """And one for a picture without any, so that it is known to be done."""
    dog, cat = csv_rows(answer_row(picture(), FOUND))
    assert dict(zip(COLUMNS, dog, strict=True))["label"] == "dog"
    assert cat == ("a.png", None, None, 96, 48, "toy", "3", 2, "cat", 0, 0.6, 0.0, 0.0, 5.0, 6.0)
    assert csv_rows(answer_row(picture(), NOTHING)) == [("a.png", None, None, 96, 48, "toy", "3", 0, *[None] * 7)]


NAMES = ["a.png", 'quoted " and, comma.png', "line\nbreak\r.png", "return\r.png", "b\udce4d.png", "ärger.png"]


def json_file(path):
    rows = [answer_row(picture(name), found) for name, found in zip(NAMES, [FOUND, NOTHING] * 3, strict=False)]
    path.write_bytes(b"".join(json_line(row) for row in rows))
    return [json_line(row) for row in rows]


def csv_file(path):
    rows = [
        csv_rows(answer_row(picture(name), found)) for name, found in zip(NAMES, [FOUND, NOTHING] * 3, strict=False)
    ]
    path.write_bytes(csv_lines([COLUMNS]) + b"".join(csv_lines(each) for each in rows))
    return [csv_lines(each) for each in rows]


@pytest.mark.parametrize("write, finished", [(json_file, finished_json), (csv_file, finished_csv)])
def test_a_whole_file_stays_as_it_is(tmp_path, write, finished):
    """Whatever the files are called."""
    path = tmp_path / "found"
    write(path)
    before, inode = path.read_bytes(), path.stat().st_ino
    assert recover(path, finished) == {(name, None) for name in NAMES}
    assert (path.read_bytes(), path.stat().st_ino) == (before, inode)


@pytest.mark.parametrize(
    "write, finished, header", [(json_file, finished_json, b""), (csv_file, finished_csv, csv_lines([COLUMNS]))]
)
def test_a_file_cut_anywhere_keeps_what_is_whole(tmp_path, write, finished, header):
    """No torn line stays, no picture of which a row is missing, and no picture that is whole is lost."""
    path = tmp_path / "found"
    parts = write(path)
    whole = path.read_bytes()
    ends = np.cumsum([len(header), *map(len, parts)])
    for size in {*range(0, len(whole), 11), *(max(0, end + step) for end in ends for step in (-1, 0, 1))}:
        path.write_bytes(whole[:size])
        kept = int((ends[1:] <= size).sum())
        assert recover(path, finished) == {(name, None) for name in NAMES[:kept]}
        assert path.read_bytes() == (whole[: ends[kept]] if size >= len(header) else b"")


def test_what_failed_is_taken_out(tmp_path):
    """It is asked about again, and must not stand there twice."""
    path = tmp_path / "found"
    good, bad = json_line(answer_row(picture("a"), FOUND)), json_line(error_row(picture("b"), Failure("no")))
    path.write_bytes(bad + good + bad)
    assert recover(path, finished_json) == {("a", None)}
    assert path.read_bytes() == good


@pytest.mark.parametrize("finished", [finished_json, finished_csv])
def test_frames_are_told_apart(tmp_path, finished):
    """By their numbers."""
    path, rows = tmp_path / "found", [answer_row(picture("a.mp4", frame=n, time_seconds=n / 5), FOUND) for n in (0, 2)]
    write = {finished_json: json_line, finished_csv: lambda row: csv_lines(csv_rows(row))}[finished]
    path.write_bytes(b"".join(map(write, rows)))
    assert recover(path, finished) == {("a.mp4", 0), ("a.mp4", 2)}


@pytest.mark.parametrize("line", [b"\x00" * 30 + b"\n", b"[]\n", b"3\n", b"{}\n", b"\xff\n"])
def test_a_line_of_something_else_is_taken_out(tmp_path, line):
    """Such as the zeros that a power cut may leave."""
    path, good = tmp_path / "found", json_line({"input": "a"})
    path.write_bytes(good + line)
    assert recover(path, finished_json) == {("a", None)}
    assert json.loads(path.read_bytes()) == {"input": "a"}
