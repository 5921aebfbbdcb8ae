"""EagleEye: the command line and the Python client.

The client's names are imported when they are first used, so that a command that needs none of it starts without NumPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eagleeye.client import (
        AsyncClient,
        Client,
        Detections,
        EagleEyeError,
        Frame,
        Health,
        InvalidResponse,
        ModelInfo,
        Refused,
        TimedOut,
        Unreachable,
    )

__all__ = [
    "AsyncClient",
    "Client",
    "Detections",
    "EagleEyeError",
    "Frame",
    "Health",
    "InvalidResponse",
    "ModelInfo",
    "Refused",
    "TimedOut",
    "Unreachable",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("eagleeye.client"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
