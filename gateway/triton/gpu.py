"""How busy the GPUs of a Triton are. Its gRPC service does not tell; its metrics do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Self

import aiohttp

if TYPE_CHECKING:
    from types import TracebackType

_TIMEOUT_SECONDS: Final = 0.5  # it is asked for every second
_UTILIZATION: Final = re.compile(r"^nv_gpu_utilization\{[^}]*\} ([0-9.eE+-]+)$", re.MULTILINE)


class GpuUse:
    """Asks Tritons for their metrics over HTTP, all at the same `port`; while entered, it keeps connections open."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
        self._http = aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.close()

    async def of(self, address: str) -> float | None:
        """The share of its time that Triton's GPUs work, 0 to 1, over all that it sees; None where it does not say.

        `address` is that of its gRPC service, `host:port`.
        """
        host, _, _ = address.rpartition(":")
        try:
            async with self._http.get(f"http://{host}:{self._port}/metrics", raise_for_status=True) as response:
                found = _UTILIZATION.findall(await response.text())
            return sum(map(float, found)) / len(found) if found else None
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return None
