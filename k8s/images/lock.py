"""Writes the .lock files beside this one: every package that an image gets, by version and SHA-256.

    .venv/bin/python k8s/images/lock.py

Which packages follows from pyproject.toml and from the metadata of what is installed here; which versions, from
constraints.txt; the digests are those that pip's index has for the image's Python on x86-64. Run it when either changes
(torch and TensorRT's bindings are not among them: see the Dockerfile).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER: Final = Path(__file__).resolve().parent
REPOSITORY: Final = FOLDER.parents[1]
OURS: Final = "eagleeye"
_CUDA: Final = re.compile(r"cuda-|nvidia-|triton$")  # what torch asks for where the build for GPUs is installed
_PLATFORMS: Final = ("2_28", "2_27", "2_24", "2_17")  # of glibc: Debian 13 has 2.41, Ubuntu 24.04 has 2.39


@dataclass(frozen=True, slots=True)
class Lock:
    """What a .lock file is for.

    Attributes:
        python: version of the image's interpreter.
        roots: what is wanted, as requirements.
        apart: what is left out.
    """

    python: str
    roots: tuple[str, ...]
    apart: frozenset[str] = frozenset()


LOCKS: Final = {
    "build": Lock("3.13", ("hatchling",)),
    "gateway": Lock("3.13", (f"{OURS}[gateway,tracing]",)),
    # `eagleeye engine ensure`; TensorRT's bindings are apart, as their version is that of the base image's library
    "triton": Lock("3.12", (OURS, "onnx", "tritonclient[grpc]")),
    # `eagleeye export`, images for --calibration included; torch comes from an index of its own, setuptools only
    # matters to those who compile with it
    "exporter": Lock(
        "3.13",
        (f"{OURS}[export]", "opencv-python-headless", "pillow", "simplejpeg"),
        frozenset({"setuptools", "torch"}),
    ),
    "load": Lock("3.13", (f"{OURS}[load]",)),
}


def pins() -> dict[str, str]:
    """Name -> version, of all that constraints.txt has."""
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def packages(lock: Lock) -> list[str]:
    """The names of all packages that the roots need, themselves included, in order.

    Raises:
        importlib.metadata.PackageNotFoundError: one of them is not installed here.
    """
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(root) for root in lock.roots]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            waiting.extend(_needs(name, extra, lock.python))
    return sorted({name for name, _ in seen} - {OURS} - lock.apart)


def _needs(name: str, extra: str, python: str) -> Iterator[Requirement]:
    target = {"python_version": python, "python_full_version": f"{python}.0", "extra": extra}
    environment: dict[str, Any] = {**default_environment(), **target}
    if name == OURS:
        project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        yield from map(Requirement, project["optional-dependencies"][extra] if extra else project["dependencies"])
        return
    for requirement in map(Requirement, metadata.requires(name) or []):
        if _CUDA.match(requirement.name):
            continue
        if requirement.marker is None or requirement.marker.evaluate(environment):
            yield requirement


def digests(requirements: list[str], python: str) -> dict[str, str]:
    """Name -> SHA-256 of the wheel that pip would take.

    Raises:
        subprocess.CalledProcessError: pip finds none for one of them; it says which.
    """
    abi = f"cp{python.replace('.', '')}"
    target = [f"--platform=manylinux_{version}_x86_64" for version in _PLATFORMS]
    target += ["--platform=manylinux2014_x86_64", f"--python-version={python}", "--implementation=cp"]
    target += [f"--abi={abi}", "--abi=abi3", "--abi=none", "--only-binary=:all:", "--target=unused"]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed", "--no-deps"]
    done = subprocess.run(  # noqa: S603 (our own words)
        [*command, *target, "--report=-", *requirements], check=True, stdout=subprocess.PIPE
    )
    report: list[dict[str, Any]] = json.loads(done.stdout)["install"]
    return {
        canonicalize_name(each["metadata"]["name"]): each["download_info"]["archive_info"]["hashes"]["sha256"]
        for each in report
    }


def write(name: str, lock: Lock) -> None:
    """Write one .lock file."""
    pinned = pins()
    wanted = {package: f"{package}=={pinned[package]}" for package in packages(lock)}
    sha256 = digests(list(wanted.values()), lock.python)
    lines = [f"# Made by lock.py for Python {lock.python} on x86-64: run it again rather than edit this.\n"]
    lines += [f"{line} \\\n    --hash=sha256:{sha256[package]}\n" for package, line in wanted.items()]
    (FOLDER / f"{name}.lock").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    for each in LOCKS.items():
        write(*each)
