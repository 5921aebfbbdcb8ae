"""The GPU of the servers beside: one, which runs one batch at a time and takes a stand-in's time for it."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Final

from triton_runtime.standin import Standin
from triton_runtime.standin.candidates import LABELS, candidates

if TYPE_CHECKING:
    from gateway.image import UInt8Array
    from triton_runtime.standin.candidates import Candidates

__all__ = ["CURVE", "LABELS", "MAX_BATCH", "SCALED", "STANDIN", "detect", "standin"]

CURVE: Final = "EAGLEEYE_BASELINE_CURVE"
"""Environment variable: milliseconds a batch, milliseconds an image, side of the input in pixels."""
SCALED: Final = "EAGLEEYE_BASELINE_SCALED"
"""Environment variable: `1` where large JPEGs are decoded at a part of their size."""
MAX_BATCH: Final = 16
_busy: Final = threading.Lock()


def standin() -> Standin:
    """What the environment says of the GPU's time."""
    base_ms, per_image_ms, size = os.environ.get(CURVE, "3 0.4 416").split()
    return Standin(base_ms=float(base_ms), per_image_ms=float(per_image_ms), size=int(size))


STANDIN: Final = standin()


def detect(images: UInt8Array) -> Candidates:
    """The candidates of a batch uint8 (N, H, W, 3), after the GPU's time for it; who comes meanwhile waits."""
    with _busy:
        time.sleep((STANDIN.base_ms + STANDIN.per_image_ms * len(images)) / 1e3)
    return candidates(images)
