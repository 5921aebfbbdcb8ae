"""What the gateway looks at on disk while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def fingerprint(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is written, replaced, or let be read; None while it can't be looked at.

    The time is that of the last change of any kind: a copy that keeps its times has an old one of content.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns, status.st_size


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where TLS is read from, all in PEM form.

    Attributes:
        certificate: the server's certificate, with those that lead to its authority after it.
        key: its private key, without a passphrase.
        client_ca: the authorities whose certificates callers must have (mutual TLS); None to ask for none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def fingerprints(self) -> tuple[tuple[int, int, int] | None, ...]:
        """What changes when one of them is written or replaced."""
        return tuple(fingerprint(path) for path in (self.certificate, self.key, self.client_ca) if path)
