"""Certificates of both faces: read, checked, and taken up again when they are renewed on disk."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import grpc
import structlog

from gateway.reloaded import Reloaded

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.files import TlsFiles

_KEY_OF_ANOTHER: Final = "KEY_VALUES_MISMATCH"  # OpenSSL's word for a key that does not fit its certificate

_log = structlog.get_logger()


class TlsError(Exception):
    """The files can't be served with; the message is one line that names the file and says what it must be."""


class Tls(Reloaded):
    """TLS for both faces, from the same files. While entered, a renewal of the files counts within about a second.

    Connections that are open stay as they are. Files that become unreadable or wrong change nothing but for an error in
    the log: what was served before stays.
    """

    def __init__(self, files: TlsFiles) -> None:
        """Read the files.

        Raises:
            TlsError: one can't be read, or is not as it must be.
        """
        self._files = files
        self._seen = files.fingerprints()
        self._rest = _RenewedContext(ssl.PROTOCOL_TLS_SERVER)
        self._take_over(_read(files))

    def for_rest(self) -> ssl.SSLContext:
        """The context for asyncio, which shows each new connection what is current."""
        return self._rest

    def for_grpc(self) -> grpc.ServerCredentials:
        """The credentials for a gRPC server, which asks anew for each connection."""
        return grpc.dynamic_ssl_server_credentials(
            self._grpc, lambda: self._grpc, require_client_authentication=self._files.client_ca is not None
        )

    async def reload(self) -> None:
        """Read the files again if one of them has changed."""
        seen = await asyncio.to_thread(self._files.fingerprints)
        if seen == self._seen:
            return
        try:
            material = await asyncio.to_thread(_read, self._files)
        except TlsError as error:
            self._seen = seen
            _log.error("the certificate stays as it was", reason=str(error))
            return
        if await asyncio.to_thread(self._files.fingerprints) != seen:
            return  # they were replaced while they were read, so they may not belong together: look again soon
        self._seen = seen
        self._take_over(material)
        _log.info("certificate read", path=str(self._files.certificate))

    def _take_over(self, material: _Material) -> None:
        self._rest.current = material.context
        self._grpc = material.for_grpc


@dataclass(frozen=True, slots=True)
class _Material:
    """What the files hold, in the form that each face takes."""

    context: ssl.SSLContext
    for_grpc: Any


class _RenewedContext(ssl.SSLContext):
    """Leaves each new connection to the context that is `current` then.

    Loading a certificate into a context that is in use would not do: it never forgets an authority, and a key that does
    not fit leaves it with the new certificate and the old key.
    """

    current: ssl.SSLContext

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        return self.current.wrap_bio(*args, **kwargs)


def _read(files: TlsFiles) -> _Material:
    """Read and check the files.

    Raises:
        TlsError: one can't be read, or is not as it must be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    certificate, key = _certificates(files.certificate), _bytes(files.key)
    _load_pair(context, files)
    client_ca = None
    if files.client_ca is not None:
        client_ca = _certificates(files.client_ca)
        context.load_verify_locations(cadata=_ascii(client_ca))
        context.verify_mode = ssl.CERT_REQUIRED
    return _Material(context, grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca))


def _load_pair(context: ssl.SSLContext, files: TlsFiles) -> None:
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_passphrase)
    except ssl.SSLError as error:
        if error.reason == _KEY_OF_ANOTHER:
            raise TlsError(f"the key {files.key} does not belong to the certificate {files.certificate}") from None
        if error.reason is not None:
            why = error.reason.lower().replace("_", " ")
            raise TlsError(f"the certificate {files.certificate} can't be used: {why}") from None
        raise TlsError(f"{files.key} holds no private key in PEM form, without a passphrase") from None
    except OSError as error:
        raise TlsError(f"{files.certificate} or {files.key} can't be read: {error.strerror}") from None


def _certificates(path: Path) -> bytes:
    """The content of a file that must hold at least one certificate.

    Raises:
        TlsError: it can't be read, or holds none.
    """
    pem = _bytes(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=_ascii(pem))
    except (ssl.SSLError, ValueError):
        raise TlsError(f"{path} holds no certificate in PEM form") from None
    return pem


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{path} can't be read: {error.strerror}") from None


def _ascii(pem: bytes) -> str:
    """What stands between the certificates may be in any language."""
    return pem.decode("ascii", errors="ignore")


def _no_passphrase() -> bytes:
    """In place of OpenSSL, which would ask the terminal."""
    return b""
