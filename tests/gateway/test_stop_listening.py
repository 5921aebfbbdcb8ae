"""The moment in which the REST face stops listening: whoever has connected by then is answered."""

import asyncio
import contextlib
import socket
import ssl

import pytest
from aiohttp import web

from gateway.files import TlsFiles
from gateway.server import serving_rest
from gateway.tls import Tls
from tests.certificates import HOST, Authority
from tests.platform.conftest import free_ports

CALLERS = 50
SOON = 30.0
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def hello(_):
    return web.Response(text="hello")


@pytest.fixture
def app():
    app = web.Application()
    app.router.add_get("/", hello)
    return app


@pytest.fixture
def port():
    return free_ports(1)[0]


def connect(port):
    """A connection of the kernel's: the event loop has no say in it, and doesn't know of it yet."""
    connection = socket.create_connection((HOST, port))
    connection.settimeout(SOON)
    return connection


def read_all(connection):
    with connection:
        return b"".join(iter(lambda: connection.recv(65536), b""))


async def test_whoever_has_connected_is_answered(app, port):
    """Also if nobody has seen them when the listener is closed; afterwards nobody can connect."""
    async with serving_rest(app, "test", HOST, port, SOON):
        callers = [connect(port) for _ in range(CALLERS)]
        for caller in callers:
            caller.sendall(REQUEST)
    answers = await asyncio.gather(*(asyncio.to_thread(read_all, caller) for caller in callers))
    assert all(answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"hello") for answer in answers)
    with pytest.raises(ConnectionRefusedError):
        connect(port)


async def test_whoever_has_left_by_then_harms_nobody(app, port):
    """Nor does one who says nothing."""
    async with serving_rest(app, "test", HOST, port, SOON):
        callers = [connect(port) for _ in range(3)]
        callers[0].close()
        callers[2].sendall(REQUEST)
    assert (await asyncio.to_thread(read_all, callers[2])).endswith(b"hello")
    assert await asyncio.to_thread(read_all, callers[1]) == b""


async def test_it_works_with_tls(app, port, tmp_path):
    """One shakes hands, and one never does."""
    authority = Authority(tmp_path)
    pair = authority.issue()
    tls = Tls(TlsFiles(pair.certificate, pair.key))
    trusting = ssl.create_default_context(cafile=authority.path)

    def ask(connection):
        with contextlib.closing(trusting.wrap_socket(connection, server_hostname=HOST)) as secured:
            secured.sendall(REQUEST)
            return b"".join(iter(lambda: secured.recv(65536), b""))

    async with serving_rest(app, "test", HOST, port, SOON, tls):
        callers = [connect(port) for _ in range(2)]
        asking = asyncio.get_running_loop().run_in_executor(None, ask, callers[0])
    assert (await asking).endswith(b"hello")
    callers[1].close()
