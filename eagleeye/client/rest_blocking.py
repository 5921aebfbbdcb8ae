"""HTTP for `Client`: moves bytes, over connections that are kept."""

from __future__ import annotations

import http.client
import ipaddress
import queue
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from eagleeye.client.errors import NO_TLS, InvalidResponse, Unreachable, without_tls
from eagleeye.client.rest import MAX_RESPONSE_BYTES, HttpRequest, HttpResponse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eagleeye.client.address import Address
    from eagleeye.client.scope import Scope

_CHUNK_BYTES: Final = 65536
_LENGTH: Final = frozenset({"content-length", "transfer-encoding"})
"""The headers that say where a body ends; a gateway sends one of them with every answer."""


class _EndsAt:
    """Gives each operation of a socket what is left of one common time: a peer that drips bytes gains nothing."""

    ends_at = float("inf")  # in seconds of time.monotonic

    def _limit(self: Any) -> None:
        self.settimeout(max(self.ends_at - time.monotonic(), 1e-3))

    def recv_into(self, *arguments: Any) -> int:
        self._limit()
        return super().recv_into(*arguments)  # type: ignore[misc, no-any-return]

    def send(self, *arguments: Any) -> int:
        self._limit()
        return super().send(*arguments)  # type: ignore[misc, no-any-return]

    def sendall(self, *arguments: Any) -> None:
        self._limit()
        super().sendall(*arguments)  # type: ignore[misc]


class _Socket(_EndsAt, socket.socket):
    """A plain one."""


class _TlsSocket(_EndsAt, ssl.SSLSocket):
    """An encrypted one."""


class _Connection(HTTPConnection):
    """One connection whose every step ends by `ends_at`, and which another thread may abort."""

    ends_at = 0.0
    _socket: socket.socket | None = None

    def _new_conn(self) -> socket.socket:
        """Where urllib3 makes its socket."""
        addresses = _resolve(self.host, self.port, self.ends_at)
        for untried, (family, _, _, _, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
            self._socket = connection = _Socket(family, socket.SOCK_STREAM)
            connection.ends_at = self.ends_at
            try:
                connection.settimeout(_left(self.ends_at) / untried)
                connection.connect(address)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.settimeout(_left(self.ends_at))
            except OSError:
                connection.close()
                if untried == 1:
                    raise
            else:
                return connection
        raise OSError(f"there is no address for {self.host}")

    def exchange(self, request: HttpRequest, ends_at: float) -> HttpResponse:
        """Send a request and read the whole response."""
        self.ends_at = ends_at
        self.timeout = _left(ends_at)
        if self.sock is None:
            self.connect()
        connection: Any = self.sock
        connection.ends_at = ends_at
        try:
            self.request(
                request.method,
                request.target,
                body=request.body or None,
                headers=request.headers,
                preload_content=False,
                decode_content=False,
            )
        except (BrokenPipeError, ConnectionResetError):
            return self._last_words()
        return self._response()

    def abort(self) -> None:
        """End what another thread is waiting for."""
        with suppress(OSError):
            if (connection := self.sock or self._socket) is not None:
                socket.socket.shutdown(connection, socket.SHUT_RDWR)  # an SSLSocket's own would pull its rug away

    def _last_words(self) -> HttpResponse:
        """Who refuses an upload early may answer and close before it is all sent."""
        broken = ConnectionResetError("it was closed during the upload")
        try:
            return self._response()
        except (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError):
            raise broken from None

    def _response(self) -> HttpResponse:
        response = self.getresponse()
        body = bytearray()
        while chunk := response.read(_CHUNK_BYTES):
            body += chunk
            if len(body) > MAX_RESPONSE_BYTES:
                raise InvalidResponse(f"the answer is longer than {MAX_RESPONSE_BYTES} bytes")
        headers = {name.lower(): value for name, value in response.headers.items()}
        if not _LENGTH & headers.keys():  # http.client takes a head that was cut off for a whole one
            raise ConnectionResetError("it was closed in mid-answer")
        return HttpResponse(response.status, headers, bytes(body))


class _TlsConnection(_Connection, HTTPSConnection):
    """The same, encrypted."""


class RestTransport:
    """Sends requests from any number of threads; each has a connection for itself while it is under way.

    Args:
        address: the gateway's.
        context: what encrypts; None for plain connections.
    """

    def __init__(self, address: Address, context: ssl.SSLContext | None) -> None:
        self._address = address
        self._context = context
        if context is not None:
            context.sslsocket_class = _TlsSocket
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        self._is_closed = False

    def send(self, request: HttpRequest, seconds: float, scope: Scope) -> HttpResponse:
        """The whole response to a request.

        Raises:
            TimeoutError: it is not there within `seconds`.
            Unreachable: there is no connection, or it broke.
            InvalidResponse: what answers does not speak HTTP.
        """
        connection = self._take()
        is_whole = False
        try:
            with scope.aborting(connection.abort), self._explained():
                response = connection.exchange(request, time.monotonic() + seconds)
            is_whole = True
            return response
        finally:
            self._give_back(connection, is_whole=is_whole)

    def close(self) -> None:
        """Close the connections; those under way are closed at their end."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self) -> _Connection:
        while True:
            with self._lock:
                if not self._idle:
                    return self._connection()
                connection = self._idle.pop()
            if connection.is_connected:  # nobody closed it in the meantime
                return connection
            connection.close()

    def _connection(self) -> _Connection:
        address = self._address
        if self._context is None:
            return _Connection(address.host, address.port)
        return _TlsConnection(address.host, address.port, ssl_context=self._context)

    def _give_back(self, connection: _Connection, *, is_whole: bool) -> None:
        with self._lock:
            if is_whole and not self._is_closed and connection.sock is not None:
                self._idle.append(connection)
                return
        connection.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what the network raises into what a caller understands."""
        try:
            yield
        except (TimeoutError, urllib3.exceptions.TimeoutError) as error:
            raise TimeoutError from error
        except ssl.SSLCertVerificationError as error:
            raise Unreachable(
                f"{self._address} has a certificate that is not trusted: {error.verify_message}"
            ) from error
        except ssl.SSLError as error:
            raise (without_tls(self._address) if error.reason == NO_TLS else self._unreachable(error)) from error
        except (http.client.RemoteDisconnected, http.client.IncompleteRead, OSError) as error:
            raise self._unreachable(error) from error
        except UnicodeError as error:  # a host whose name is none
            raise Unreachable(f"{self._address} cannot be reached: {error}") from error
        except http.client.HTTPException as error:
            raise InvalidResponse(f"what answers at {self._address} does not speak HTTP") from error
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> Unreachable:
        reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        return Unreachable(f"{self._address} cannot be reached: {reason}", is_retryable=True)


def _left(ends_at: float) -> float:
    left = ends_at - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _resolve(host: str, port: int, ends_at: float) -> list[Any]:
    """The addresses of a host. The system's resolver knows no deadline, so a name is looked up in a thread."""
    with suppress(ValueError):
        ipaddress.ip_address(host.partition("%")[0])
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    found: queue.SimpleQueue[list[Any] | Exception] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found.put(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except (OSError, UnicodeError) as error:
            found.put(error)

    threading.Thread(target=look_up, name=f"resolve {host}", daemon=True).start()
    try:
        answer = found.get(timeout=_left(ends_at))
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return answer
