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

_SEGMENT: Final = struct.Struct(">BBH")
"""Of a JPEG: its marker in two bytes, and how long it is without them."""

_MARKER: Final = 0xFF
_START_OF_SCAN: Final = 0xDA
_APP1: Final = 0xE1
_SEGMENTS: Final = frozenset({*range(0xC0, 0xD0), *range(0xDA, 0xFF)})
"""The second bytes of markers that a length follows."""

_PLAIN_COLOURS: Final = frozenset({"Gray", "RGB", "YCbCr"})
"""As simplejpeg names them; CMYK is left to Pillow."""

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
        if image_format == "JPEG" and not _may_have_metadata(data):
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
            if colours in _PLAIN_COLOURS:
                _check_size((width, height), limits)
                return Decoded(_jpeg_pixels(data, (width, height), target_wh), (width, height))
        with Image.open(io.BytesIO(data), formats=(image_format,)) as header:
            _check_size(header.size, limits)
            orientation = header.getexif().get(ExifTags.Base.Orientation, 1)
            is_turned = orientation in _TURNED
            if is_turned and target_wh is not None:
                target_wh = target_wh[::-1]
            pixels = _pixels(header, data, target_wh)
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


def _may_have_metadata(jpeg: bytes) -> bool:
    """Whether EXIF or XMP, which may turn the picture, comes before its pixels. True also if that is not clear.

    Pictures of cameras that are no phones have neither. To find that out by Pillow, which reads all headers in Python,
    takes twenty times as long.

    Source: ITU-T T.81, annex B (segments), and Exif 2.32, 4.7.2 (APP1).
    """
    at = 2
    while at + _SEGMENT.size <= len(jpeg):
        begin, marker, size = _SEGMENT.unpack_from(jpeg, at)
        if begin != _MARKER or marker not in _SEGMENTS or marker == _APP1:
            return True
        if marker == _START_OF_SCAN:
            return False
        at += 2 + size
    return True


def _check_size(stored_wh: tuple[int, int], limits: ImageLimits) -> None:
    width, height = stored_wh
    if width < 1 or height < 1:
        raise InvalidImage(f"the image is {width} x {height} pixels; it must have at least one")
    if width * height > limits.max_pixels:
        raise ImageTooLarge(
            f"the image is {width} x {height} = {width * height:,} pixels; at most {limits.max_pixels:,} are accepted"
        )


def _jpeg_pixels(data: bytes, stored_wh: tuple[int, int], target_wh: tuple[int, int] | None) -> UInt8Array:
    """A grey or coloured JPEG as RGB, with at least the target's pixels: with fewer, accuracy would be lost."""
    divisor = 1
    if target_wh is not None:
        share = min(stored_wh[0] / target_wh[0], stored_wh[1] / target_wh[1])
        divisor = next((divisor for divisor in (8, 4, 2) if share >= divisor), 1)
    width, height = (-(-side // divisor) for side in stored_wh)  # as libjpeg rounds
    return simplejpeg.decode_jpeg(data, "RGB", min_width=width, min_height=height)  # type: ignore[no-any-return]


def _pixels(header: Image.Image, data: bytes, target_wh: tuple[int, int] | None) -> UInt8Array:
    if header.format == "JPEG" and header.mode in {"L", "RGB"}:
        return _jpeg_pixels(data, header.size, target_wh)
    if header.mode.startswith("I"):  # 16-bit grey; Pillow would clip it at 255 instead of scaling
        grey = (np.asarray(header) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, np.newaxis], 3, axis=2)
    return np.asarray(header.convert("RGB"))


def _upright(image: UInt8Array) -> UInt8Array:
    return image
