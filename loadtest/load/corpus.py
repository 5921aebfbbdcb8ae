"""The pictures that are sent, and the right answer to each."""

from __future__ import annotations

import io
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image, ImageOps

from loadtest.images import make_images
from loadtest.load.answers import BOX_TOLERANCE, Answer, Reference
from loadtest.load.profile import Size
from loadtest.load.table import BadProfile
from triton_runtime.standin import MODEL as STANDIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from loadtest.load.profile import Images

_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
_PILLOW: Final = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "bmp": "BMP"}
_EXACT: Final = 1e-3
"""Pixels; what is foretold is not measured."""
_AS_DRAWN: Final = (Size(wh=None, weight=1.0, format="jpg", quality=90),)


@dataclass(frozen=True, slots=True)
class Picture:
    """One encoded image.

    Attributes:
        name: its file's, or what it is.
        data: its bytes.
        weight: how often it is sent, beside others.
        longer_side: in pixels.
        foretold: its right answer where that is known beforehand.
    """

    name: str
    data: bytes
    weight: float
    longer_side: int
    foretold: Answer | None = None


def pictures(images: Images, model: str, folder: Path | None) -> list[Picture]:
    """What a profile asks for, for a deployment that serves `model`.

    Args:
        images: the profile's.
        model: its name; the stand-in's own pictures are the default for the stand-in, boards for others.
        folder: of the user's own pictures, which come before those of the profile.

    Raises:
        BadProfile: there are none, or one is no picture.
    """
    source = _source(images.source, model, folder)
    if source == "numbered":
        return list(_numbered(images.count))
    made = list(_of_folder(folder, images.sizes) if folder else _boards(images.count, images.sizes))
    if not made:
        raise BadProfile(f"{folder} has no pictures; they end in {', '.join(sorted(_SUFFIXES))}")
    return made


def _source(source: str, model: str, folder: Path | None) -> str:
    if folder is not None:
        return "folder"
    if source == "folder":
        raise BadProfile("the profile sends pictures of yours; name their folder by --images")
    if source != "auto":
        return source
    return "numbered" if model == STANDIN else "boards"


def fingerprint(made: Sequence[Picture]) -> int:
    """A checksum of all pictures: generators that make them by themselves must send the same ones."""
    checksum = 0
    for picture in made:
        checksum = zlib.crc32(picture.data, checksum)
    return checksum


def references(
    made: Sequence[Picture], expected: Path | None, threshold: float, ask: Callable[[Picture], Answer]
) -> list[Reference]:
    """The right answer to each picture: foretold, or from a file, or else what is answered now.

    Args:
        made: the pictures.
        expected: JSON lines as `eagleeye detect` writes them, found by the files' names.
        threshold: what scores less is not reported.
        ask: sends a picture and gives its answer.

    Raises:
        BadProfile: the file has no answer for a picture.
        Exception: what `ask` raises.
    """
    known = _read(expected) if expected else {}
    right = []
    for picture in made:
        if expected and picture.name not in known:
            raise BadProfile(f"{expected} has no answer for {picture.name}")
        answer = known.get(picture.name) or picture.foretold or ask(picture)
        pixels = _EXACT if picture.foretold else max(2.0, BOX_TOLERANCE * picture.longer_side)
        right.append(Reference(answer, threshold, pixels))
    return right


def _read(expected: Path) -> dict[str, Answer]:
    """Answers by the names of their pictures' files."""
    known = {}
    try:
        for line in expected.read_text(encoding="utf-8").splitlines():
            row: dict[str, Any] = json.loads(line)
            if "error" not in row:
                known[Path(row["input"]).name] = Answer.of_json(row["detections"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadProfile(f"{expected} holds no lines of `eagleeye detect --format jsonl`: {error!r}") from error
    return known


def _numbered(count: int) -> Iterator[Picture]:
    for number, image in enumerate(make_images(count)):
        with Image.open(io.BytesIO(image.data)) as opened:
            side = max(opened.size)
        yield Picture(f"number {number}", image.data, 1.0, side, Answer.of_json(image.expected))


def _boards(count: int, sizes: Sequence[Size]) -> Iterator[Picture]:
    from eagleeye.boards import draw_board  # noqa: PLC0415 (OpenCV, which other pictures do not need)

    for seed in range(count):
        with Image.fromarray(draw_board(seed).image) as drawn:
            yield from _sized(f"board {seed}", drawn, sizes or _AS_DRAWN)


def _of_folder(folder: Path, sizes: Sequence[Size]) -> Iterator[Picture]:
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in _SUFFIXES:
            continue
        try:
            with Image.open(path) as opened:
                if sizes:
                    yield from _sized(path.name, ImageOps.exif_transpose(opened).convert("RGB"), sizes)
                else:
                    yield Picture(path.name, path.read_bytes(), 1.0, max(opened.size))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise BadProfile(f"{path} is no picture that can be read: {error}") from error


def _sized(name: str, drawn: Image.Image, sizes: Sequence[Size]) -> Iterator[Picture]:
    """One picture in each of the sizes."""
    for size in sizes:
        wh = size.wh or drawn.size
        data = io.BytesIO()
        drawn.resize(wh).save(data, _PILLOW[size.format], quality=size.quality)
        called = name if len(sizes) == 1 else f"{name}, {wh[0]} x {wh[1]} {size.format}"
        yield Picture(called, data.getvalue(), size.weight, max(wh))


def shares(made: Sequence[Picture]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """How likely each picture is the next one, float64 (N,)."""
    weights = np.array([picture.weight for picture in made])
    likely: np.ndarray[tuple[int], np.dtype[np.float64]] = weights / weights.sum()
    return likely
