"""Standard streams that nobody listens to: closed by the caller, or pipes whose reader has left."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO


def replace_closed() -> None:
    """Lets standard streams that the caller has closed be empty ones: else they are None, or the next file opened."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 (a device, for good)


def silence(stream: TextIO) -> None:
    """Lets what a stream holds, and whatever follows, go nowhere.

    After a failed write, the interpreter would try once more when it ends, complain, and change the exit code.
    """
    with open(os.devnull, "wb") as nothing:  # noqa: PTH123 (a device, not a file)
        os.dup2(nothing.fileno(), stream.fileno())
