"""What the options of a load test say: which deployment, with which pictures, by how many, and who tells about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import urllib3

from eagleeye.connection import Connection, NothingDone, split
from loadtest.load.plan import Identity
from loadtest.load.watch import Sources

if TYPE_CHECKING:
    from pathlib import Path

GRPC_PORT: Final = 8081


@dataclass(frozen=True, slots=True)
class Target:
    """What the options of `eagleeye load` say."""

    connection: Connection
    grpc_url: str | None
    model: str | None
    images: Path | None
    expected: Path | None
    workers: int
    metrics_url: str | None
    triton_metrics_urls: tuple[str, ...]
    prometheus_url: str | None
    output: Path

    @classmethod
    def split(cls, values: dict[str, Any]) -> Target:
        """Takes them out of the values of a command."""
        connection = split(values)
        if connection.is_grpc:
            raise NothingDone("--url is the gateway's REST face, http:// or https://; --grpc-url names the other one")
        if (grpc_url := values["grpc_url"]) and not grpc_url.startswith(("grpc://", "grpcs://")):
            raise NothingDone(f"--grpc-url is {grpc_url}; the gRPC face's address begins with grpc:// or grpcs://")
        own = {name: values.pop(name) for name in cls.__dataclass_fields__ if name != "connection"}
        return cls(connection, **own)

    @property
    def identity(self) -> Identity:
        """Who asks."""
        return Identity.of(self.connection)

    @property
    def sources(self) -> Sources:
        """Where the deployment tells about itself."""
        gateway = self.metrics_url or f"{self.connection.url.rstrip('/')}/metrics"
        return Sources(gateway, self.triton_metrics_urls, self.prometheus_url or "")

    @property
    def grpc(self) -> str:
        """URL of the gRPC face; by default that of the same host on our port."""
        if self.grpc_url:
            return self.grpc_url
        scheme, _, rest = self.connection.url.partition("://")
        host = rest.partition("/")[0].rsplit("@")[-1]
        host = host[: host.rfind(":")] if ":" in host.rpartition("]")[2] else host
        return f"{'grpcs' if scheme == 'https' else 'grpc'}://{host}:{GRPC_PORT}"

    def pool(self) -> urllib3.PoolManager:
        """For metrics, with the same trust as requests."""
        who = self.connection
        return urllib3.PoolManager(ssl_context=Identity.of(who).tls() if who.url.startswith("https") else None)
