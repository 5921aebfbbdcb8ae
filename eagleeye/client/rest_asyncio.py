"""HTTP for `AsyncClient`: moves bytes, over connections that are kept."""

from __future__ import annotations

import io
import socket
from typing import TYPE_CHECKING, Final

import aiohttp
from yarl import URL

from eagleeye.client.errors import NO_TLS, InvalidResponse, Unreachable, without_tls
from eagleeye.client.rest import MAX_RESPONSE_BYTES, HttpRequest, HttpResponse

if TYPE_CHECKING:
    import ssl

    from eagleeye.client.address import Address


_LAST_BYTES_MS: Final = 30_000


class RestTransport:
    """Sends requests from one event loop. Connections are as many as there are requests under way.

    Args:
        address: the gateway's.
        context: what encrypts; None for plain connections.
    """

    def __init__(self, address: Address, context: ssl.SSLContext | None) -> None:
        self._address = address
        self._context = context
        self._session: aiohttp.ClientSession | None = None

    async def send(self, request: HttpRequest, seconds: float) -> HttpResponse:
        """The whole response to a request.

        Raises:
            TimeoutError: it is not there within `seconds`.
            Unreachable: there is no connection, or it broke.
            InvalidResponse: what answers does not speak HTTP.
        """
        url = URL(f"{str(self._address).removesuffix(self._address.path)}{request.target}", encoded=True)
        try:
            async with self._connected().request(
                request.method,
                url,
                headers=request.headers,
                data=io.BytesIO(request.body) if request.body else None,  # sent piece by piece: others may work, too
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(seconds),
            ) as response:
                headers = {name.lower(): value for name, value in response.headers.items()}
                return HttpResponse(response.status, headers, await _read(response))
        except TimeoutError:
            raise
        except aiohttp.ClientConnectorCertificateError as error:
            reason = getattr(error.certificate_error, "verify_message", error.certificate_error)
            raise Unreachable(f"{self._address} has a certificate that is not trusted: {reason}") from error
        except (aiohttp.ClientResponseError, aiohttp.InvalidURL) as error:
            raise InvalidResponse(f"what answers at {self._address} does not speak HTTP") from error
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and self._session is not None and not self._session.closed:
                raise
            raise self._unreachable(error) from error

    async def aclose(self) -> None:
        """Close the connections; requests under way fail."""
        if self._session is not None:
            await self._session.close()

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:  # made here, as it belongs to the loop that runs now
            context = True if self._context is None else self._context
            connector = aiohttp.TCPConnector(limit=0, ssl=context, socket_factory=_socket)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self._session

    def _unreachable(self, error: Exception) -> Unreachable:
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        if getattr(cause, "reason", None) == NO_TLS:
            return without_tls(self._address)
        reason = (isinstance(cause, OSError) and cause.strerror) or str(cause) or type(cause).__name__
        return Unreachable(f"{self._address} cannot be reached: {reason}", is_retryable=True)


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket that does not wait for ever to hand its last bytes to a peer that takes none."""
    family, kind, protocol, _, _ = address
    connection = socket.socket(family, kind, protocol)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # on Linux
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _LAST_BYTES_MS)
    return connection


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_RESPONSE_BYTES:
            raise InvalidResponse(f"the answer is longer than {MAX_RESPONSE_BYTES} bytes")
    return bytes(body)
