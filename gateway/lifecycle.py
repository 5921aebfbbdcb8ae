"""Whether this process wants traffic."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Lifecycle:
    """Ready while a detector is served, until draining begins; every face asks here, so that they agree."""

    def __init__(self, is_served: Callable[[], bool]) -> None:
        self._is_served = is_served
        self.is_draining = False

    def drain(self) -> None:
        """Not be ready any more; requests that still come are served."""
        self.is_draining = True

    @property
    def is_ready(self) -> bool:
        """Whether requests should be sent here."""
        return self._is_served() and not self.is_draining
