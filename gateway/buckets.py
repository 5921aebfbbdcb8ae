"""What is remembered of a key's token bucket: by one process, or by all workers of a gateway together."""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.keys import Key

_SLOTS: Final = 2**17  # more than twice the keys of the largest file; 2 MB, of which only what is used takes memory
_SLOT_BYTES: Final = 16  # whose it is, and its one number
_HASH_BYTES: Final = 8


class Bucket(Protocol):
    """The one number that is remembered of a token bucket."""

    full_at: int
    """When it will be full again, in nanoseconds of a monotonic clock."""


@dataclass(slots=True)
class OwnBucket:
    """That of one process."""

    full_at: int = 0


class _SharedBucket:
    """That of several: two that write it in the same microsecond may count one request, which is worth no lock."""

    def __init__(self, numbers: memoryview, place: int) -> None:
        self._numbers = numbers
        self._place = place

    @property
    def full_at(self) -> int:
        full_at: int = self._numbers[self._place]
        return full_at

    @full_at.setter
    def full_at(self, value: int) -> None:
        self._numbers[self._place] = value


class SharedBuckets:
    """Buckets in a file in memory, by key and rate. All processes count by the machine's one monotonic clock.

    Args:
        file: descriptor of a file that `new_file` made.
    """

    def __init__(self, file: int) -> None:
        self._file = file
        self._numbers = memoryview(mmap.mmap(file, _SLOTS * _SLOT_BYTES)).cast("q")

    def __call__(self, key: Key) -> Bucket:
        """The bucket of a key with a rate: the same one for whoever asks."""
        digest = hashlib.sha256(f"{key.name} {key.rate} {key.bucket_size}".encode()).digest()
        owner = int.from_bytes(digest[:_HASH_BYTES], "little", signed=True) or 1
        with self._locked():
            for attempt in range(_SLOTS):
                place = 2 * ((owner + attempt) % _SLOTS)
                if self._numbers[place] in {0, owner}:
                    self._numbers[place] = owner
                    return _SharedBucket(self._numbers, place + 1)
        return OwnBucket()  # after so many changes of the file that it is full: then each worker counts by itself

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)


@contextmanager
def new_file() -> Iterator[int]:
    """The descriptor of an empty file in memory, for the processes that are given it, until this one is done."""
    file = os.memfd_create("eagleeye-buckets")
    try:
        os.ftruncate(file, _SLOTS * _SLOT_BYTES)
        yield file
    finally:
        os.close(file)
