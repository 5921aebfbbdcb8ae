"""Images to measure with: photographs of boards that nobody took, the same bytes on every run.

A drawn board is stretched to the size, lit unevenly, and given a surface and a sensor's noise. To decoders it is what
photographs are: JPEGs of some 2.4 bits a pixel at quality 90, 0.6 MB for 1920 x 1080.
"""

from __future__ import annotations

import io
from functools import cache
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
from PIL import Image

from eagleeye.boards import DEFAULT_SEED, draw_board

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZES_WH: Final = {"720p": (1280, 720), "1080p": (1920, 1080), "4K": (3840, 2160)}
FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP")
_OPTIONS: Final = {"JPEG": {"quality": 90}, "PNG": {"compress_level": 1}, "WEBP": {"quality": 85, "method": 0}}
_OCTAVES: Final = ((4, 18.0), (16, 10.0), (64, 7.0), (256, 5.0))
"""Cells across the picture, and how much each octave of the surface changes the brightness (0..255)."""
_NOISE: Final = 5.0
"""Standard deviation of the sensor's noise at 1080p; chosen for the size of the JPEG."""


@cache
def photo(size: str, number: int = 0) -> NDArray[np.uint8]:
    """One of many pictures uint8 (H, W, 3) RGB of a size of `SIZES_WH`."""
    width, height = SIZES_WH[size]
    rng = np.random.Generator(np.random.PCG64([number, width]))
    board = cv2.resize(draw_board(DEFAULT_SEED + number).image, (width, height), interpolation=cv2.INTER_LINEAR)
    grey = 60 + board.astype(np.float32) * (130 / 255)
    for cells, strength in _OCTAVES:
        octave = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        grey += cv2.resize(octave, (width, height), interpolation=cv2.INTER_CUBIC)
    grey += rng.normal(0, _NOISE, (height, width, 1)).astype(np.float32)
    pixels: NDArray[np.uint8] = np.clip(grey, 0, 255).astype(np.uint8)
    return pixels


@cache
def encoded(size: str, image_format: str = "JPEG", number: int = 0) -> bytes:
    """That picture in a format of `FORMATS`."""
    buffer = io.BytesIO()
    Image.fromarray(photo(size, number)).save(buffer, image_format, **_OPTIONS.get(image_format, {}))
    return buffer.getvalue()


def jpegs(size: str, count: int = 4) -> list[bytes]:
    """Several pictures of one size: callers do not send the same one over and over."""
    return [encoded(size, number=number) for number in range(count)]
