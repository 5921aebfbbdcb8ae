"""Where the Tritons are, asked of a real DNS server, and what of it can be set."""

import click
import dns.name
import dns.rcode
import pytest

from gateway.settings import DnsServer, TritonUrl
from gateway.triton.discovery import DnsAddresses, LookFailed, discovery
from tests.gateway.triton.name_server import name_server

NAME = "triton.vision.svc.cluster.local."


@pytest.fixture
async def served():
    async with name_server() as (server, address):
        server.records = {(NAME, "A"): ["10.0.0.1", "10.0.0.2"], (NAME, "AAAA"): ["fd00::7"]}
        yield server, DnsAddresses(NAME, 8001, address)


async def test_every_address_is_a_triton(served):
    """IPv4 and IPv6."""
    _, addresses = served
    assert await addresses.look() == {"10.0.0.1:8001", "10.0.0.2:8001", "[fd00::7]:8001"}


async def test_each_look_asks_anew(served):
    """Whatever the record's lifetime says."""
    server, addresses = served
    await addresses.look()
    server.records[NAME, "A"] = ["10.0.0.3"]
    del server.records[NAME, "AAAA"]
    assert await addresses.look() == {"10.0.0.3:8001"}


async def test_a_name_that_is_gone_has_no_tritons(served):
    """A headless Service without ready pods has no records, and may be no name at all."""
    server, addresses = served
    server.records = {(NAME, "TXT"): []}
    assert await addresses.look() == frozenset()
    server.records = {}
    assert await addresses.look() == frozenset()


@pytest.mark.parametrize("failure", [dns.rcode.SERVFAIL, dns.rcode.REFUSED])
async def test_a_server_that_fails_says_nothing_of_tritons(served, failure):
    """It is no answer that there are none."""
    server, addresses = served
    server.failure = failure
    with pytest.raises(LookFailed, match=NAME):
        await addresses.look()
    server.failure = None
    assert len(await addresses.look()) == 3


async def test_a_server_that_is_away_is_not_waited_for_long(served):
    """2 s."""
    server, addresses = served
    server.is_silent = True
    with pytest.raises(LookFailed, match="timed out"):
        await addresses.look()


async def test_search_domains_are_honoured(served):
    """A short name is completed as resolv.conf has it."""
    server, _ = served
    addresses = DnsAddresses("triton", 8001, "127.0.0.1:1")
    with pytest.raises(LookFailed):
        await addresses.look()
    resolver = addresses._resolver
    resolver.port = int(served[1]._server.rpartition(":")[2])
    resolver.search = [dns.name.from_text(f"{part}svc.cluster.local") for part in ("default.", "vision.", "")]
    resolver.ndots = 5
    server.asked.clear()
    assert len(await addresses.look()) == 3
    assert [name for name, kind in server.asked if kind == "A"] == ["triton.default.svc.cluster.local.", NAME]


async def test_a_list_is_what_it_is():
    """Host names stay names."""
    assert await discovery("triton-0:8001,[::1]:8001").look() == {"triton-0:8001", "[::1]:8001"}


@pytest.mark.parametrize(
    "text, read",
    [
        ("127.0.0.1:8001", "127.0.0.1:8001"),
        (" triton-0.triton:8001 , [fd00::7]:8001", "triton-0.triton:8001,[fd00::7]:8001"),
        ("dns://triton.vision.svc.cluster.local.:8001", "dns://triton.vision.svc.cluster.local.:8001"),
        ("dns://triton:8001", "dns://triton:8001"),
    ],
)
def test_addresses_are_read(text, read):
    """Blanks beside a comma do no harm."""
    assert TritonUrl().convert(text, None, None) == read


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "an address is missing"),
        ("a:1,", "an address is missing"),
        ("a:1,b:2,a:1", "names an address twice"),
        ("triton", "'triton' is no host:port such as"),
        ("triton:", "is no host:port"),
        ("triton:0", "is no host:port"),
        ("triton:65536", "is no host:port"),
        ("triton:\u0661", "is no host:port"),
        ("fd00::7:8001", "is no host:port"),
        ("[fd00::g]:8001", "is no host:port"),
        ("tri ton:8001", "is no host:port"),
        ("http://triton:8001", "begins with http://; give host:port, or dns://name:port"),
        ("dns://a:1,b:1", "goes one name and a port"),
        ("dns://10.0.0.7:8001", "goes one name and a port"),
        ("dns://[::1]:8001", "goes one name and a port"),
        ("dns://", "an address is missing"),
    ],
)
def test_what_is_no_address_is_refused(text, says):
    """In one line that says what is allowed."""
    with pytest.raises(click.BadParameter, match=says):
        TritonUrl().convert(text, None, None)


@pytest.mark.parametrize("text", ["", "10.0.0.10:53", "[fd00::a]:53"])
def test_a_name_server_may_be_named(text):
    """Or not."""
    assert DnsServer().convert(text, None, None) == text


@pytest.mark.parametrize("text", ["10.0.0.10", "coredns:53", "10.0.0.10:0", "fd00::a:53"])
def test_a_name_server_has_an_address(text):
    """And a port: its name could not be looked up without it."""
    with pytest.raises(click.BadParameter, match="is no address:port such as"):
        DnsServer().convert(text, None, None)
