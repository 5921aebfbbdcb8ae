"""The DNS server of the chaos tests, asked by dnspython's own client."""

import asyncio

import dns.asyncquery
import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from loadtest.chaos.nameserver import NameServer

NAME = "tritons.test"


async def ask(server, name=NAME, rdtype="A"):
    response = await dns.asyncquery.udp(dns.message.make_query(name, rdtype), "127.0.0.1", port=server.port, timeout=5)
    return response.rcode(), sorted(record.to_text() for rrset in response.answer for record in rrset)


async def test_a_name_has_the_addresses_that_it_was_given():
    """IPv4 to those who ask for A, IPv6 to those who ask for AAAA."""
    async with NameServer({NAME: ["127.0.0.1", "::1", "127.0.0.2"]}) as server:
        assert await ask(server) == (dns.rcode.NOERROR, ["127.0.0.1", "127.0.0.2"])
        assert await ask(server, rdtype="AAAA") == (dns.rcode.NOERROR, ["::1"])
        assert server.questions == 2


async def test_addresses_change_at_run_time():
    """The next question has the new ones."""
    async with NameServer({NAME: ["127.0.0.1"]}) as server:
        server.set(NAME, ["127.0.0.2", "127.0.0.3"])
        assert await ask(server) == (dns.rcode.NOERROR, ["127.0.0.2", "127.0.0.3"])


async def test_a_name_without_addresses_exists():
    """A headless Service without ready pods has no records, which differs from a name that is unknown."""
    async with NameServer({NAME: []}) as server:
        assert await ask(server) == (dns.rcode.NOERROR, [])
        assert await ask(server, "other.test") == (dns.rcode.NXDOMAIN, [])


async def test_a_name_is_found_whatever_its_case():
    """As DNS has it."""
    async with NameServer({NAME: ["127.0.0.1"]}) as server:
        assert await ask(server, NAME.upper()) == (dns.rcode.NOERROR, ["127.0.0.1"])


@pytest.mark.parametrize(
    "datagram",
    [b"", b"\x00" * 5, dns.message.make_response(dns.message.make_query(NAME, "A")).to_wire()],
    ids=["empty", "zeros", "response"],
)
async def test_what_is_no_question_gets_no_answer(datagram):
    """Neither noise nor a response, and the server goes on."""
    async with NameServer({NAME: ["127.0.0.1"]}) as server:
        assert server.answer(datagram) is None
        assert await ask(server) == (dns.rcode.NOERROR, ["127.0.0.1"])


async def test_many_ask_at_a_time():
    """Each gets the answer to its own question."""
    names = {f"n{n}.test": [f"127.0.1.{n}"] for n in range(50)}
    async with NameServer(names) as server:
        answers = await asyncio.gather(*(ask(server, name) for name in names))
    assert [found for _, found in answers] == list(names.values())
