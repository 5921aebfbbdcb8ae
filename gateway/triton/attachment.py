"""One Triton and the shared memory: whether it has the file mapped, and the name under which it does."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, Any, Final

import grpc
import structlog
from tritonclient.grpc import service_pb2

from gateway.triton.shared_memory import PREFIX, is_there

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.triton.shared_memory import SharedMemory, Slot

_TIMEOUT_SECONDS: Final = 1.0  # of one question, as of a probe
_CLOSING_SECONDS: Final = 1.0
_CLOSING_POLL_SECONDS: Final = 0.05
_FIRST_VERSION: Final = (2, 50)
"""Triton 24.09: those before unmap a region that a call reads, and crash (triton-inference-server/server#3207)."""
_VERSION: Final = re.compile(r"(\d+)\.(\d+)")
_PASSING: Final = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
}
_MAY_BE: Final = "it must be on this machine, see the same /dev/shm, and run as the same user"

_log = structlog.get_logger()


class RegionUnknown(Exception):
    """Triton does not know the region that a call named: it has been started anew, or let go of it."""


class Attachment:
    """The registration of `memory` with the Triton at `address`.

    Triton counts the calls that read a region and does not unmap it under them. So once it has unmapped one, nobody
    reads it: that is how slots come back whose calls broke off. Each registration has a name of its own, so that a
    call of the time before, should it come late, finds nothing.

    Attributes:
        region: the name by which calls may refer to the memory now; None if they may not.
        is_due: whether `renew` should be called.
    """

    def __init__(self, memory: SharedMemory, address: str) -> None:
        self.region: str | None = None
        self.is_due = True
        self._memory = memory
        self._address = address
        self._registrations = 0
        self._refusal = ""

    def let_go(self) -> None:
        """See `gateway.triton.shared_memory.Reader`; also when it can't be known any more what Triton has mapped."""
        self._detach()
        self.is_due = True

    def died(self) -> None:
        """Nobody is there any more who could read."""
        self.let_go()
        self._memory.clear(self)

    @contextlib.contextmanager
    def reading(self, slot: Slot) -> Iterator[None]:
        """While the block runs, a call reads a slot; if it raises, the call may go on with that."""
        try:
            yield
        except RegionUnknown:
            self.let_go()
            raise
        except BaseException:
            self._memory.doubt(slot, self)
            raise

    async def renew(self, triton: Any) -> None:  # its stub, which has no types
        """Bring Triton to forget the memory, which sets free what was kept back, and to know it under a new name.

        What can't be done now is due again. A Triton that refuses is left alone until it is lost and found.
        """
        self._detach()
        self.is_due = False
        try:
            if not await self._forget(triton):
                self.is_due = True
                return
            self._memory.clear(self)
            if reason := await self._why_unsafe(triton):
                self._refused(reason)
                return
            await self._register(triton)
        except grpc.aio.AioRpcError as error:
            if error.code() in _PASSING:
                self.is_due = True
            else:
                self._refused(f"{error.details() or error.code().name}; {_MAY_BE}")

    async def close(self, triton: Any) -> None:
        """Bring Triton to forget the memory, which it would else hold for as long as it runs; tried for a second."""
        self._detach()
        if self._registrations:
            with contextlib.suppress(TimeoutError, grpc.aio.AioRpcError):
                async with asyncio.timeout(_CLOSING_SECONDS):
                    while not await self._forget(triton):  # noqa: ASYNC110 (there is no event for it)
                        await asyncio.sleep(_CLOSING_POLL_SECONDS)
        self._memory.clear(self)

    def _detach(self) -> None:
        self.region = None
        self._memory.detach(self)

    async def _forget(self, triton: Any) -> bool:
        """Unregister all regions of the memory; whether none is left. While a call reads one, it stays."""
        own = [name for name, key in await _regions(triton) if key == self._memory.name]
        for name in own:
            await _unregister(triton, name)
        return not own or all(key != self._memory.name for _, key in await _regions(triton))

    async def _why_unsafe(self, triton: Any) -> str:
        """Why that Triton must not have it; empty if it may."""
        metadata = await triton.ServerMetadata(service_pb2.ServerMetadataRequest(), timeout=_TIMEOUT_SECONDS)
        found = _VERSION.match(metadata.version)
        if found and (int(found[1]), int(found[2])) >= _FIRST_VERSION:
            return ""
        return f"its version is {metadata.version or 'unknown'}; 2.50 is the first that is safe with shared memory"

    async def _register(self, triton: Any) -> None:
        self._registrations += 1
        name = f"{self._memory.name}-{self._registrations}"
        request = service_pb2.SystemSharedMemoryRegisterRequest(
            name=name, key=f"/{self._memory.name}", byte_size=self._memory.byte_size
        )
        await triton.SystemSharedMemoryRegister(request, timeout=_TIMEOUT_SECONDS)
        if self.is_due:  # it was lost meanwhile
            return
        self.region = name
        self._memory.attach(self)
        if self._registrations == 1 or self._refusal:  # not each time that slots are called back
            _log.info("triton gets tensors by shared memory", endpoint=self._address)
        self._refusal = ""
        await _forget_leftovers(triton)

    def _refused(self, reason: str) -> None:
        if reason != self._refusal:
            _log.warning("triton gets tensors by message, not by shared memory", endpoint=self._address, reason=reason)
        self._refusal = reason


async def _regions(triton: Any) -> list[tuple[str, str]]:
    """Name and file of each region that Triton knows."""
    answer = await triton.SystemSharedMemoryStatus(
        service_pb2.SystemSharedMemoryStatusRequest(), timeout=_TIMEOUT_SECONDS
    )
    return [(region.name, region.key.removeprefix("/")) for region in answer.regions.values()]


async def _unregister(triton: Any, name: str) -> None:
    """Bring Triton to forget a region, at once or, from 24.11 on, when no call reads it any more."""
    try:
        await triton.SystemSharedMemoryUnregister(
            service_pb2.SystemSharedMemoryUnregisterRequest(name=name), timeout=_TIMEOUT_SECONDS
        )
    except grpc.aio.AioRpcError as error:
        if error.code() in _PASSING:
            raise  # any other is a refusal, since a call reads it


async def _forget_leftovers(triton: Any) -> None:
    """Bring Triton to forget what gateways have left that were killed; they share one /dev/shm, as it turned out."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        for name, key in await _regions(triton):
            if key.startswith(PREFIX) and not is_there(key):
                await _unregister(triton, name)
