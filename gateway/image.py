"""Bytes -> image. Uploads are hostile until proven otherwise.

The header is read before any pixel is decoded, so a picture that claims 30,000 x 30,000 pixels costs a few
microseconds. What each odd kind of picture becomes is defined here, the way the official reader sees it where that
has an opinion: grey is repeated in three channels, alpha is dropped (the stored colours count), CMYK is converted,
16-bit samples keep their high byte, an animation counts as its first frame, and EXIF orientation is applied.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image

from gateway.errors import ImageTooLarge, InvalidImage, UnsupportedMediaType

if TYPE_CHECKING:
    from collections.abc import Callable

UInt8Array: TypeAlias = NDArray[np.uint8]

Image.MAX_IMAGE_PIXELS = None  # Pillow's own guard only warns up to twice its limit; ours refuses, and names the limit

# Everything that Pillow's readers raise on damaged input, as fuzzing and its source show.
_DAMAGED: Final = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    MemoryError,
)

_ORIENT: Final[dict[int, Callable[[UInt8Array], UInt8Array]]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose((1, 0, 2)),
    6: lambda image: np.rot90(image, k=-1),
    7: lambda image: image[::-1, ::-1].transpose((1, 0, 2)),
    8: np.rot90,
}
"""EXIF orientation -> how to turn the stored pixels upright; 1 and unknown values leave them."""


_TURNED: Final = frozenset({5, 6, 7, 8})  # orientations whose width is stored as the height


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What one upload may cost: `max_bytes` encoded, `max_pixels` (width x height) decoded."""

    max_bytes: int
    max_pixels: int


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image: `pixels` uint8 (h, w, 3) RGB, upright; its own size is `source_wh`, which `pixels` may be less than."""

    pixels: UInt8Array
    source_wh: tuple[int, int]


def decode(data: bytes, limits: ImageLimits) -> UInt8Array:
    """Turn an encoded JPEG, PNG, WebP or BMP into uint8 (H, W, 3) RGB in upright source pixels.

    Raises:
        InvalidImage: empty, truncated or damaged.
        UnsupportedMediaType: none of the four formats.
        ImageTooLarge: over `limits`.
    """
    return decode_for(data, limits, None).pixels


def decode_for(data: bytes, limits: ImageLimits, target_wh: tuple[int, int] | None) -> Decoded:
    """As `decode`, but a JPEG much larger than `target_wh` is decoded at 1/2, 1/4 or 1/8 of its size.

    libjpeg does that on each block's frequencies, which saves most of the work that is not reading the bits. The result
    is as good as resampled with antialiasing, where a plain bilinear stretch to the target would skip pixels.

    Raises:
        InvalidImage: empty, truncated or damaged.
        UnsupportedMediaType: none of the four formats.
        ImageTooLarge: over `limits`.
    """
    if not data:
        raise InvalidImage("the body is empty; send the bytes of a JPEG, PNG, WebP or BMP image")
    if len(data) > limits.max_bytes:
        raise too_many_bytes(limits)
    image_format = sniff(data)
    try:
        with Image.open(io.BytesIO(data), formats=(image_format,)) as header:
            _check_size(header, limits)
            orientation = header.getexif().get(ExifTags.Base.Orientation, 1)
            is_turned = orientation in _TURNED
            divisor = 1 if target_wh is None else _divisor(header.size, target_wh[::-1] if is_turned else target_wh)
            pixels = _pixels(header, data, divisor)
            source_wh = header.size[::-1] if is_turned else header.size
    except _DAMAGED as error:
        raise InvalidImage(f"the {image_format} image is truncated or damaged") from error
    return Decoded(np.ascontiguousarray(_ORIENT.get(orientation, _upright)(pixels)), source_wh)


def too_many_bytes(limits: ImageLimits) -> ImageTooLarge:
    """The refusal of an upload over the byte limit, also for a reader that stops before it has it all."""
    return ImageTooLarge(f"the image has more than {limits.max_bytes:,} bytes, the most that is accepted")


def sniff(data: bytes) -> str:
    """Name the format by its first bytes; what a client declares is not asked.

    Raises:
        UnsupportedMediaType: none of the four formats.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith(b"BM"):
        return "BMP"
    raise UnsupportedMediaType("the body is not an image that can be read; JPEG, PNG, WebP and BMP are allowed")


def _check_size(header: Image.Image, limits: ImageLimits) -> None:
    width, height = header.size
    if width < 1 or height < 1:
        raise InvalidImage(f"the image is {width} x {height} pixels; it must have at least one")
    if width * height > limits.max_pixels:
        raise ImageTooLarge(
            f"the image is {width} x {height} = {width * height:,} pixels; at most {limits.max_pixels:,} are accepted"
        )


def _divisor(stored_wh: tuple[int, int], target_wh: tuple[int, int]) -> int:
    """The most that both sides may be divided by and still have the target's pixels: with fewer, accuracy is lost."""
    share = min(stored_wh[0] / target_wh[0], stored_wh[1] / target_wh[1])
    return next((divisor for divisor in (8, 4, 2) if share >= divisor), 1)


def _pixels(header: Image.Image, data: bytes, divisor: int) -> UInt8Array:
    if header.format == "JPEG" and header.mode in {"L", "RGB"}:
        width, height = (-(-side // divisor) for side in header.size)  # as libjpeg rounds
        return simplejpeg.decode_jpeg(data, "RGB", min_width=width, min_height=height)  # type: ignore[no-any-return]
    if header.mode.startswith("I"):  # 16-bit grey; Pillow would clip it at 255 instead of scaling
        grey = (np.asarray(header) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, np.newaxis], 3, axis=2)
    return np.asarray(header.convert("RGB"))


def _upright(image: UInt8Array) -> UInt8Array:
    return image
