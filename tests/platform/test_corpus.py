"""Every malformed image that we can think of, through the live endpoint: an answer or a refusal, never a failure."""

import asyncio
import io
import struct

import numpy as np
import pytest
from PIL import Image

from tests.gateway.test_image import FORMATS, encode, png_header, scene

SECONDS_PER_IMAGE = 5


def truncations():
    for image_format in FORMATS:
        data = encode(scene(160, 120), image_format)
        for percent in range(0, 100, 5):
            yield f"{image_format} cut at {percent} %", data[: len(data) * percent // 100]


def flips():
    rng = np.random.default_rng(0)
    for image_format in FORMATS:
        data = np.frombuffer(encode(scene(160, 120), image_format), np.uint8)
        for i in range(40):
            damaged = data.copy()
            damaged[rng.integers(0, len(data), size=1 + i % 4)] ^= rng.integers(1, 256, dtype=np.uint8)
            yield f"{image_format} with flipped bytes {i}", damaged.tobytes()


def wrong_magic():
    bodies = {image_format: encode(scene(), image_format) for image_format in FORMATS}
    for name, data in bodies.items():
        for other, foreign in bodies.items():
            if name != other:
                yield f"{name} that begins as {other}", foreign[:12] + data[12:]


def huge_headers():
    for size in [(30_000, 30_000), (2**31 - 1, 1), (1, 2**31 - 1), (2**31 - 1, 2**31 - 1), (7_100, 7_100)]:
        yield f"PNG header of {size}", png_header(*size)
    bmp = bytearray(encode(scene(), "BMP"))
    bmp[18:26] = struct.pack("<ii", 2**31 - 1, -(2**31))
    yield "BMP header of 2**31", bytes(bmp)
    webp = bytearray(encode(scene(), "WEBP"))
    webp[21:25] = b"\xff" * 4
    yield "WebP header of ones", bytes(webp)
    jpeg = bytearray(encode(scene(), "JPEG"))
    start = jpeg.index(b"\xff\xc0")
    jpeg[start + 5 : start + 9] = b"\xff" * 4
    yield "JPEG header of 65,535 x 65,535", bytes(jpeg)


def odd_but_right():
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "x" * 60_000
    nested = encode(scene(), "JPEG", exif=exif.tobytes())
    yield "JPEG with much EXIF", nested
    outer = Image.Exif()
    outer[0x927C] = nested[:50_000]
    yield "JPEG within EXIF", encode(scene(), "JPEG", exif=outer.tobytes())
    loop = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0"
    yield "EXIF that points to itself", encode(scene(), "JPEG", exif=loop)
    frames = [Image.fromarray(np.full((64, 64, 3), i, np.uint8)) for i in range(100)]
    for image_format in ("PNG", "WEBP"):
        yield f"animated {image_format}", encode(frames[0], image_format, save_all=True, append_images=frames[1:])
    for size in [(1, 1), (1, 20_000), (20_000, 1)]:
        yield f"PNG of {size}", encode(np.zeros((size[1], size[0], 3), np.uint8), "PNG")
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((64, 64), bool)).save(buffer, "PNG")
    yield "PNG of bits", buffer.getvalue()


CORPUS = {
    "truncations": truncations,
    "flips": flips,
    "magic": wrong_magic,
    "headers": huge_headers,
    "odd": odd_but_right,
}


@pytest.mark.parametrize("part", CORPUS)
async def test_a_malformed_image_is_answered_or_refused(http, part):
    """200 or 4xx for each, in bounded time; also as a picture, which decodes and draws."""
    statuses = {}
    for name, data in CORPUS[part]():
        for query in ("", "?format=jpeg"):
            async with asyncio.timeout(SECONDS_PER_IMAGE), http.post(f"/v1/detect{query}", data=data) as response:
                await response.read()
                statuses[name, query] = response.status
    assert {name: status for name, status in statuses.items() if status not in {200, 400, 413, 415}} == {}
    if part == "odd":
        assert set(statuses.values()) == {200}


async def test_the_whole_corpus_leaves_memory_flat(platform, http):
    """A second pass over everything raises the gateway's peak by less than one decoded picture."""

    async def send_everything():
        for part in CORPUS.values():
            for _, data in part():
                async with http.post("/v1/detect", data=data) as response:
                    await response.read()

    await send_everything()
    before = platform.gateway_peak_bytes()
    await send_everything()
    assert platform.gateway_peak_bytes() - before < 30_000_000


async def test_large_pictures_do_not_pile_up_while_triton_works(platform, http):
    """32 callers want 16-megapixel pictures drawn, 48 MB each; in memory are about as many as there are threads."""
    data = encode(np.zeros((4000, 4000, 3), np.uint8), "PNG", compress_level=1)

    async def draw(count):
        async def one():
            async with http.post("/v1/detect?format=jpeg&timeout_ms=60000", data=data) as response:
                await response.read()
                return response.status

        return set(await asyncio.gather(*(one() for _ in range(count))))

    assert await draw(4) == {200}
    before = platform.gateway_peak_bytes()
    assert await draw(32) == {200}
    assert platform.gateway_peak_bytes() - before < 8 * 48_000_000
