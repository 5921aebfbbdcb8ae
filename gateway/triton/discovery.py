"""Where the Tritons are: a fixed list, or all addresses that a name has in DNS at the moment."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import Final, Protocol

import dns.asyncresolver
import dns.exception
import dns.resolver

DNS_SCHEME: Final = "dns://"
_QUERY_TIMEOUT_SECONDS: Final = 1.0  # then the next server is asked, or the same once more
_LOOK_TIMEOUT_SECONDS: Final = 2.0
_FAMILIES: Final = ("A", "AAAA")


class LookFailed(Exception):
    """It can't be told now where the Tritons are; the message says why. What was known goes on being true."""


class Discovery(Protocol):
    """Tells the addresses, `host:port` each, of the Tritons that there are."""

    async def look(self) -> frozenset[str]:
        """The addresses now.

        Raises:
            LookFailed: that can't be told at the moment.
        """


class FixedAddresses:
    """A list that never changes. A host name in it is one Triton, wherever it resolves to at the moment."""

    def __init__(self, addresses: frozenset[str]) -> None:
        self._addresses = addresses

    async def look(self) -> frozenset[str]:
        """See `Discovery.look`."""
        return self._addresses


class DnsAddresses:
    """Every address of a name, A and AAAA, at one port; asked anew with each look, so no record's lifetime matters.

    The servers, search domains and `ndots` are those of /etc/resolv.conf; /etc/hosts has no say.
    """

    def __init__(self, name: str, port: int, server: str | None = None) -> None:
        """Take `server` (`address:port`) for the name servers of /etc/resolv.conf, if it is given."""
        self._name = name
        self._port = port
        self._server = server
        self._resolver: dns.asyncresolver.Resolver | None = None

    async def look(self) -> frozenset[str]:
        """See `Discovery.look`. A name without addresses, or none at all, is an answer: there are no Tritons."""
        found = await asyncio.gather(*(self._ask(family) for family in _FAMILIES))
        return frozenset(join(address, self._port) for addresses in found for address in addresses)

    async def _ask(self, family: str) -> list[str]:
        try:
            if self._resolver is None:
                self._resolver = _resolver(self._server)
            answer = await self._resolver.resolve(self._name, family, search=True, raise_on_no_answer=False)
        except dns.resolver.NXDOMAIN:
            return []
        except (dns.exception.DNSException, OSError) as error:
            raise LookFailed(f"{family} of {self._name}: {' '.join(str(error).split())}") from error
        return [record.address for record in answer.rrset or ()]


def discovery(triton_url: str, dns_server: str = "") -> Discovery:
    """Read the setting `triton_url`, which was checked: `host:port,host:port` or `dns://name:port`."""
    if triton_url.startswith(DNS_SCHEME):
        name, _, port = triton_url.removeprefix(DNS_SCHEME).rpartition(":")
        return DnsAddresses(name, int(port), dns_server or None)
    return FixedAddresses(frozenset(triton_url.split(",")))


def join(address: str, port: int) -> str:
    """An IP address and a port as gRPC writes them."""
    return f"[{address}]:{port}" if ip_address(address).version == 6 else f"{address}:{port}"  # noqa: PLR2004


def _resolver(server: str | None) -> dns.asyncresolver.Resolver:
    resolver = dns.asyncresolver.Resolver()
    resolver.timeout, resolver.lifetime = _QUERY_TIMEOUT_SECONDS, _LOOK_TIMEOUT_SECONDS
    if server:
        host, _, port = server.rpartition(":")
        resolver.nameservers = [host.strip("[]")]
        resolver.port = int(port)
    return resolver
