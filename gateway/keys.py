"""The file of keys: who may call the gateway, how often, and which models they may use.

It holds hashes only: a key is a random secret that is shown once, when it is made.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import secrets
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.priority import Priority

VERSION: Final = 1
MIN_RATE: Final = 1e-5  # requests per second: about one a day
MAX_RATE: Final = 1e6  # more than any gateway answers, and coarse enough for whole nanoseconds
MAX_BURST: Final = 1_000_000
PRIORITIES: Final = tuple(priority.value for priority in Priority)

_MAX_FILE_BYTES: Final = 10_000_000  # some 50,000 keys; what is no regular file could block for ever

_SECRET_PREFIX: Final = "eagleeye_"  # noqa: S105 (not a secret, but what scanners for leaked secrets can look for)
_SECRET_BYTES: Final = 32
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class KeysFileError(Exception):
    """The file of keys can't be read, or an entry of it is wrong; the message names the entry and what is allowed."""


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of the file.

    Attributes:
        name: who it was given to; this is what logs show.
        sha256: the secret's hash, 64 hexadecimal digits.
        rate: requests per second, without limit when None.
        burst: requests that may come at once after a pause; a second's worth when None.
        models: names of the models that may be used, all when None.
        priority: the highest priority that requests may ask for, normal when None.

    Raises:
        ValueError: a value is not allowed; the message says what is.
    """

    name: str
    sha256: str
    rate: float | None = None
    burst: int | None = None
    models: tuple[str, ...] | None = None
    priority: str | None = None

    def __post_init__(self) -> None:
        if not _matches(_NAME, self.name):
            raise ValueError("'name' must be 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit")
        if not _matches(_SHA256, self.sha256):
            raise ValueError("'sha256' must be 64 lower-case hexadecimal digits")
        if self.rate is not None and not (_is_number(self.rate) and MIN_RATE <= self.rate <= MAX_RATE):
            raise ValueError(f"'rate' must be a number of requests per second from {MIN_RATE:.5f} to {MAX_RATE:.0f}")
        if self.burst is not None and not (type(self.burst) is int and 1 <= self.burst <= MAX_BURST):
            raise ValueError(f"'burst' must be a whole number of requests from 1 to {MAX_BURST}")
        if self.burst is not None and self.rate is None:
            raise ValueError("'burst' needs a 'rate'")
        if self.models is not None and not (
            self.models and all(isinstance(name, str) and name for name in self.models)
        ):
            raise ValueError("'models' must be a list of one or more model names")
        if self.priority is not None and self.priority not in PRIORITIES:
            raise ValueError(f"'priority' must be one of {', '.join(PRIORITIES)}")

    @property
    def highest_priority(self) -> Priority:
        """The highest priority that requests may ask for."""
        return Priority(self.priority or Priority.NORMAL)

    @property
    def bucket_size(self) -> int:
        """Requests that may come at once."""
        return self.burst or max(1, math.ceil(self.rate or 1))


_FIELDS: Final = tuple(field.name for field in fields(Key))


def new_secret() -> str:
    """A new key: 256 bits from the operating system, as text that is fit for a header."""
    return _SECRET_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def hash_secret(secret: str) -> str:
    """The hash under which a key is stored, 64 hexadecimal digits.

    Plain SHA-256 is right here. Slow, salted hashes protect passwords, which can be guessed one after another; nobody
    can go through 2^256 random keys, and a slow hash would be paid for with every request.
    """
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def read_keys(path: Path) -> tuple[Key, ...]:
    """The entries of the file at `path`.

    Raises:
        KeysFileError: it can't be read, or is not as it must be.
    """
    try:
        status = path.stat()
        if not (stat.S_ISREG(status.st_mode) and status.st_size <= _MAX_FILE_BYTES):
            raise KeysFileError(f"the keys file {path} must be a regular file of up to {_MAX_FILE_BYTES:,} bytes")
        content = orjson.loads(path.read_bytes())
    except OSError as error:
        raise KeysFileError(f"the keys file {path} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise KeysFileError(f"the keys file {path} is no valid JSON: {error}") from error
    try:
        return _parse(content)
    except ValueError as error:
        raise KeysFileError(f"the keys file {path} is wrong: {error}") from error


def write_keys(path: Path, keys: tuple[Key, ...]) -> None:
    """Replace the file at `path` as a whole, so that a gateway never reads half of it. A new one is its owner's alone.

    Raises:
        KeysFileError: it can't be written.
    """
    entries = [{name: value for name in _FIELDS if (value := getattr(key, name)) is not None} for key in keys]
    content = orjson.dumps(
        {"version": VERSION, "keys": entries}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    )
    try:
        _replace(path.resolve(), content)
    except OSError as error:
        raise KeysFileError(f"the keys file {path} can't be written: {error.strerror}") from error


def _replace(path: Path, content: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
        try:
            with suppress(FileNotFoundError):
                os.fchmod(file.fileno(), path.stat().st_mode & 0o777)  # a gateway of another user could read it: still
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except OSError:
            Path(file.name).unlink()
            raise


def _parse(content: Any) -> tuple[Key, ...]:
    """The entries of a file's content.

    Raises:
        ValueError: something is not as it must be.
    """
    if not isinstance(content, dict) or content.keys() != {"version", "keys"} or not isinstance(content["keys"], list):
        raise ValueError('it must be an object of two fields, {"version": ' + str(VERSION) + ', "keys": [...]}')
    if content["version"] != VERSION:
        raise ValueError(f"its version is {content['version']!r}; this gateway reads version {VERSION}")
    keys = tuple(_parse_entry(index, entry) for index, entry in enumerate(content["keys"]))
    for what in ("name", "sha256"):
        owners: dict[str, int] = {}
        for index, key in enumerate(keys):
            first = owners.setdefault(getattr(key, what), index)
            if first != index:
                raise ValueError(f"keys[{index}] {key.name!r} has the same {what!r} as keys[{first}]; each must differ")
    return keys


def _parse_entry(index: int, entry: Any) -> Key:
    place = f"keys[{index}]"
    if not isinstance(entry, dict):
        raise ValueError(f"{place} must be an object with {', '.join(_FIELDS)}")  # noqa: TRY004 (a value of the file)
    if _matches(_NAME, entry.get("name")):
        place += f" {entry['name']!r}"
    if unknown := entry.keys() - set(_FIELDS):
        raise ValueError(f"{place} has a field {min(unknown)[:100]!r}; allowed are {', '.join(_FIELDS)}")
    if lacking := [name for name in ("name", "sha256") if name not in entry]:
        raise ValueError(f"{place} lacks {lacking[0]!r}")
    models = entry.get("models")
    if models is not None and not isinstance(models, list):
        raise ValueError(f"{place}: 'models' must be a list of one or more model names")
    try:
        return Key(**entry | {"models": None if models is None else tuple(models)})
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
