"""Builds the stand-in's backend, which is C: Triton loads it as it loads those of ONNX Runtime and TensorRT.

A backend in Python would be simpler to ship. It costs 0.3 to 0.4 ms of the processor for each image, though, in a
helper process and on the way to it, and a GPU costs next to none: whoever measures a gateway beside it measures that.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

from triton_runtime.environment import UnsupportedMachine

_SOURCE: Final = Path(__file__).with_name("backend.c")
_OPTIONS: Final = ("-std=c11", "-O2", "-fPIC", "-shared")


@cache
def library() -> bytes:
    """The shared library for this machine, built once in each process; takes a fraction of a second.

    The system's C compiler builds it, or else Zig's, which is a wheel and needs nothing of the system.

    Raises:
        UnsupportedMachine: there is no C compiler, or none that can build it; the message says what helps.
    """
    reason = "there is none here"
    for compiler in _compilers():
        with tempfile.TemporaryDirectory() as scratch:
            built = Path(scratch, "backend.so")
            command = [*compiler, *_OPTIONS, "-o", str(built), str(_SOURCE)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (see _compilers)
            if done.returncode == 0:
                return built.read_bytes()
            reason = done.stderr.strip().partition("\n")[0] or f"{compiler[0]} failed"
    raise UnsupportedMachine(
        f"the stand-in for a GPU is compiled, which needs a C compiler ({reason}); "
        f"install Debian's with: sudo apt-get install gcc libc6-dev; or one as a wheel with: "
        f"{sys.executable} -m pip install ziglang"
    )


def _compilers() -> list[list[str]]:
    """Commands of the C compilers that are here, best first."""
    found = [[path] for path in [shutil.which("cc")] if path]
    if importlib.util.find_spec("ziglang"):
        found.append([sys.executable, "-m", "ziglang", "cc"])
    return found
