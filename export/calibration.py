"""Images that show quantization which numbers flow through a network: seen exactly as the gateway will see them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from export.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    UInt8Array = NDArray[np.uint8]

SUFFIXES: Final = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}


@dataclass(frozen=True, slots=True)
class CalibrationSet:
    """Image files in the order of their names, and the side of the square input that they are resized to."""

    files: tuple[Path, ...]
    size: int

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[UInt8Array]:
        """Batches of one, (1, size, size, 3) uint8 RGB, made by the gateway's own preprocessing as each is asked for.

        Raises:
            OptionError: a file is no image.
        """
        return (_as_served(file, self.size)[None] for file in self.files)

    def sample(self, count: int) -> CalibrationSet:
        """At most `count` of them, evenly spread."""
        step = max(1, len(self.files) / count)
        picks = sorted({int(number * step) for number in range(min(count, len(self.files)))})
        return CalibrationSet(tuple(self.files[pick] for pick in picks), self.size)

    def digest(self) -> str:
        """SHA-256 over all files' content; names do not count, their order does."""
        whole = hashlib.sha256()
        for file in self.files:
            whole.update(hashlib.sha256(file.read_bytes()).digest())
        return whole.hexdigest()


def read_calibration(directory: Path, size: int) -> CalibrationSet:
    """All images that lie in a folder.

    Raises:
        OptionError: no such folder, or no image in it.
    """
    try:
        files = sorted(path for path in directory.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    except OSError as error:
        raise OptionError(f"cannot read the calibration folder {directory}: {error.strerror or error}") from error
    if not files:
        raise OptionError(f"the calibration folder {directory} holds no image ({', '.join(sorted(SUFFIXES))})")
    return CalibrationSet(tuple(files), size)


def _as_served(file: Path, size: int) -> UInt8Array:
    try:  # imaging packages, which an export without calibration can do without
        from gateway.errors import GatewayError  # noqa: PLC0415
        from gateway.image import ImageLimits, decode  # noqa: PLC0415
        from gateway.resize import ResizeMode, resize  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise OptionError(f"calibration needs {error.name}: pip install 'eagleeye[export,gateway]'") from error
    generous = ImageLimits(max_bytes=2**30, max_pixels=2**30)  # these are the user's own files
    try:
        tensor, _ = resize(decode(file.read_bytes(), generous), (size, size), ResizeMode.STRETCH)
    except (OSError, GatewayError) as error:
        raise OptionError(f"the calibration image {file} cannot be used: {error}") from error
    return tensor
