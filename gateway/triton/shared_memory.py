"""Memory for tensors that Tritons on this machine map, too: a file in /dev/shm, of which each request gets a slot.

A slot is used again only when no Triton can be reading it. What a call has read when its answer comes is known; of a
call that was cancelled, timed out or broke off it isn't, so its slot is kept back until that Triton has let go of the
whole file, see `gateway.triton.attachment`.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from gateway.image import UInt8Array

FOLDER: Final = Path("/dev/shm")  # noqa: S108 (it is where POSIX shared memory lives)
PREFIX: Final = "eagleeye-gateway-"
"""How the names of the files begin."""
_MEBIBYTE: Final = 2**20
_UNIT_BYTES: Final = 2**16  # slots are so many whole ones: few enough for a quick search, and little is wasted


class SharedMemoryError(Exception):
    """The memory can't be had; the message says why, and what helps."""


class Reader(Protocol):
    """A Triton that has the file mapped."""

    def let_go(self) -> None:
        """Stop using the file as soon as may be, and then `SharedMemory.clear` what this one kept back."""


@dataclass(slots=True, eq=False)
class Slot:
    """Where one tensor lies, in bytes from the file's beginning.

    Attributes:
        offset: of its first byte.
        byte_size: of the tensor.
        is_lent: whether the request that it was filled for goes on.
        doubts: how many Tritons may read it although their call is over.
    """

    offset: int
    byte_size: int
    is_lent: bool = True
    doubts: int = 0


class SharedMemory:
    """A file of `mebibytes` MiB, there while this is entered, and its slots.

    Other processes know by a lock on the file whether its owner lives; a file whose owner was killed is removed by the
    next one that comes.

    Attributes:
        name: of the file, another one for each gateway process.
        byte_size: of the file.

    Raises:
        SharedMemoryError: on entering; there is no room for it, or no shared memory at all.
    """

    def __init__(self, mebibytes: int) -> None:
        self.name = ""
        self.byte_size = mebibytes * _MEBIBYTE
        self._used = bytearray(self.byte_size // _UNIT_BYTES)  # by unit: 1 where it belongs to a slot
        self._readers: set[Reader] = set()
        self._doubted: dict[Reader, set[Slot]] = {}

    def __enter__(self) -> Self:
        try:
            _remove_leftovers()
            self.name, self._file = _create(self.byte_size)
        except OSError as error:
            raise SharedMemoryError(
                f"can't have {self.byte_size // _MEBIBYTE} MiB of shared memory in {FOLDER}: {error.strerror}; "
                "give less with --triton-shared-memory, or the machine or container more"
            ) from error
        self._bytes = np.frombuffer(mmap.mmap(self._file, self.byte_size), np.uint8)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        (FOLDER / self.name).unlink(missing_ok=True)
        os.close(self._file)  # the mapping itself goes with the last array that looks into it

    @contextlib.contextmanager
    def lend(self, tensor: UInt8Array) -> Iterator[Slot | None]:
        """A slot that holds a copy of the tensor while the block runs.

        None if there is no room now, or no Triton that would look: then the tensor goes with the message.
        """
        slot = self._take(tensor.nbytes) if self._readers else None
        if slot is None:
            yield None
            return
        try:
            np.copyto(self._bytes[slot.offset : slot.offset + slot.byte_size].reshape(tensor.shape), tensor)
            yield slot
        finally:
            slot.is_lent = False
            self._free_unless_needed(slot)

    def attach(self, reader: Reader) -> None:
        """A Triton has mapped the file."""
        self._readers.add(reader)

    def detach(self, reader: Reader) -> None:
        """No new call of that Triton looks into the file; those under way may."""
        self._readers.discard(reader)

    def doubt(self, slot: Slot, reader: Reader) -> None:
        """A call is over without an answer, and its Triton may still read the slot: keep it back until `clear`."""
        slots = self._doubted.setdefault(reader, set())
        if slot not in slots:
            slots.add(slot)
            slot.doubts += 1

    def clear(self, reader: Reader) -> None:
        """That Triton reads nothing any more of what it was doubted to."""
        for slot in self._doubted.pop(reader, ()):
            slot.doubts -= 1
            self._free_unless_needed(slot)

    def describe(self) -> dict[str, int]:
        """What operators get to know: bytes of all, of the free ones, and of what is kept back."""
        kept = {slot for slots in self._doubted.values() for slot in slots if not slot.is_lent}
        return {
            "bytes": self.byte_size,
            "free_bytes": self._used.count(0) * _UNIT_BYTES,
            "kept_back_bytes": sum(_units(slot) for slot in kept) * _UNIT_BYTES,
        }

    def _take(self, byte_size: int) -> Slot | None:
        """The first gap that is large enough; if there is none, those who keep slots back are asked for them."""
        slot = Slot(0, byte_size)
        units = _units(slot)
        begin = self._used.find(bytes(units))
        if begin < 0:
            for reader in [reader for reader in self._readers if reader in self._doubted]:
                reader.let_go()
            return None
        self._used[begin : begin + units] = b"\1" * units
        slot.offset = begin * _UNIT_BYTES
        return slot

    def _free_unless_needed(self, slot: Slot) -> None:
        if not slot.is_lent and not slot.doubts:
            begin, units = slot.offset // _UNIT_BYTES, _units(slot)
            self._used[begin : begin + units] = bytes(units)


def is_there(name: str) -> bool:
    """Whether a file of that name is in the shared memory."""
    return (FOLDER / name).exists()


def _units(slot: Slot) -> int:
    return -(-slot.byte_size // _UNIT_BYTES)


def _create(byte_size: int) -> tuple[str, int]:
    """A new file, its memory reserved: where there was none left, a write into it would kill this process later.

    Returns:
        Its name and its descriptor, which holds the lock.
    """
    while True:
        name = f"{PREFIX}{secrets.token_hex(8)}"
        file = os.open(FOLDER / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            os.posix_fallocate(file, 0, byte_size)
        except OSError:
            (FOLDER / name).unlink(missing_ok=True)
            os.close(file)
            raise
        if os.fstat(file).st_nlink:
            return name, file
        os.close(file)  # another gateway took it for a leftover in the moment before it was locked


def _remove_leftovers() -> None:
    """Remove the files whose owners are gone."""
    for path in FOLDER.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or just gone
            file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(file)
