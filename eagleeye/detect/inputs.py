"""What the user names -> the files to look at, in an order that is the same every time."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

STDIN: Final = "-"
IMAGE_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
VIDEO_SUFFIXES: Final = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv"})


class InputError(ValueError):
    """What was named cannot be found or read; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file to look at.

    Attributes:
        name: what results call it: its path as the user gave it, `-` for standard input.
        path: where it lies; None for standard input.
        relative: its place in a folder of results; no two sources of a run have the same.
    """

    name: str
    path: Path | None
    relative: PurePath

    @property
    def is_video(self) -> bool:
        """Whether it holds frames; its suffix decides."""
        return self.path is not None and self.path.suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True, slots=True)
class Sources:
    """The files of one run; `root` is the folder that their places in a folder of results are relative to."""

    files: tuple[Source, ...]
    root: Path


def find_sources(named: Iterable[str], listed: Iterable[str] = (), results: Path | None = None) -> Sources:
    """Every file that is meant, each once, in the order of the names and sorted within each.

    Args:
        named: files, folders (all images below them), glob patterns where no such file exists, or `-`.
        listed: lines of a list: files and folders. A file that is not there fails later and alone.
        results: a folder of results; what lies in it counts only if it is named itself.

    Raises:
        InputError: a name means nothing that exists, or there is nothing to look at.
    """
    found, roots = dict[str, Source](), list[Path]()
    for text in named:
        _add(found, roots, *_named(text, results))
    for text in listed:
        path = Path(text)
        _add(found, roots, *(_folder(path, results) if os.path.isdir(path) else (path.parent, [path])))  # noqa: PTH112
    if not found:
        raise InputError("there is nothing to look at: no JPEG, PNG, WebP or BMP file was found")
    root = Path(os.path.commonpath([_absolute(each) for each in roots]))
    return Sources(tuple(_placed(source, root) for source in found.values()), root)


def _add(found: dict[str, Source], roots: list[Path], root: Path, paths: Sequence[Path | None]) -> None:
    """Takes the paths up, but for those that were found before under another name."""
    for path in paths:
        name, key = (STDIN, STDIN) if path is None else (str(path), _absolute(path))
        found.setdefault(key, Source(name, path, PurePath()))
    roots.append(root)


def _placed(source: Source, root: Path) -> Source:
    relative = "stdin" if source.path is None else os.path.relpath(_absolute(source.path), root)
    return replace(source, relative=PurePath(relative))


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 (`Path.absolute` keeps `..`, and `resolve` follows links)


def _named(text: str, results: Path | None) -> tuple[Path, Sequence[Path | None]]:
    """The folder that results are relative to, and the files that an argument means; None is standard input."""
    path = Path(text)
    if text == STDIN:
        return Path(), [None]
    if _is_folder(path):
        return _folder(path, results)
    if _exists(path):
        return path.parent, [path]
    if glob.has_magic(text):
        return _pattern(text, results)
    raise InputError(f"there is no file or folder {printable(text)}")


def _folder(folder: Path, results: Path | None) -> tuple[Path, list[Path]]:
    """Every image below a folder, by path, without hidden files and folders."""
    return folder, sorted(_images_below(folder, results), key=lambda path: path.parts)


def _images_below(folder: Path, results: Path | None) -> Iterator[Path]:
    for where, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".") and not _is_in(Path(where, name), results)]
        for name in names:
            path = Path(where, name)
            if not name.startswith(".") and path.suffix.lower() in IMAGE_SUFFIXES and not _is_pipe(path):
                yield path


def _pattern(pattern: str, results: Path | None) -> tuple[Path, list[Path]]:
    """Every image and video that a glob pattern matches, by path, without hidden files."""
    matches = {Path(match) for match in glob.iglob(pattern, recursive=True)}  # noqa: PTH207 (skips hidden files, as a shell does)
    files = [path for path in matches if path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES and path.is_file()]
    files = [path for path in files if not _is_in(path, results)]
    if not files:
        raise InputError(f"nothing that {printable(pattern)} matches is an image (JPEG, PNG, WebP, BMP) or a video")
    return Path(*_leading(Path(pattern).parts)), sorted(files, key=lambda path: path.parts)


def _is_in(path: Path, folder: Path | None) -> bool:
    return folder is not None and Path(_absolute(path)).is_relative_to(_absolute(folder))


def _leading(parts: Iterable[str]) -> Iterator[str]:
    """The folders of a pattern before its first wildcard."""
    for part in list(parts)[:-1]:
        if glob.has_magic(part):
            return
        yield part


def _is_pipe(path: Path) -> bool:
    """Whether it is a pipe, a device or the like, whose end may never come. A link to nothing fails later and alone."""
    return path.exists() and not path.is_file()


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise _unreadable(error) from error


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise _unreadable(error) from error


def _refuse(error: OSError) -> None:
    raise _unreadable(error) from error


def _unreadable(error: OSError) -> InputError:
    return InputError(f"cannot read {printable(str(error.filename))}: {error.strerror}")


def printable(name: str) -> str:
    """A name for a message of one line."""
    return name if name.isprintable() else ascii(name)
