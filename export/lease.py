"""A lock among machines that share a volume, which outlives no holder for long.

It is a file that its holder keeps touching, and that others take once it has been left alone, as whoever dies cannot
remove it. It saves work, and nothing that must be right may rest on it: a holder that was frozen finds itself robbed,
and then two do the same work. What they make has to be published in one step, whoever comes first.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import uuid
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STALE_SECONDS: Final = 60.0
"""A lease that was not touched for so long is nobody's. Six beats: a volume over the network may be slow at times."""


@contextlib.contextmanager
def lease(path: Path, stale_seconds: float = STALE_SECONDS) -> Iterator[str | None]:
    """Hold `path` as a lock, if nobody else does.

    Args:
        path: the lock file; its directory must exist.
        stale_seconds: after how long without a sign of life others may take it.

    Yields:
        None to the holder; to anybody else the holder's name.

    Raises:
        OSError: the directory cannot be written.
    """
    token = f"{socket.gethostname()} (process {os.getpid()}, {uuid.uuid4().hex[:8]})"
    holder = _take(path, token, stale_seconds)
    if holder is not None:
        yield holder
        return
    ended = threading.Event()
    beat = threading.Thread(target=_keep_touching, args=(path, token, ended, stale_seconds / 6), daemon=True)
    beat.start()
    try:
        yield None
    finally:
        ended.set()
        beat.join()
        if _holder(path) == token:
            path.unlink(missing_ok=True)


def _take(path: Path, token: str, stale_seconds: float) -> str | None:
    """Create the file, after the removal of a stale one; None: done, else the holder's name.

    Only who holds a second file, for a moment, may remove the first, and looks once more then: so of many that find it
    stale at the same time none removes what another one has just created.
    """
    if (holder := _create(path, token)) is None or not _is_stale(path, stale_seconds):
        return holder
    guard = path.with_name(f"{path.name}.break")
    if _create(guard, token) is not None:
        if _is_stale(guard, stale_seconds):  # somebody died in just that moment
            guard.unlink(missing_ok=True)
        return holder
    try:
        if _is_stale(path, stale_seconds):
            path.unlink(missing_ok=True)
        return _create(path, token)
    finally:
        guard.unlink(missing_ok=True)


def _create(path: Path, token: str) -> str | None:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return _holder(path) or "another process"
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(token)
    return None


def _holder(path: Path) -> str:
    """Who wrote the file; empty where it is gone or not written yet."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _is_stale(path: Path, stale_seconds: float) -> bool:
    """Whether the file was left alone for so long, by the clock of the volume that it lies on."""
    probe = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    probe.touch()
    now = probe.stat().st_mtime
    probe.unlink()
    try:
        return now - path.stat().st_mtime > stale_seconds
    except FileNotFoundError:
        return False


def _keep_touching(path: Path, token: str, ended: threading.Event, beat_seconds: float) -> None:
    while not ended.wait(beat_seconds):
        with contextlib.suppress(OSError):  # a volume that is away for a moment; the next beat may succeed
            if _holder(path) != token:
                return
            os.utime(path)
