"""What can go wrong with a request, in our own words. Knows no HTTP and no gRPC: each face owns a table.

A message is written for the caller: it says what was wrong and what is allowed, and never shows internals.
"""

from __future__ import annotations

from typing import ClassVar


class GatewayError(Exception):
    """A request could not be answered. `code` is stable and part of the interface; `str(error)` is for people.

    `retry_after_seconds` is the time after which a new try is worthwhile; None if it never is.
    """

    code: ClassVar[str]
    retry_after_seconds: int | None = None


class InvalidImage(GatewayError):
    """The bytes claim to be an image of an allowed format, and are not."""

    code = "invalid_image"


class UnsupportedMediaType(GatewayError):
    """The bytes are in no image format that is allowed."""

    code = "unsupported_media_type"


class ImageTooLarge(GatewayError):
    """More bytes or more pixels than the limits allow."""

    code = "image_too_large"


class InvalidParameter(GatewayError):
    """A parameter of the request is unknown or out of its range."""

    code = "invalid_parameter"


class Unauthorized(GatewayError):
    """A key is needed, and none or an unknown one was sent."""

    code = "unauthorized"


class RateLimited(GatewayError):
    """The key has used up what it may send for now."""

    code = "rate_limited"

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class ModelNotFound(GatewayError):
    """No Triton serves a detector of that name and version."""

    code = "model_not_found"


class Overloaded(GatewayError):
    """The gateway holds as much work as it may."""

    code = "overloaded"

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class TritonUnavailable(GatewayError):
    """No Triton can be reached, or it refused to serve."""

    code = "triton_unavailable"
    retry_after_seconds = 1  # a Triton that is away is probed more often than this


class InvalidPrediction(GatewayError):
    """Triton answered with something that breaks the contract of the served model."""

    code = "invalid_prediction"


class DeadlineExceeded(GatewayError):
    """The answer would come later than the caller is willing to wait."""

    code = "deadline_exceeded"
