"""Files that are whole or not there: what every command writes its results with."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path` that takes its name at the end: a reader meets the old file or the whole new one.

    It is on the disk before it has the name, so that a power cut leaves no half of it either.

    Raises:
        OSError: `path` cannot be written; nothing is left behind. Its `filename` is `path`.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a whole file, or leaves what was there.

    Raises:
        OSError: `path` cannot be written; nothing is left behind. Its `filename` is `path`.
    """
    with replacing(path) as file:
        file.write(data)


@contextlib.contextmanager
def exclusive(directory: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Waits for, then holds, the lock of a directory. The kernel lets go of it however the process ends.

    Args:
        directory: what is locked, for all who ask by this function.
        on_wait: called if somebody else holds it, before the wait.

    Raises:
        OSError: there is no such directory.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
