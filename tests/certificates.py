"""Certificates made by the test that needs them: an authority, and what it issues, as files in PEM form."""

import dataclasses
from pathlib import Path

import trustme

HOST = "127.0.0.1"


@dataclasses.dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """One that a test trusts, or does not."""

    def __init__(self, folder):
        self._folder = folder
        self._issued = 0
        self._ca = trustme.CA()
        self.pem = self._ca.cert_pem.bytes()
        folder.mkdir(exist_ok=True)
        self.path = folder / "ca.pem"
        self.path.write_bytes(self.pem)

    def issue(self):
        """A new certificate for this machine, with its key."""
        issued = self._ca.issue_cert(HOST)
        self._issued += 1
        pair = Pair(self._folder / f"{self._issued}.pem", self._folder / f"{self._issued}.key.pem")
        pair.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        pair.key.write_bytes(issued.private_key_pem.bytes())
        return pair
