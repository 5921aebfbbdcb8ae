"""What a generator process is told: the load, where to, and who asks."""

from __future__ import annotations

import dataclasses
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Plan:
    """The same for all generators; JSON carries it.

    Attributes:
        profile: the data of a profile, with levels as `resolve` makes them.
        url: of the REST face.
        grpc_url: of the gRPC face.
        model: which is asked.
        references: right answers to the pictures, in their order, as `Reference.pack` gives them.
        fingerprint: of the pictures, which each generator makes or reads by itself.
        images: folder of the user's own pictures; empty for the profile's.
    """

    profile: Mapping[str, Any]
    url: str
    grpc_url: str
    model: str
    references: list[list[Any]]
    fingerprint: int
    images: str = ""

    def pack(self) -> dict[str, Any]:
        """As JSON has it."""
        return dataclasses.asdict(self)

    @property
    def images_folder(self) -> Path | None:
        """The folder, if there is one."""
        return Path(self.images) if self.images else None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks; each generator has its own, and it goes over no network.

    Attributes:
        key: for a gateway that asks for one.
        ca_certificate: PEM file of authorities to trust instead of the system's.
        client_certificate: PEM file that shows the gateway who asks.
        client_key: PEM file of its private key.
    """

    key: str | None = None
    ca_certificate: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None

    @classmethod
    def of(cls, connection: Any) -> Self:
        """What the options of a command say."""
        files = (connection.ca_certificate, connection.client_certificate, connection.client_key)
        return cls(connection.key, *(None if file is None else str(file) for file in files))

    def pack(self) -> dict[str, Any]:
        """As JSON has it."""
        return dataclasses.asdict(self)

    @property
    def headers(self) -> dict[str, str]:
        """What each request over REST carries."""
        return {} if self.key is None else {"X-API-Key": self.key}

    def for_client(self) -> dict[str, Any]:
        """Arguments of `eagleeye.Client`."""
        files = {name: value and Path(value) for name, value in self.pack().items() if name != "key"}
        return {"key": self.key, **files}

    def tls(self) -> ssl.SSLContext:
        """What encrypts requests over REST."""
        context = ssl.create_default_context(cafile=self.ca_certificate)
        if self.client_certificate:
            context.load_cert_chain(self.client_certificate, self.client_key)
        return context
