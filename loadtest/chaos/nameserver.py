"""A small DNS server whose records change at run time: what a headless Service's name is in Kubernetes."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, Self

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

_HOST: Final = "127.0.0.1"
_TTL_SECONDS: Final = 5  # as CoreDNS has it for Services; who looks up every second must not wait for it


class NameServer:
    """Answers A and AAAA questions over UDP on a free port of this machine, while entered.

    Args:
        addresses: of each name, see `set`.

    Attributes:
        port: the UDP port.
        questions: how many have been answered.
    """

    def __init__(self, addresses: Mapping[str, Iterable[str]]) -> None:
        self.port = 0
        self.questions = 0
        self._addresses: dict[dns.name.Name, tuple[str, ...]] = {}
        for name, found in addresses.items():
            self.set(name, found)

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{_HOST}:{self.port}"

    def set(self, name: str, addresses: Iterable[str]) -> None:
        """Let a name stand for these IPv4 and IPv6 addresses from now on; one without any exists all the same."""
        self._addresses[dns.name.from_text(name)] = tuple(addresses)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: _Protocol(self), local_addr=(_HOST, 0))
        self.port = self._transport.get_extra_info("sockname")[1]
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._transport.close()

    def answer(self, wire: bytes) -> bytes | None:
        """The response to one datagram; None for what is no query."""
        try:
            query = dns.message.from_wire(wire)
        except dns.exception.DNSException:
            return None
        if query.flags & dns.flags.QR or not query.question:
            return None
        self.questions += 1
        question = query.question[0]
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA
        if question.name not in self._addresses:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif found := self._of_type(question.name, question.rdtype):
            response.answer.append(dns.rrset.from_text(question.name, _TTL_SECONDS, "IN", question.rdtype, *found))
        return response.to_wire()

    def _of_type(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> list[str]:
        version = {dns.rdatatype.A: 4, dns.rdatatype.AAAA: 6}.get(rdtype)
        return [address for address in self._addresses[name] if ip_address(address).version == version]


class _Protocol(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        response = self._server.answer(data)
        if response is not None:
            self._transport.sendto(response, addr)
