"""Videos: frames in, frames out, and their times."""

from dataclasses import replace
from pathlib import PurePath

import cv2
import numpy as np
import pytest

from eagleeye.detect.inputs import Source
from eagleeye.detect.pictures import Failure
from eagleeye.detect.video import CODECS, VideoWriter, count_frames, frames_to_fill, read_fps, read_frames
from tests.eagleeye.detect.conftest import film


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "clip.avi"
    film(path, 12)
    return Source("clip.avi", path, PurePath("clip.avi"))


def brightness(picture):
    """What the JPEG that is sent shows."""
    return cv2.imdecode(np.frombuffer(picture.data, np.uint8), cv2.IMREAD_COLOR).mean()


def test_every_frame_is_read(source):
    """With its number, its time, its place and its pixels."""
    frames = list(read_frames(source, 1, ()))
    assert [frame.frame for frame in frames] == list(range(12))
    assert [frame.time_seconds for frame in frames] == pytest.approx([number / 10 for number in range(12)])
    assert [brightness(frame) for frame in frames] == pytest.approx([20 * number for number in range(12)], abs=3)
    assert frames[7].relative == PurePath("clip.avi/000007.jpg")
    assert (frames[7].pixels.shape, frames[7].pixels.dtype) == ((48, 96, 3), np.uint8)


@pytest.mark.parametrize("every, numbers", [(1, [0, 2, 3, 4]), (5, [0, 10]), (100, [0])])
def test_frames_are_left_out(source, every, numbers):
    """Those between, and those that are done; the others keep their numbers."""
    done = {("clip.avi", number) for number in (1, 5, 6, 7, 8, 9, *(range(10, 12) if every == 1 else ()))}
    assert [frame.frame for frame in read_frames(source, every, done)] == numbers


def test_frames_are_decoded_when_they_are_asked_for(source, monkeypatch):
    """So that a video of any length fits into memory."""
    decoded = []
    monkeypatch.setattr("eagleeye.detect.video.encode_image", lambda *_: decoded.append(1) or b"")
    frames = read_frames(source, 1, ())
    assert decoded == []
    next(frames)
    assert decoded == [1]
    frames.close()


@pytest.mark.parametrize("content", [None, b"", b"no video", "cut"])
def test_what_is_no_video_fails_once(source, content):
    """Also where OpenCV would write to standard error about it."""
    if content is None:
        source.path.unlink()
    else:
        source.path.write_bytes(source.path.read_bytes()[:600] if content == "cut" else content)
    (picture,) = read_frames(source, 1, ())
    assert isinstance(picture.data, Failure)
    assert str(picture.data) == "it is not a video that can be read"


def test_what_is_missing_of_a_video_that_is_cut_off_is_told(source):
    """After the frames that are there; AVI says how many there should be."""
    film(source.path, 40)
    assert all(frame.frame is not None for frame in read_frames(source, 1, ()))
    content = source.path.read_bytes()
    source.path.write_bytes(content[: len(content) // 2])

    *frames, rest = read_frames(source, 1, ())

    assert (frames[0].frame, frames[-1].frame) == (0, len(frames) - 1)
    assert (rest.name, rest.frame) == ("clip.avi", None)
    assert str(rest.data) == f"it is cut off: its last {4 - len(frames) / 10:.1f} s are missing"


@pytest.mark.parametrize("every, count", [(1, 12), (5, 3), (12, 1), (13, 1)])
def test_frames_are_counted(source, every, count):
    """As many as will be read."""
    assert count_frames(source.path, every) == count == len(list(read_frames(source, every, ())))


def test_who_does_not_know_says_so(tmp_path):
    """A file that is no video has no count."""
    assert count_frames(tmp_path / "none.mp4", 1) is None


def frames_of(path):
    """The mean of each frame's pixels."""
    capture, means = cv2.VideoCapture(str(path)), []
    while (frame := capture.read())[0]:
        means.append(frame[1].mean())
    capture.release()
    return means


@pytest.mark.parametrize("suffix", CODECS)
def test_every_kind_of_video_can_be_written(tmp_path, suffix, capfd):
    """Frame rate, size and order come back, and OpenCV is silent; an odd side gains a pixel."""
    writer = VideoWriter(tmp_path / f"new{suffix}", 12.5)
    for number in range(10):
        writer.write(np.full((47, 95, 3), 20 * number, np.uint8), number / 12.5)
    writer.close()
    capture = cv2.VideoCapture(str(writer.path))
    assert [capture.get(prop) for prop in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)] == [96, 48]
    capture.release()
    assert read_fps(writer.path) == pytest.approx(12.5, abs=0.01)
    assert frames_of(writer.path) == pytest.approx([20 * number for number in range(10)], abs=6)
    assert capfd.readouterr() == ("", "")


def test_a_pause_is_shown(tmp_path):
    """The frame before it stays until the next one is due, and one that comes too early is left out."""
    writer = VideoWriter(tmp_path / "new.avi", 10)
    for seconds, value in [(5.0, 40), (5.1, 80), (5.5, 120), (5.52, 160), (5.6, 200)]:
        writer.write(np.full((48, 96, 3), value, np.uint8), seconds)
    writer.close()
    assert frames_of(writer.path) == pytest.approx([40, 80, 80, 80, 80, 120, 200], abs=3)


@pytest.mark.parametrize(
    "due, written, frames",
    [(0, 0, 0), (7, 7, 0), (7, 8, 0), (9, 7, 2), (250, 0, 250), (100_000, 3, 0)],
    ids=["first", "due", "early", "pause", "long pause", "damaged time"],
)
def test_gaps_are_filled(due, written, frames):
    """But for those that only a damaged time makes."""
    assert frames_to_fill(due, written, 25.0) == frames


def test_a_video_that_cannot_be_written_says_why(tmp_path):
    """OpenCV would say nothing."""
    writer = VideoWriter(tmp_path / "missing" / "new.mp4", 10)
    with pytest.raises(FileNotFoundError):
        writer.write(np.zeros((48, 96, 3), np.uint8), 0)
    writer.close()


def test_a_video_that_lacks_frames_is_an_error(tmp_path, source):
    """As on a full disk, of which OpenCV says nothing."""
    writer = VideoWriter(tmp_path / "new.avi", 10)
    for frame in read_frames(source, 1, ()):
        writer.write(frame.pixels, frame.time_seconds)
    writer._written += 1
    with pytest.raises(OSError, match="it lacks frames"):
        writer.close()


def test_a_source_is_named_in_each_frame(source):
    """As the user gave it."""
    named = replace(source, name="./x/clip.avi")
    assert {frame.name for frame in read_frames(named, 4, ())} == {"./x/clip.avi"}
