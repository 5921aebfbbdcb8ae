"""The GPU stand-in as its users see it: its model for a repository, and pictures whose answers are known.

    picture = numbered_picture(7)
    answer = json.load(urlopen("http://127.0.0.1:8080/v1/detect", encode_png(picture)))
    assert "".join(found["label"] for found in answer["detections"]) == fingerprint(picture)

A PNG of the model's own size reaches the model unchanged. What else is sent is decoded and resized on the way: its
fingerprint is that of what `gateway.resize.resize` makes of what `gateway.image.decode` makes of it. How an answer is
made stands in `triton_runtime.standin.candidates`; the first eight candidates are the detections, in model pixels.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from triton_runtime.standin.candidates import BROKEN_FILE, CANDIDATES, LABELS, candidates, fingerprint
from triton_runtime.standin.compiler import library

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["BROKEN_FILE", "MODEL", "SIZE", "Standin", "candidates", "encode_png", "fingerprint", "numbered_picture"]

MODEL: Final = "gpu_standin"
"""Its name, and its backend's."""
SIZE: Final = 64
"""Default side of its input in pixels: small, so that moving tensors is not what limits a small machine."""

_LIBRARY: Final = f"libtriton_{MODEL}.so"
_GREY: Final = 128
_NUMBER_BYTES: Final = 4

_CONFIG: Final = """\
name: "{model}"
backend: "{model}"
max_batch_size: 16
input [ {{ name: "images", data_type: TYPE_UINT8, dims: [ {size}, {size}, 3 ] }} ]
version_policy {{ specific {{ versions: [ 1 ] }} }}
output [
  {{ name: "boxes", data_type: TYPE_FP32, dims: [ {candidates}, 4 ] }},
  {{ name: "scores", data_type: TYPE_FP32, dims: [ {candidates} ] }},
  {{ name: "class_ids", data_type: TYPE_INT32, dims: [ {candidates} ] }}
]
instance_group [ {{ count: 1, kind: KIND_CPU }} ]  # one GPU runs one batch at a time
dynamic_batching {{ }}
parameters [
  {{ key: "base_ms", value: {{ string_value: "{base_ms}" }} }},
  {{ key: "per_image_ms", value: {{ string_value: "{per_image_ms}" }} }},
  {{ key: "labels", value: {{ string_value: '{labels}' }} }},
  {{ key: "resize", value: {{ string_value: "stretch" }} }}
]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standin:
    """The model that stands in for one on a GPU: a batch takes `base_ms` + `per_image_ms` x images.

    By default one image takes 3 ms, about what DAMO-YOLO's authors publish for their T on a T4 (2.78 ms, TensorRT,
    FP16), and a full batch of 16 takes 18 ms. How the time is split between the two terms is a guess.
    """

    base_ms: float = 2.0
    per_image_ms: float = 1.0
    size: int = SIZE

    def write(self, repository: Path, versions: int = 1) -> None:
        """Put the model into a repository; the one that is there is replaced.

        It has versions from 1 on, whose answers differ, and the first one is loaded. Its backend lies beside them,
        where Triton looks before its own folder of backends.

        Raises:
            UnsupportedMachine: the backend can't be built here.
        """
        folder = repository / MODEL
        backend = library()
        for version in range(1, versions + 1):  # a version is a folder, and these need no file
            (folder / str(version)).mkdir(parents=True, exist_ok=True)
        config = _CONFIG.format(
            model=MODEL,
            size=self.size,
            candidates=CANDIDATES,
            base_ms=self.base_ms,
            per_image_ms=self.per_image_ms,
            labels=json.dumps(LABELS),
        )
        _put(folder / _LIBRARY, backend)
        _put(folder / "config.pbtxt", config.encode())


def _put(file: Path, content: bytes) -> None:
    """Write a file so that whoever reads it now, or has it in its memory, has the old one or the new one."""
    staged = file.with_name(f"{file.name}.new")
    staged.write_bytes(content)
    staged.replace(file)


def numbered_picture(number: int, size: int = SIZE) -> NDArray[np.uint8]:
    """A picture, uint8 (size, size, 3), for each number below 2**32. No two numbers share a fingerprint.

    The number stands in the first four bytes, and a CRC-32 tells all changes within 32 bits apart.
    """
    pixels = np.full((size, size, 3), _GREY, np.uint8)
    pixels.reshape(-1)[:_NUMBER_BYTES] = np.frombuffer(number.to_bytes(_NUMBER_BYTES, "big"), np.uint8)
    return pixels


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """A picture (H, W, 3) as PNG, which keeps every pixel."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
