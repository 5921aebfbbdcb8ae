"""Fetches one file over HTTP: goes on where a broken transfer ended, and tells in plain words why one failed.

By the standard library, which honours `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY` and `SSL_CERT_FILE`: one file in a while
needs no pool of connections, and so `export` no further package.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final

from eagleeye.files import write_atomically
from export.errors import DownloadError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BLOCK_BYTES: Final = 1 << 16
MAX_BYTES: Final = 2 << 30
"""The largest official checkpoint has some 200 MB; an answer without end must not fill the disk."""

REPORT_SECONDS: Final = 2.0
_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_PASSING: Final = {408, 425, 429, 500, 502, 503, 504}
"""HTTP statuses that may be gone at the next try."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to try."""

    stall_seconds: float = 30.0
    """Longest time without a single byte."""
    attempts: int = 5
    """In a row that brought nothing; one that brought bytes starts the count anew."""
    pause_seconds: float = 1.0
    """Before the second attempt; doubled before each further one."""


class _BrokenTransferError(Exception):
    """This attempt ended early, and another may bring more."""


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to anything that can be forged on the way."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.startswith(("https://", "http://") if req.type == "http" else "https://"):
            raise DownloadError(f"{req.full_url} redirects to {newurl}, which is less safe; refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(url: str, target: Path, progress: Callable[[str], None], patience: Patience | None = None) -> None:
    """Fetch `url` into `target`, beginning with what an earlier run left in `<target>.part`.

    Bytes are only joined where the server says that its file is still the same (`If-Range`).

    Args:
        url: http or https.
        target: appears complete or not at all. Its directory must exist; only one process may work on it at a time.
        progress: called with a line now and then.
        patience: how long to try.

    Raises:
        DownloadError: it can't be fetched; the text says why. What has arrived stays for the next run.
        OSError: the disk is full or not writable.
    """
    patience = patience or Patience()
    transfer = _Transfer(url, target, progress, patience.stall_seconds)
    failures = 0
    while True:
        before = transfer.arrived
        try:
            transfer.attempt()
        except _BrokenTransferError as broken:
            failures = 1 if transfer.arrived > before else failures + 1
            if failures >= patience.attempts:
                raise DownloadError(f"cannot download {url}: {broken}; tried {failures} times") from broken
            progress(f"{broken}; trying again")
            time.sleep(patience.pause_seconds * 2 ** (failures - 1))
        else:
            transfer.finish()
            return


class _Transfer:
    """One file on its way."""

    def __init__(self, url: str, target: Path, progress: Callable[[str], None], stall_seconds: float) -> None:
        self._url, self._target, self._progress, self._stall_seconds = url, target, progress, stall_seconds
        self._part = target.with_name(f"{target.name}.part")
        self._note = target.with_name(f"{target.name}.part.json")
        self._opener = urllib.request.build_opener(_NoDowngrade)

    @property
    def arrived(self) -> int:
        """Bytes on the disk."""
        return self._part.stat().st_size if self._part.exists() else 0

    def attempt(self) -> None:
        """Ask once, from where the last attempt ended.

        Raises:
            _BrokenTransferError: it ended early.
            DownloadError: no attempt will do better.
        """
        with self._open() as response:
            start, total = self._agree(response)
            self._receive(response, start, total)

    def finish(self) -> None:
        """Give the file its name."""
        self._part.replace(self._target)
        self._note.unlink(missing_ok=True)

    def _open(self) -> Any:
        headers = {"Accept-Encoding": "identity", "User-Agent": "eagleeye"}
        validator = self._validator()
        if validator and self.arrived:
            headers |= {"Range": f"bytes={self.arrived}-", "If-Range": validator}
        request = urllib.request.Request(self._url, headers=headers)  # noqa: S310 (http and https only: see `weights`)
        try:
            return self._opener.open(request, timeout=self._stall_seconds)
        except urllib.error.HTTPError as error:
            with error:
                self._refused(error.code)
        except (OSError, http.client.HTTPException) as error:
            raise self._told(error) from error

    def _refused(self, status: int) -> None:
        if status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            self._forget()
            raise _BrokenTransferError("what an earlier run left does not belong to this file")
        reason = http.client.responses.get(status, "unknown status")
        if status in _PASSING:
            raise _BrokenTransferError(f"the server answers {status} {reason}")
        if status == http.HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            raise DownloadError(f"cannot download {self._url}: the proxy wants a login; put it into HTTPS_PROXY")
        raise DownloadError(f"cannot download {self._url}: the server answers {status} {reason}")

    def _told(self, error: Exception) -> Exception:
        """What to raise for a failure below HTTP: in plain words, and as hopeless or not."""
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        via = f" through the proxy {proxy}" if (proxy := _proxy(self._url)) else ""
        if isinstance(reason, ssl.SSLCertVerificationError):
            return DownloadError(
                f"cannot download {self._url}{via}: its TLS certificate is not trusted ({reason.verify_message}). "
                "Where a company's proxy signs certificates, name its authority in SSL_CERT_FILE"
            )
        if isinstance(reason, socket.gaierror):
            return DownloadError(
                f"cannot download {self._url}{via}: no address is known for {'the proxy' if via else 'the server'}, so "
                "this machine is offline or has no name server. Is a proxy needed? Then set HTTPS_PROXY"
            )
        if isinstance(reason, ConnectionRefusedError):
            return _BrokenTransferError(f"nothing answers at {'the proxy ' + proxy if proxy else 'the server'}")
        if isinstance(reason, TimeoutError):
            return _BrokenTransferError(f"nothing arrived{via} for {self._stall_seconds:g} s")
        return _BrokenTransferError(f"the connection{via} broke: {reason}")

    def _agree(self, response: Any) -> tuple[int, int | None]:
        """Where in the file the answer begins, and how long the whole file is, if the server says so."""
        length = response.headers.get("Content-Length", "")
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            self._forget()
            total = int(length) if length.isdecimal() else None
            self._remember(response)
            return 0, total
        match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != self.arrived:
            self._forget()
            raise _BrokenTransferError("the server sent another part of the file than was asked for")
        return int(match[1]), int(match[3]) if match[3].isdecimal() else None

    def _receive(self, response: Any, start: int, total: int | None) -> None:
        if total is not None and total > MAX_BYTES:
            raise DownloadError(f"{self._url} has {megabytes(total)}; more than {megabytes(MAX_BYTES)} are refused")
        meter = _Meter(self._target.name, start, total, self._progress)
        with self._part.open("ab") as part:
            while block := self._read(response):
                part.write(block)
                meter.add(len(block))
                if meter.bytes > MAX_BYTES:
                    raise DownloadError(f"{self._url} has no end: stopped after {megabytes(MAX_BYTES)}")
        if total is not None and meter.bytes != total:
            raise _BrokenTransferError(f"the transfer ended after {meter.bytes} of {total} bytes")
        meter.report()

    def _read(self, response: Any) -> bytes:
        try:
            return bytes(response.read1(BLOCK_BYTES))
        except (OSError, http.client.HTTPException) as error:
            raise self._told(error) from error

    def _validator(self) -> str:
        """What told the server's file apart when the part was begun; empty: unknown, so begin anew."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            return str(note["validator"]) if note["url"] == self._url else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def _remember(self, response: Any) -> None:
        etag = response.headers.get("ETag", "")
        validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")
        write_atomically(self._note, json.dumps({"url": self._url, "validator": validator}).encode())

    def _forget(self) -> None:
        self._note.unlink(missing_ok=True)
        self._part.unlink(missing_ok=True)


class _Meter:
    """Tells how far a transfer is, every now and then."""

    def __init__(self, name: str, start: int, total: int | None, progress: Callable[[str], None]) -> None:
        self.bytes = start
        self._name, self._start, self._total, self._progress = name, start, total, progress
        self._began = self._reported = time.monotonic()
        if start:
            progress(f"{name}: going on after {megabytes(start)}")

    def add(self, count: int) -> None:
        """So many bytes more have arrived."""
        self.bytes += count
        if time.monotonic() - self._reported >= REPORT_SECONDS:
            self.report()

    def report(self) -> None:
        """A line with size, share and rate."""
        self._reported = time.monotonic()
        rate = (self.bytes - self._start) / max(self._reported - self._began, 1e-9)
        of = f" of {megabytes(self._total)} ({self.bytes / self._total:.0%})" if self._total else ""
        self._progress(f"{self._name}: {megabytes(self.bytes)}{of}, {megabytes(rate)}/s")


def megabytes(count: float) -> str:
    """A number of bytes for people."""
    return f"{count / 1e6:.1f} MB"


def _proxy(url: str) -> str:
    """The proxy that a request goes through, without its password; empty for none."""
    scheme, _, rest = url.partition("://")
    host = rest.partition("/")[0]
    with contextlib.suppress(OSError):
        if urllib.request.proxy_bypass(host):
            return ""
    return urllib.request.getproxies().get(scheme, "").rpartition("@")[2]
