"""What can go wrong between a caller and the gateway, in the caller's words. Knows no HTTP and no gRPC."""

from __future__ import annotations

from typing import ClassVar, Final

NO_TLS: Final = "WRONG_VERSION_NUMBER"
"""OpenSSL's and BoringSSL's word for what is no TLS at all."""


class EagleEyeError(Exception):
    """The gateway gave no detections; `str(error)` is one line that says why.

    | class | `code` | tried again |
    |---|---|---|
    | `Refused` | the gateway's own, such as `invalid_image` | `overloaded`, `triton_unavailable`, `rate_limited` |
    | `Unreachable` | `unreachable` | yes, unless a certificate is not trusted, or there is no TLS |
    | `TimedOut` | `deadline_exceeded` | no, the time is used up |
    | `InvalidResponse` | `invalid_response` | no |

    What the client tries again reaches the caller only when its attempts or its time are used up.

    Attributes:
        code: what went wrong, for programs; stable.
        request_id: under which the gateway's log has the request; None where the gateway did not say.
        is_retryable: whether the same request may well succeed later.
        retry_after_seconds: the wait that the gateway asks for; None where it asks for none.
    """

    default_code: ClassVar[str]

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        request_id: str | None = None,
        is_retryable: bool = False,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(" ".join(message.split()))
        self.code = self.default_code if code is None else code
        self.request_id = request_id
        self.is_retryable = is_retryable
        self.retry_after_seconds = retry_after_seconds


class Refused(EagleEyeError):
    """The gateway answered with an error. `code` is the gateway's own; docs/detect.md lists them all.

    | `code` | what to do |
    |---|---|
    | `invalid_image`, `unsupported_media_type`, `image_too_large` | send another image |
    | `invalid_parameter`, `model_not_found` | change the options; the text says what is allowed |
    | `unauthorized` | give a `key`, or another one |
    | `rate_limited`, `overloaded`, `triton_unavailable` | come back later: all attempts met it |
    | `invalid_prediction`, `internal` | tell the operator the `request_id` |
    """

    default_code = "internal"


class Unreachable(EagleEyeError):
    """There was no connection to the gateway, or it broke, and so did all attempts after it."""

    default_code = "unreachable"


class TimedOut(EagleEyeError):
    """There was no answer within `timeout_seconds`, by the client's clock or by the gateway's."""

    default_code = "deadline_exceeded"


class InvalidResponse(EagleEyeError):
    """What answered is not what a gateway answers, as when the address is another service's."""

    default_code = "invalid_response"


RETRYABLE_CODES = frozenset({"overloaded", "triton_unavailable", "rate_limited"})
"""The gateway's codes for what passes with time."""


def refusal(
    code: str,
    detail: str,
    request_id: str | None,
    retry_after_seconds: float | None,
    *,
    is_unavailable: bool = False,
) -> EagleEyeError:
    """The error for an answer of the gateway that is one; a status that says "unavailable" says "try again"."""
    if code == TimedOut.default_code:
        return TimedOut(detail, request_id=request_id)
    return Refused(
        f"{code}: {detail}",
        code=code,
        request_id=request_id,
        is_retryable=is_unavailable or code in RETRYABLE_CODES,
        retry_after_seconds=retry_after_seconds,
    )


def without_tls(address: object) -> Unreachable:
    """The error for a server that answers a TLS handshake with something else."""
    return Unreachable(f"what answers at {address} does not speak TLS, as https:// and grpcs:// addresses need it")


def read_retry_after(text: str | None) -> float | None:
    """The seconds of `Retry-After`; None if it is absent, or a date, which the gateway never sends."""
    return float(text) if text and text.isascii() and text.isdecimal() and len(text) < 10 else None  # noqa: PLR2004 beyond is for ever


def excerpt(body: bytes, characters: int = 120) -> str:
    """The start of a body as one printable line."""
    text = " ".join(body[: 4 * characters].decode(errors="replace").split())
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return (printable[:characters] + "..." if len(printable) > characters else printable) or "an empty body"
