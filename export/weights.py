"""Official checkpoints by name: found in a directory, at a mirror or at the authors' address, and pinned on first use.

The authors publish no digests. So the first file that arrives is believed, its size and SHA-256 go into a lock file,
and every later one must equal it: whoever commits that file gives all others the same weights, or a refusal.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eagleeye.files import replacing, write_atomically
from export.download import Patience, download, megabytes
from export.errors import DownloadError, OptionError
from export.official import CHECKPOINTS, KINDS, Published
from export.repository import file_sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PYTORCH_MAGIC: Final = (b"PK\x03\x04", b"\x80\x02")
"""How files of PyTorch begin: a ZIP archive, or a pickle as before version 1.6."""


@dataclass(frozen=True, slots=True)
class WeightsSettings:
    """Where checkpoints come from and where they stay."""

    directory: Path = Path(".eagleeye/weights")
    """Downloads stay there; created if need be."""
    lock_file: Path = Path("weights.lock.json")
    """Size and SHA-256 of every file that was ever used, to be committed."""
    mirror: str | None = None
    """A directory or an http(s) address that holds the files under their own names; None: the authors' addresses."""
    patience: Patience | None = None
    """How long to try; None: as long as is usual."""


def official_checkpoint(variant: str, weights: str, settings: WeightsSettings, progress: Callable[[str], None]) -> Path:
    """The published checkpoint of a variant, as a file on this machine that fits the lock file.

    Args:
        variant: a key of `VARIANTS`.
        weights: one of `KINDS`.
        settings: where to look.
        progress: called with a line now and then.

    Raises:
        OptionError: there is no such checkpoint.
        DownloadError: it can't be had, or is another file than the pinned one.
    """
    published = _published(variant, weights)
    try:
        with _sole_user(settings.directory, progress):
            path = _present(published, settings, progress) or _fetched(published, settings, progress)
            _pin(path, published, settings, progress)
    except OSError as error:
        raise DownloadError(
            f"cannot write {error.filename or settings.directory}: {error.strerror or error}"
        ) from error
    return path


def _published(variant: str, weights: str) -> Published:
    """The row of the table.

    Raises:
        OptionError: it has none.
    """
    if weights not in KINDS:
        raise OptionError(f"there are no weights {weights!r}; choose from {', '.join(KINDS)}")
    for kind, published in CHECKPOINTS[variant].items():
        if kind == weights:
            return published
    distilled = ", ".join(name for name, kinds in CHECKPOINTS.items() if weights in kinds)
    raise OptionError(f"variant {variant} was not published as {weights!r}; {distilled} were. Use --weights official")


def _present(published: Published, settings: WeightsSettings, progress: Callable[[str], None]) -> Path | None:
    """The file from an earlier run or from a directory; None where it must be fetched."""
    path = settings.directory / published.file_name
    pin = _pins(settings.lock_file).get(published.file_name)
    if path.exists() and pin is not None:
        if _fits(path, pin):
            return path
        progress(f"{path} is damaged; it is replaced")
        path.unlink()
    if settings.mirror is not None and not _is_address(settings.mirror):
        return _from_directory(published, settings.mirror, path)
    return path if path.exists() else None


def _from_directory(published: Published, mirror: str, path: Path) -> Path:
    """The file in the directory that stands in for the authors' server, copied: a mounted one may go away."""
    try:
        with Path(mirror, published.file_name).open("rb") as original, replacing(path) as copy:
            shutil.copyfileobj(original, copy)
    except FileNotFoundError as error:
        raise DownloadError(
            f"the mirror {mirror} holds no {published.file_name}. Fetch {published.url} and put it there"
        ) from error
    return path


def _fetched(published: Published, settings: WeightsSettings, progress: Callable[[str], None]) -> Path:
    path = settings.directory / published.file_name
    url = f"{settings.mirror.rstrip('/')}/{published.file_name}" if settings.mirror else published.url
    progress(f"downloading {url}")
    try:
        download(url, path, progress, settings.patience)
    except DownloadError as error:
        raise DownloadError(
            f"{error}. Or fetch {published.url} on another machine and name the file with --checkpoint, or its "
            "directory with --weights-mirror"
        ) from error
    return path


def _pin(path: Path, published: Published, settings: WeightsSettings, progress: Callable[[str], None]) -> None:
    """Hold the file against its pin; without one, make it.

    Raises:
        DownloadError: it is no checkpoint, or not the pinned one; it is removed.
    """
    _require_checkpoint(path)
    found = {"url": published.url, "size_bytes": path.stat().st_size, "sha256": file_sha256(path)}
    pins = _pins(settings.lock_file)
    pin = pins.get(published.file_name)
    if pin is not None and not _fits(path, pin):
        path.unlink()
        raise DownloadError(
            f"{published.file_name} has {found['size_bytes']} bytes and SHA-256 {found['sha256']}, but "
            f"{settings.lock_file} pins {pin['size_bytes']} bytes and {pin['sha256']}. It was removed. Where the "
            "authors are known to have published a new file, remove the entry and run this again"
        )
    if pin is None:
        settings.lock_file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**pins, published.file_name: found}, indent=2, sort_keys=True)
        write_atomically(settings.lock_file, f"{text}\n".encode())
    verb = "pinned in" if pin is None else "as pinned in"
    progress(
        f"{path}: {megabytes(path.stat().st_size)}, SHA-256 {found['sha256']}, {verb} {settings.lock_file}",
    )


def _require_checkpoint(path: Path) -> None:
    """Refuse what is no PyTorch file, such as the web page of a proxy, before it is pinned."""
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(_PYTORCH_MAGIC):
        return
    path.unlink()
    is_page = start.lstrip().startswith(b"<")
    what = "a web page, perhaps a proxy's" if is_page else "nothing" if not start else "something else"
    raise DownloadError(f"what arrived as {path.name} is not a PyTorch file but {what}; it was removed")


def _pins(lock_file: Path) -> dict[str, Any]:
    """File name -> url, size_bytes, sha256.

    Raises:
        DownloadError: the file is there, but not readable as such.
    """
    try:
        pins = json.loads(lock_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DownloadError(f"cannot read the lock file {lock_file}: {error}") from error
    if not isinstance(pins, dict) or not all({"size_bytes", "sha256"} <= set(pin) for pin in pins.values()):
        raise DownloadError(f"the lock file {lock_file} must map file names to size_bytes and sha256")
    return pins


def _fits(path: Path, pin: dict[str, Any]) -> bool:
    return bool(path.stat().st_size == pin["size_bytes"] and file_sha256(path) == pin["sha256"])


def _is_address(mirror: str) -> bool:
    """Whether a mirror is an address rather than a directory.

    Raises:
        OptionError: it is an address of a kind that isn't spoken here.
    """
    scheme, found, _ = mirror.partition("://")
    if found and scheme not in {"http", "https"}:
        raise OptionError(f"the mirror must be a directory or begin with http:// or https://, not {mirror!r}")
    return bool(found)


@contextlib.contextmanager
def _sole_user(directory: Path, progress: Callable[[str], None]) -> Iterator[None]:
    """Let one process at a time fetch into a directory: the next one then finds the file."""
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for another export that fetches into {directory}")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
