"""Where the gateway is, and how far its certificate is trusted."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

DEFAULT_PORTS: Final = {"http": 80, "https": 443, "grpc": 8081, "grpcs": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """One gateway, parsed.

    Attributes:
        scheme: `http`, `https`, `grpc` or `grpcs`.
        host: its name or IP address, without brackets.
        port: its port.
        path: what comes before the gateway's own paths, without a slash at its end; empty for most.
    """

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """The address that `url` names.

        Raises:
            ValueError: it names none; the message shows how one looks.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except (ValueError, AttributeError, TypeError):  # a port that is no number; something that is no text
            raise _no_address(url) from None
        if parts.scheme not in DEFAULT_PORTS or not parts.hostname or port == 0 or parts.username is not None:
            raise _no_address(url)
        path = parts.path.rstrip("/")
        if parts.query or parts.fragment or not path.isprintable() or " " in url or (path and not cls._takes_path(url)):
            raise _no_address(url)
        return cls(parts.scheme, parts.hostname, port or DEFAULT_PORTS[parts.scheme], path)

    @staticmethod
    def _takes_path(url: str) -> bool:
        return url.lower().startswith("http")

    @property
    def is_grpc(self) -> bool:
        """Whether the gRPC face is meant."""
        return self.scheme in {"grpc", "grpcs"}

    @property
    def has_tls(self) -> bool:
        """Whether the connection is encrypted and the gateway must prove who it is."""
        return self.scheme in {"https", "grpcs"}

    @property
    def authority(self) -> str:
        """Host and port as a URL has them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


@dataclass(frozen=True, slots=True)
class Tls:
    """Whom to trust, and how to show who is calling; all are PEM files.

    Attributes:
        ca_certificate: certificates of the authorities to trust; None for those that the system trusts.
        client_certificate: the caller's own certificate chain, where the gateway asks for one.
        client_key: its private key.
    """

    ca_certificate: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None

    def context(self, address: Address) -> ssl.SSLContext | None:
        """What encrypts connections to `address`; None where they are plain. Host and certificate are verified.

        Raises:
            OSError: a file can't be read.
            ValueError: a file is no PEM file, or files were given that `address` has no use for.
        """
        if (self.client_certificate is None) != (self.client_key is None):
            raise ValueError("client_certificate and client_key are given together")
        if not address.has_tls:
            if self != Tls():
                raise ValueError(f"certificates are for https:// and grpcs:// addresses, and this is {address}")
            return None
        context = ssl.create_default_context()
        if self.ca_certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            _load(context.load_verify_locations, self.ca_certificate)
        if self.client_certificate is not None and self.client_key is not None:
            _load(context.load_cert_chain, self.client_certificate, self.client_key)
        return context

    def pem(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Authorities, private key and certificate chain, as gRPC takes them; None for gRPC's own choice.

        Raises:
            OSError: a file can't be read.
        """
        authorities = self.ca_certificate
        if authorities is None and (system := ssl.get_default_verify_paths().cafile):
            authorities = Path(system)  # gRPC would bring a list of its own, and REST's callers trust the system's
        authorities_pem, key, chain = (
            None if path is None else Path(path).read_bytes()
            for path in (authorities, self.client_key, self.client_certificate)
        )
        return authorities_pem, key, chain


def _load(load: Callable[..., object], *paths: Path) -> None:
    for path in paths:
        Path(path).open("rb").close()  # an error of this names the file
    try:
        load(*paths)
    except ssl.SSLError as error:
        named = " and ".join(map(str, paths))
        raise ValueError(f"{named}: not what TLS needs, as a PEM file ({error.reason or 'no certificate'})") from error


def _no_address(url: object) -> ValueError:
    return ValueError(
        f"{url!r} is no address of a gateway, which looks like http://127.0.0.1:8080 or grpc://127.0.0.1:8081 "
        "(or https://, grpcs://)"
    )
