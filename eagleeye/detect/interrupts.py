"""Ctrl-C between two pictures, and not between a picture that was written and its count."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, TracebackType


class Interrupts:
    """While entered, SIGINT raises KeyboardInterrupt as ever, but only at the end of a block that holds it back.

    A second one raises it at once, should such a block take long. Where SIGINT is ignored, as in a shell's background,
    that stays so.
    """

    def __init__(self) -> None:
        self._is_held_back = False
        self._has_come = False

    def __enter__(self) -> Self:
        self._before = signal.getsignal(signal.SIGINT)
        if self._before is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Let the block end before SIGINT has its effect.

        Raises:
            KeyboardInterrupt: at the end; it came meanwhile.
        """
        self._is_held_back = True
        try:
            yield
        finally:
            self._is_held_back = False
        if self._has_come:
            raise KeyboardInterrupt

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._is_held_back or self._has_come:
            signal.default_int_handler(number, frame)
        self._has_come = True
