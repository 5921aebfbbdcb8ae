"""Videos through OpenCV: their frames one by one, and a new video of frames that were drawn on."""

from __future__ import annotations

import contextlib
import math
import os
from typing import TYPE_CHECKING, Final, TypeAlias

import cv2
import numpy as np

from eagleeye.detect.pictures import Failure, Picture
from gateway.annotate import encode_image

if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from pathlib import Path

    import numpy.typing as npt

    from eagleeye.detect.inputs import Source
    from eagleeye.detect.rows import Key

    UInt8Array: TypeAlias = npt.NDArray[np.uint8]

CODECS: Final = {".mp4": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG", ".webm": "VP80"}
"""Suffix -> the codec that OpenCV's wheel can write there at a good speed. It lacks an encoder for H.264, and VP9 takes
five times as long as VP8."""
DEFAULT_FPS: Final = 25.0
"""Of a video that does not say."""
LONGEST_PAUSE_SECONDS: Final = 10.0
"""A frame whose time lies farther ahead does not tell a pause but is damaged."""

_UNNOTICED_SECONDS: Final = 1.0
"""Of an AVI file may be missing at its end: recorders count frames that they have dropped."""

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # a broken video is told in our own words
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def read_frames(source: Source, every: int, done: Container[Key]) -> Iterator[Picture]:
    """Every `every`th frame of a video as JPEG, decoded when it is asked for; those that are done are passed over.

    A video that cannot be read is one picture with a Failure, and so is what is missing of one that is cut off, as far
    as that can be known: AVI counts its frames at its begin. MP4 and MOV can't be read at all then, unless their index
    stands in front, and what other files say of their length is an estimate.
    """
    with _opened(source) as capture:
        fps, index, end_seconds = frames_per_second(capture), 0, 0.0
        while capture.grab():
            end_seconds = _seconds(capture, index, fps) + 1 / fps
            if index % every == 0 and (source.name, index) not in done:
                yield _frame(source, capture, index, fps)
            index += 1
        missing_seconds = capture.get(cv2.CAP_PROP_FRAME_COUNT) / fps - end_seconds
    if index == 0:
        yield Picture(source.name, source.relative, Failure("it is not a video that can be read"))
    elif source.relative.suffix.lower() == ".avi" and missing_seconds > _UNNOTICED_SECONDS:
        yield Picture(
            source.name, source.relative, Failure(f"it is cut off: its last {missing_seconds:.1f} s are missing")
        )


def _seconds(capture: cv2.VideoCapture, index: int, fps: float) -> float:
    """When the frame that was grabbed is shown."""
    milliseconds = float(capture.get(cv2.CAP_PROP_POS_MSEC))
    return milliseconds / 1e3 if milliseconds > 0 else index / fps  # a stream without times says 0


def _frame(source: Source, capture: cv2.VideoCapture, index: int, fps: float) -> Picture:
    """The frame that was grabbed."""
    seconds = _seconds(capture, index, fps)
    relative = source.relative / f"{index:06d}.jpg"
    decoded, pixels = capture.retrieve()
    if not decoded:
        return Picture(source.name, relative, Failure("it is damaged"), index, seconds)
    rgb = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
    return Picture(source.name, relative, encode_image(rgb, ".jpg"), index, round(seconds, 6), rgb)


def count_frames(path: Path, every: int) -> int | None:
    """How many frames `read_frames` will give, as far as the file says."""
    with _capture(path) as capture:
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return math.ceil(count / every) if count > 0 else None


def frames_per_second(capture: cv2.VideoCapture) -> float:
    """The frame rate, a usual one where the file does not say."""
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    return fps if 0 < fps < math.inf else DEFAULT_FPS


def read_fps(path: Path) -> float:
    """The frame rate of a file."""
    with _capture(path) as capture:
        return frames_per_second(capture)


def _opened(source: Source) -> contextlib.AbstractContextManager[cv2.VideoCapture]:
    assert source.path is not None  # noqa: S101 (a video has a suffix, and so a path)
    return _capture(source.path)


@contextlib.contextmanager
def _capture(path: Path) -> Iterator[cv2.VideoCapture]:
    capture = cv2.VideoCapture(str(path))
    try:
        yield capture
    finally:
        capture.release()


class VideoWriter:
    """Writes frames of one size at a constant rate, each for as long as it was shown."""

    def __init__(self, path: Path, fps: float) -> None:
        """The file is made with the first frame; its suffix is one of `CODECS`."""
        self.path = path
        self._fps = fps
        self._writer: cv2.VideoWriter | None = None
        self._shown: UInt8Array | None = None
        self._written = 0
        self._first_seconds = 0.0

    def close(self) -> None:
        """Ends the file.

        Raises:
            OSError: it lacks frames: OpenCV says nothing when the disk is full.
        """
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        if (count_frames(self.path, every=1) or 0) < self._written:  # Ctrl-C may come before the last one is counted
            raise OSError(None, "it lacks frames; is the disk full?", str(self.path))

    def write(self, pixels: UInt8Array, seconds: float) -> None:
        """Adds a frame, uint8 (H, W, 3) RGB, that is shown from `seconds` on.

        Raises:
            OSError: the file cannot be written.
        """
        if self._writer is None:
            self._writer, self._first_seconds = self._open(pixels), seconds
        frame = np.asarray(cv2.cvtColor(_even(pixels), cv2.COLOR_RGB2BGR), np.uint8)
        due = round((seconds - self._first_seconds) * self._fps)
        again = frames_to_fill(due, self._written, self._fps)
        for each in [frame if self._shown is None else self._shown] * again + [frame] * (due >= self._written):
            self._writer.write(each)
            self._written += 1
        self._shown = frame

    def _open(self, pixels: UInt8Array) -> cv2.VideoWriter:
        height, width, _ = _even(pixels).shape
        codec = cv2.VideoWriter.fourcc(*CODECS[self.path.suffix.lower()])
        self.path.touch()  # OpenCV would not say why it cannot
        with silenced_stderr():
            writer = cv2.VideoWriter(str(self.path), cv2.CAP_FFMPEG, codec, self._fps, (width, height))
        if not writer.isOpened():
            raise OSError(None, f"OpenCV cannot write {self.path.suffix} here", str(self.path))
        return writer


def frames_to_fill(due: int, written: int, fps: float) -> int:
    """How often the frame before has to be shown again, so that the next one comes when it is due.

    At a constant rate that is never. So times of a variable rate are kept to within a frame, where a frame that comes
    too early for the rate is left out.

    Args:
        due: the place of the next frame by its time.
        written: frames in the file so far.
        fps: frames per second of the file.
    """
    gap = due - written
    return gap if 0 < gap <= LONGEST_PAUSE_SECONDS * fps else 0


def _even(pixels: UInt8Array) -> UInt8Array:
    """The frame with its last row and column repeated where a side is odd: the codecs would cut them off."""
    height, width, _ = pixels.shape
    return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


@contextlib.contextmanager
def silenced_stderr() -> Iterator[None]:
    """Keeps OpenCV from writing to standard error about tags of codecs, which it does past its own log level."""
    before = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:  # noqa: PTH123 (a device, not a file)
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
