"""The Python client of a gateway, over REST and gRPC. Needs nothing of the server.

    Client, AsyncClient -> attempts (when to try again) -> rest, rpc (requests and answers) -> a transport

The middle does no I/O: `attempts`, `rest`, `rpc` and `frames` only decide, and the four transports only move bytes.
"""

from eagleeye.client.asynchronous import AsyncClient
from eagleeye.client.blocking import Client
from eagleeye.client.errors import EagleEyeError, InvalidResponse, Refused, TimedOut, Unreachable
from eagleeye.client.results import Detections, Frame, Health, ModelInfo

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
