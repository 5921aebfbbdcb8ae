"""A call to one endpoint that gave no predictions: why, and what the caller is told if it can't be tried elsewhere."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

import grpc

from gateway.errors import GatewayError, ModelNotFound, Overloaded, TritonUnavailable

if TYPE_CHECKING:
    from gateway.model import Model


class Reason(StrEnum):
    """Why a call failed; the label of `eagleeye_triton_retries_total`, as is `hedge`."""

    CONNECTION = "connection"
    """It could not be reached, or died meanwhile."""
    STOPPING = "stopping"
    REPLACED = "replaced"
    """It no longer has that version of the model."""
    NOT_FOUND = "not_found"
    QUEUE_FULL = "queue_full"
    STALLED = "stalled"
    """It stood still, and the call was taken back."""
    ERROR = "error"
    """It could not run the model."""
    INVALID = "invalid"
    """Its answer broke the model's contract."""
    DEADLINE = "deadline"
    """There was no time left."""


# How Triton words what its status UNAVAILABLE alone does not tell apart; any other words are gRPC's own or a backend's
_WORDS: Final = {
    "Server is stopping": Reason.STOPPING,
    "Server not ready": Reason.STOPPING,
    "Server exiting": Reason.STOPPING,
    "not at ready state": Reason.REPLACED,
    "Exceeds maximum queue size": Reason.QUEUE_FULL,
}
_STATUS: Final = {
    grpc.StatusCode.NOT_FOUND: Reason.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Reason.QUEUE_FULL,
    grpc.StatusCode.CANCELLED: Reason.CONNECTION,  # by the other side: it closes
}
_FINAL: Final = {Reason.NOT_FOUND, Reason.QUEUE_FULL, Reason.ERROR, Reason.INVALID}


class CallFailed(Exception):
    """One call to one endpoint failed.

    Attributes:
        reason: why.
        error: what the caller is told unless another endpoint does better. Triton's own words are not in it.
    """

    def __init__(self, reason: Reason, error: GatewayError) -> None:
        super().__init__(str(error))
        self.reason = reason
        self.error = error

    @property
    def is_final(self) -> bool:
        """Whether the same endpoint would say the same again, so that only others are worth a try."""
        return self.reason in _FINAL


def is_stopping(error: grpc.aio.AioRpcError) -> bool:
    """Whether Triton says that it takes no more work; what it has, it finishes."""
    return _reason(error) is Reason.STOPPING


def read_failure(error: grpc.aio.AioRpcError, model: Model) -> CallFailed:
    """What the status of a failed inference means; `DEADLINE_EXCEEDED` is for the caller, who knows the deadline."""
    reason = _reason(error)
    match reason:
        case Reason.NOT_FOUND:
            return CallFailed(reason, ModelNotFound(f"{model.name} is no longer served"))
        case Reason.QUEUE_FULL:
            return CallFailed(reason, Overloaded(f"Triton's queue for {model.name} is full", retry_after_seconds=1))
        case Reason.REPLACED:
            return CallFailed(reason, just_replaced(model))
    return CallFailed(reason, could_not_run(model))


def could_not_run(model: Model) -> TritonUnavailable:
    """The error for whatever is not the caller's business."""
    return TritonUnavailable(f"Triton could not run {model.name}; try again shortly")


def just_replaced(model: Model) -> TritonUnavailable:
    """The error for a version that went away while a request for it was under way."""
    return TritonUnavailable(f"that version of {model.name} has just been replaced; try again")


def _reason(error: grpc.aio.AioRpcError) -> Reason:
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        details = error.details() or ""
        return next((reason for words, reason in _WORDS.items() if words in details), Reason.CONNECTION)
    return _STATUS.get(error.code(), Reason.ERROR)
