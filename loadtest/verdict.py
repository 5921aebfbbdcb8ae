"""What a caller may get: the words that all loads count by."""

from __future__ import annotations

import enum


class Verdict(enum.StrEnum):
    """What became of a request."""

    OK = "ok"
    """The right answer, in time."""
    LATE = "late"
    """The right answer, after the deadline."""
    REFUSED = "refused"
    """Told to come back later (503 or 429), by the last attempt that its caller had patience for."""
    FAILED = "failed"
    """Another error, a broken connection, or no answer at all."""
    WRONG = "wrong"
    """An answer that belongs to another image."""
