"""What is read from files while the gateway runs, and read again when they change."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, Self

import structlog

if TYPE_CHECKING:
    from types import TracebackType

_LOOK_INTERVAL_SECONDS: Final = 1.0

_log = structlog.get_logger()


class Reloaded(ABC):
    """While entered, a change of its files counts within about a second."""

    @abstractmethod
    async def reload(self) -> None:
        """Read the files again if they have changed. What can't be used changes nothing but for a line in the log."""

    async def __aenter__(self) -> Self:
        self._watching = asyncio.create_task(self._watch(), name=f"reload {type(self).__name__}")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_INTERVAL_SECONDS)
            try:
                await self.reload()
            except Exception:  # noqa: BLE001 (a file that nobody thought of must not end the looking for good)
                _log.exception("unexpected error")
