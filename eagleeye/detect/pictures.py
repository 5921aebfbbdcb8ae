"""What is sent to the gateway and what comes of it: one encoded image at a time, read when its turn comes."""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from eagleeye.detect.inputs import printable

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence
    from pathlib import PurePath

    import numpy as np
    import numpy.typing as npt

    from eagleeye.detect.inputs import Source
    from eagleeye.detect.rows import Key

    UInt8Array: TypeAlias = npt.NDArray[np.uint8]


class Failure(Exception):
    """There is no answer about one picture. `code` is the gateway's, or `unreadable` if it was never asked."""

    def __init__(self, message: str, code: str = "unreadable", request_id: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.request_id = request_id


@dataclass(frozen=True, slots=True)
class Picture:
    """One image to look at.

    Attributes:
        name: its source, as the user gave it.
        relative: its place in a folder of results.
        data: the encoded image that is sent, or why there is none.
        frame: its number in a video, from 0; None for an image.
        time_seconds: when it is shown in its video; None for an image.
        pixels: uint8 (H, W, 3) RGB of a frame; None for an image, of which `data` has all that there is.
    """

    name: str
    relative: PurePath
    data: bytes | Failure
    frame: int | None = None
    time_seconds: float | None = None
    pixels: UInt8Array | None = None

    @property
    def key(self) -> Key:
        """Which picture it is, in this run and in a later one."""
        return self.name, self.frame

    def __str__(self) -> str:
        """For a message of one line."""
        name = printable(self.name)
        return name if self.frame is None else f"{name}, frame {self.frame}"


def read_pictures(
    sources: Sequence[Source], every: int, done: Container[Key]
) -> Iterator[tuple[bool, Iterator[Picture]]]:
    """The pictures of all sources but those that are done, each read only when it is asked for.

    Args:
        sources: where to read.
        every: N, to take each N-th frame of a video.
        done: what needs not be read.

    Yields:
        A series, after whether it is one of frames: images that follow one another, or the frames of one video.
    """
    for video, group in itertools.groupby(sources, key=lambda source: source if source.is_video else None):
        if video is None:
            yield False, (read_image(source) for source in group if (source.name, None) not in done)
        else:
            from eagleeye.detect.video import read_frames  # noqa: PLC0415 (OpenCV, which images do not need)

            yield True, read_frames(video, every, done)


def read_image(source: Source) -> Picture:
    """The bytes of an image file; whether they are an image is the gateway's to say."""
    try:
        data: bytes | Failure = sys.stdin.buffer.read() if source.path is None else source.path.read_bytes()
    except OSError as error:
        data = Failure(f"cannot be read: {error.strerror}")
    except ValueError as error:  # a name with a zero byte, as `find -print0` writes
        data = Failure(f"cannot be read: {error}")
    return Picture(source.name, source.relative, data)


def pixels_of(picture: Picture) -> UInt8Array:
    """The picture that was sent, uint8 (H, W, 3) RGB, upright by its EXIF orientation.

    Raises:
        Failure: OpenCV cannot read it.
    """
    import cv2  # noqa: PLC0415 (only drawing needs it, and help must not wait for it)
    import numpy as np  # noqa: PLC0415

    if picture.pixels is not None:
        return picture.pixels
    if isinstance(picture.data, Failure):
        raise picture.data
    try:
        decoded = cv2.imdecode(np.frombuffer(picture.data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # an empty file, or more pixels than OpenCV takes
        decoded = None
    if decoded is None:
        raise Failure("OpenCV cannot read it, so nothing can be drawn on it")
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)
