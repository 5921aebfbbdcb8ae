"""What both clients are made of, chosen by the address."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from eagleeye.client.address import Address, Tls
from eagleeye.client.attempts import RetryPolicy, Run, ask
from eagleeye.client.query import count, seconds
from eagleeye.client.rest import Rest
from eagleeye.client.results import missing_extra

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from eagleeye.client.rpc import Rpc


@dataclass(frozen=True, slots=True)
class Setup:
    """A client's parts.

    Attributes:
        address: the gateway's.
        face: builds requests and reads answers.
        transport: moves them.
        policy: when to try again.
        timeout_seconds: for a request that names none.
        concurrency: requests at a time, for a batch that names none.
    """

    address: Address
    face: Rest | Rpc
    transport: Any
    policy: RetryPolicy
    timeout_seconds: float
    concurrency: int

    def timeout(self, timeout_seconds: float | None) -> float:
        """The seconds that a call is given, or else the client's.

        Raises:
            TypeError: it is no number.
            ValueError: it is not positive, or not finite.
        """
        return self.timeout_seconds if timeout_seconds is None else seconds("timeout_seconds", timeout_seconds)

    def ask(self, timeout_seconds: float, max_attempts: int | None = None) -> Run:
        """Turns exchanges into flows that share one deadline."""
        policy = self.policy if max_attempts is None else replace(self.policy, max_attempts=max_attempts)
        return partial(ask, policy=policy, deadline=policy.deadline(timeout_seconds))


def set_up(
    url: str,
    *,
    key: str | None,
    timeout_seconds: float,
    max_attempts: int,
    concurrency: int,
    ca_certificate: Path | None,
    client_certificate: Path | None,
    client_key: Path | None,
    is_async: bool,
) -> Setup:
    """A client's parts, from what its constructor is given.

    Raises:
        ModuleNotFoundError: the extra `client` is not installed.
        OSError: a file can't be read.
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, or a file is no PEM file.
    """
    address = Address.parse(url)
    if key is not None and not (isinstance(key, str) and key and key.isascii() and key.isprintable()):
        raise ValueError("the key must be a text of printable ASCII characters")
    tls = Tls(ca_certificate, client_certificate, client_key)
    make = _MAKERS[address.is_grpc, is_async]
    try:
        face, transport = make(address, key, tls)
    except ModuleNotFoundError as error:
        raise missing_extra(error, "client") from error
    policy = RetryPolicy(count("max_attempts", max_attempts))
    timeout_seconds = seconds("timeout_seconds", timeout_seconds)
    return Setup(address, face, transport, policy, timeout_seconds, count("concurrency", concurrency))


def _rest(address: Address, key: str | None, tls: Tls) -> tuple[Rest, Any]:
    from eagleeye.client.rest_blocking import RestTransport  # noqa: PLC0415 belongs to an extra, as those below

    return Rest(address, key), RestTransport(address, tls.context(address))


def _async_rest(address: Address, key: str | None, tls: Tls) -> tuple[Rest, Any]:
    from eagleeye.client.rest_asyncio import RestTransport  # noqa: PLC0415

    return Rest(address, key), RestTransport(address, tls.context(address))


def _rpc(address: Address, key: str | None, tls: Tls) -> tuple[Rpc, Any]:
    import grpc  # noqa: F401, PLC0415 the first to be missed: without it tritonclient raises something else

    from eagleeye.client.rpc import Rpc  # noqa: PLC0415
    from eagleeye.client.rpc_blocking import RpcTransport  # noqa: PLC0415
    from eagleeye.client.rpc_channel import credentials  # noqa: PLC0415

    rpc = Rpc(address, key)
    return rpc, RpcTransport(rpc, credentials(address, tls))


def _async_rpc(address: Address, key: str | None, tls: Tls) -> tuple[Rpc, Any]:
    import grpc  # noqa: F401, PLC0415 as above

    from eagleeye.client.rpc import Rpc  # noqa: PLC0415
    from eagleeye.client.rpc_asyncio import RpcTransport  # noqa: PLC0415
    from eagleeye.client.rpc_channel import credentials  # noqa: PLC0415

    rpc = Rpc(address, key)
    return rpc, RpcTransport(rpc, credentials(address, tls))


_MAKERS: Final[dict[tuple[bool, bool], Callable[[Address, str | None, Tls], tuple[Rest | Rpc, Any]]]] = {
    (False, False): _rest,
    (False, True): _async_rest,
    (True, False): _rpc,
    (True, True): _async_rpc,
}
"""By whether the address is gRPC's, and whether the client is asynchronous."""
