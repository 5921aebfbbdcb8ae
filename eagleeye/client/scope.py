"""What ends together: closing a client, or leaving a batch, ends what is under way in other threads."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Scope:
    """Calls that can be ended from any thread. An ended scope lets nothing start.

    Args:
        reason: what whoever comes too late is told.
    """

    def __init__(self, reason: str) -> None:
        self._reason = reason
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._aborts: dict[object, Callable[[], object]] = {}

    def check(self) -> None:
        """Make sure that work may go on.

        Raises:
            RuntimeError: the scope has ended.
        """
        if self._ended.is_set():
            raise RuntimeError(self._reason)

    @contextmanager
    def aborting(self, abort: Callable[[], object]) -> Iterator[None]:
        """Call `abort` if the scope ends in the meantime.

        Raises:
            RuntimeError: the scope has ended.
        """
        token = object()
        with self._lock:
            self.check()
            self._aborts[token] = abort
        try:
            yield
        finally:
            with self._lock:
                self._aborts.pop(token, None)

    def sleep(self, seconds: float) -> None:
        """Sleep until the time is over or the scope ends."""
        self._ended.wait(seconds)

    def end(self) -> None:
        """Abort all that is under way; nothing starts from here on."""
        with self._lock:
            self._ended.set()
            aborts = list(self._aborts.values())
        for abort in aborts:
            abort()
