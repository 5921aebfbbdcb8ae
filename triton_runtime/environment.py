"""Where the real `tritonserver` comes from on a machine without containers, and what it needs to start.

The binary is the one that nvidia-pytriton's wheel carries, in a virtual environment of its own. Its Python backend runs
models in a helper process, the *stub*, which embeds the interpreter's shared library and takes its packages from the
`python3` that stands first in PATH.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_PACKAGE: Final = Path(__file__).parent
_NO_BACKEND: Final = shutil.ignore_patterns("__pycache__", "__init__.py")
_PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
_LIBPYTHON: Final = f"libpython{_PYTHON}.so.1.0"
_LIBPYTHON_CARRIED: Final = _LIBPYTHON.replace(".", "-*.", 1)  # by the name that auditwheel gives it
_ELSEWHERE: Final = (
    "start NVIDIA's Triton container with the model repository, and `eagleeye gateway --triton-url HOST:PORT` in front"
)


class UnsupportedMachine(Exception):
    """A local Triton can't run here; the message says why and what to do instead."""


@dataclass(frozen=True, slots=True)
class Installation:
    """A `tritonserver` that is ready to be started, as many times as one likes.

    Attributes:
        server: the binary.
        directory: the folder under which it was laid out.
        backends: the folder for `--backend-directory`.
        variables: all environment variables for it.
    """

    server: Path
    directory: Path
    backends: Path
    variables: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TritonEnvironment:
    """A virtual environment that holds nvidia-pytriton, made by `make` from `triton_runtime/requirements.txt`."""

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", self.root.absolute())  # a child may run in another folder

    @property
    def server(self) -> Path:
        """The `tritonserver` binary."""
        return self._tritonserver / "bin" / "tritonserver"

    def check(self) -> None:
        """Find out before anything starts whether Triton can run.

        Raises:
            UnsupportedMachine: it can't.
        """
        if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
            here = f"{platform.system()} {platform.machine()}"
            raise UnsupportedMachine(f"a local Triton needs Linux on x86-64, this is {here}; {_ELSEWHERE}")
        if not self.server.is_file():
            raise UnsupportedMachine(f"there is no tritonserver in {self.root}; `make up` installs it there")
        if not self._stub.is_file():
            raise UnsupportedMachine(
                f"Triton's Python backend has no build for Python {_PYTHON}; use 3.11, 3.12 or 3.13"
            )

    def install(self, directory: Path) -> Installation:
        """Do all that comes before a start, under a folder of the caller's own.

        Raises:
            UnsupportedMachine: Triton can't run here.
        """
        self.check()
        directory = directory.absolute()
        return Installation(self.server, directory, self.prepare(directory), self.variables(directory))

    def prepare(self, directory: Path) -> Path:
        """Lay out a backend directory: the Python backend with this interpreter's stub, and the backends of ours.

        Returns:
            The folder for `tritonserver --backend-directory`.
        """
        backends = directory / "backends"
        python = backends / "python"  # whose modules every stub can import
        shutil.rmtree(backends, ignore_errors=True)
        shutil.copytree(_PACKAGE / "backends", backends, ignore=_NO_BACKEND)
        shutil.copytree(self._tritonserver / "backends" / "python", python)
        shutil.copy2(self._stub, python)
        shutil.copytree(_PACKAGE / "stub", python / _PACKAGE.name / "stub", ignore=_NO_BACKEND)
        return backends

    def variables(self, directory: Path) -> dict[str, str]:
        """The environment variables under which `tritonserver` and its stubs find their libraries and packages.

        Raises:
            UnsupportedMachine: the interpreter's shared library is nowhere and can't be fetched.
        """
        given = filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep))
        libraries = [self._link_libpython(directory), self._libraries, *given]
        return {
            **os.environ,
            "PATH": f"{self.root / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "VIRTUAL_ENV": str(self.root),
            "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime would report to Microsoft by default
        }

    def _link_libpython(self, directory: Path) -> Path:
        """A folder with the interpreter's shared library, under every name by which its stub may ask for it.

        The stub of Python 3.13 asks for one that the wheel carries. Other modules are built into that than into this
        interpreter's, so it looks for some in a standard library that has them not as files: Debian's has no `math`.
        """
        links = directory / "libraries"
        shutil.rmtree(links, ignore_errors=True)
        links.mkdir(parents=True)
        library = _libpython(directory)
        for name in {_LIBPYTHON, *(carried.name for carried in self._libraries.glob(_LIBPYTHON_CARRIED))}:
            (links / name).symlink_to(library)
        return links

    @property
    def _libraries(self) -> Path:
        return self._site_packages / "nvidia_pytriton.libs"

    @property
    def _site_packages(self) -> Path:
        return self.root / "lib" / f"python{_PYTHON}" / "site-packages"

    @property
    def _tritonserver(self) -> Path:
        return self._site_packages / "pytriton" / "tritonserver"

    @property
    def _stub(self) -> Path:
        return self._tritonserver / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub"


def _libpython(directory: Path) -> Path:
    """The interpreter's shared library.

    Debian's `python3` does not bring it along, other interpreters keep it beside themselves. Where it is missing,
    Debian's package is fetched and unpacked under `directory`, which needs no root.

    Raises:
        UnsupportedMachine: it is nowhere, and can't be fetched.
    """
    own = Path(sysconfig.get_config_var("LIBDIR") or "/", _LIBPYTHON)
    found = own if own.is_file() else _find_library(_LIBPYTHON)
    if found is None:
        fetched = directory / "libpython"
        reason = "" if any(fetched.rglob(_LIBPYTHON)) else _fetch_debian_package(f"libpython{_PYTHON}", fetched)
        found = next(fetched.rglob(_LIBPYTHON), None)
    if found is None:
        raise UnsupportedMachine(
            f"Triton's Python backend needs {_LIBPYTHON}, which could not be fetched ({reason}); on Debian and Ubuntu "
            f"install it with: sudo apt-get update && sudo apt-get install libpython{_PYTHON}"
        )
    return found


def _find_library(name: str) -> Path | None:
    """Where the system's loader has a shared library, if it knows one of that name."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return None
    stem = name.partition(".so")[0]
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return next((Path(line[line.index("/") :]) for line in mapped if f"/{stem}.so" in line), None)


def _fetch_debian_package(package: str, target: Path) -> str:
    """Download one package and unpack it into `target`; the reason if that fails, which leaves nothing there."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return "there is no apt-get here"
    with tempfile.TemporaryDirectory() as scratch:
        download = ["apt-get", "download", "-q", package]
        done = subprocess.run(download, cwd=scratch, capture_output=True, text=True, check=False)  # noqa: S603 (fixed words)
        if done.returncode:
            return done.stderr.strip().rpartition("\n")[2] or "apt-get failed"
        for archive in Path(scratch).glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", archive, target], check=True)  # noqa: S603, S607 (fixed words)
    return ""
