"""A small DNS server on a free port: it answers what a test puts into its records."""

import asyncio
import contextlib

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


class NameServer(asyncio.DatagramProtocol):
    """`records` has a list of addresses for each (name, type); a name that has none of any type does not exist."""

    def __init__(self):
        self.records = {}
        self.failure = None
        self.is_silent = False
        self.asked = []

    def connection_made(self, transport):
        self._transport = transport

    def datagram_received(self, data, address):
        if not self.is_silent:
            self._transport.sendto(self._answer(dns.message.from_wire(data)).to_wire(), address)

    def _answer(self, query):
        (question,) = query.question
        name, kind = str(question.name), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        if self.failure:
            response.set_rcode(self.failure)
        elif not any(known == name for known, _ in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif found := self.records.get((name, kind)):
            response.answer.append(dns.rrset.from_text(question.name, 30, "IN", kind, *found))
        return response


@contextlib.asynccontextmanager
async def name_server():
    """A server that runs, and where: `host:port`."""
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        NameServer, local_addr=("127.0.0.1", 0)
    )
    yield server, f"127.0.0.1:{transport.get_extra_info('sockname')[1]}"
    transport.close()
