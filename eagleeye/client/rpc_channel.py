"""How both gRPC transports connect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import grpc

if TYPE_CHECKING:
    from eagleeye.client.address import Address, Tls

OPTIONS: Final = (
    ("grpc.enable_http_proxy", 0),  # REST takes none from the environment either
    ("grpc.use_local_subchannel_pool", 1),  # a client's connections are its own, and close with it
    # gRPC waits up to two minutes before it connects again; here the retry policy decides how often that is tried.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),  # also the time that one attempt to connect gets
    ("grpc.max_reconnect_backoff_ms", 1000),
)


def credentials(address: Address, tls: Tls) -> Any | None:
    """What encrypts the channel; None where it is plain.

    Raises:
        OSError: a file can't be read.
        ValueError: a file is no PEM file, or files were given that `address` has no use for.
    """
    if tls.context(address) is None:  # it reads and checks the files
        return None
    return grpc.ssl_channel_credentials(*tls.pem())
