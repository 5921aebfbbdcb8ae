"""What stands between callers and Tritons, as child processes: gateways, and a balancer in front of two."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import shutil
import socket
import sys
from typing import TYPE_CHECKING, Final

import aiohttp
import click

from eagleeye.options import without_settings
from triton_runtime.process import Child

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HOST: Final = "127.0.0.1"
_HTTP_OK: Final = 200
_POLL_SECONDS: Final = 0.05
_PROBE_TIMEOUT: Final = aiohttp.ClientTimeout(total=2)
_GRACE_SECONDS: Final = 15.0
_SYSTEM_FOLDERS: Final = "/usr/local/sbin:/usr/sbin:/sbin"  # not in everybody's PATH on Debian
_PORTS: Final = range(10_000, 32_768)  # Linux takes from 32768 on when it is asked for any port
_begin: Final = random.randrange(len(_PORTS))  # noqa: S311 (no secret; two runs at a time shall not ask for the same)
_candidates: Final = itertools.cycle([*_PORTS[_begin:], *_PORTS[:_begin]])

_HAPROXY: Final = """\
global
    maxconn 8192

defaults
    mode http
    timeout connect 1s
    timeout client 60s
    timeout server 60s
    retries 3
    option redispatch 1  # a connection that can't be made is tried on the other gateway
    retry-on conn-failure

frontend callers
    bind {host}:{port}
    default_backend gateways

backend gateways
    balance leastconn
    option httpchk GET /readyz
    http-check expect status 200
    default-server check inter 250ms fall 1 rise 2
{servers}
"""


def free_ports(count: int, *hosts: str) -> list[int]:
    """TCP ports in a row that nobody uses now, on this machine's own address and on all of these.

    Linux gives none of them to a connection or to a server that takes any port, so they are still free when their
    server starts, and when it starts again. Each call goes on after the ports of the one before.
    """
    while True:
        ports = list(itertools.islice(_candidates, count))
        is_row = ports == list(range(ports[0], ports[0] + count))
        if is_row and all(_is_free(host, port) for host in {HOST, *hosts} for port in ports):
            return ports


def _is_free(host: str, port: int) -> bool:
    try:
        socket.create_server((host, port)).close()
    except OSError:
        return False
    return True


class Gateway(Child):
    """An `eagleeye gateway` on free ports.

    Args:
        name: for people; its log is named after it.
        folder: where its log goes.
        program: what `python -m` runs in place of `eagleeye`: a module, and what it is told before the command.
        options: of the command, such as `triton_url`. Several `workers` get an admin port, unless one is named.
    """

    def __init__(self, name: str, folder: Path, program: Sequence[str] = ("eagleeye",), /, **options: object) -> None:
        self.port, grpc_port, admin_port = free_ports(3)
        self.url = f"http://{HOST}:{self.port}"
        self._workers = int(str(options.get("workers", 1)))
        told = {
            "http_port": self.port,
            "grpc_port": grpc_port,
            **({"admin_port": admin_port} if self._workers > 1 else {}),
            "log_format": "json",
            "grace_seconds": _GRACE_SECONDS,
            **options,
        }
        self._admin_url = f"http://{HOST}:{told['admin_port']}" if "admin_port" in told else self.url
        flags = [
            f"--{option.replace('_', '-')}" + ("" if value is True else f"={value}") for option, value in told.items()
        ]
        super().__init__(
            name=name,
            command=[sys.executable, "-m", *program, "gateway", *flags],
            environment=without_settings(os.environ),
            log=folder / f"{name.replace(' ', '-')}.log",
            stop_seconds=_GRACE_SECONDS + 10,
            report=_say,
            restarts_itself=False,
        )

    async def until_ready(self, timeout_seconds: float = 60) -> None:
        """Wait until `/readyz` says so, and all workers serve: a connection stays with whom it was given to.

        Raises:
            TimeoutError: it does not in time; the message has the end of its log.
        """
        if self._workers > 1:
            all_serve = f"\neagleeye_workers {self._workers:.1f}\n"
            await until_answered(f"{self._admin_url}/metrics", timeout_seconds, self, all_serve)
        await until_answered(f"{self._admin_url}/readyz", timeout_seconds, self)


class HAProxy(Child):
    """HAProxy in front of some gateways.

    HAProxy and not nginx, because it asks each gateway's `/readyz` by itself: a gateway that drains gets no new
    requests within a quarter of a second, while it still answers. The free nginx learns of it from requests that fail.
    """

    def __init__(self, folder: Path, gateways: Sequence[Gateway]) -> None:
        program = shutil.which("haproxy", path=f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM_FOLDERS}")
        if program is None:
            raise click.ClickException("there is no haproxy here; install it with: sudo apt-get install haproxy")
        (port,) = free_ports(1)
        self.url = f"http://{HOST}:{port}"
        servers = "\n".join(f"    server gateway-{n} {HOST}:{gateway.port}" for n, gateway in enumerate(gateways))
        config = folder / "haproxy.cfg"
        config.write_text(_HAPROXY.format(host=HOST, port=port, servers=servers))
        super().__init__(
            name="HAProxy",
            command=[program, "-db", "-f", config],  # in the foreground
            environment=dict(os.environ),
            log=folder / "haproxy.log",
            stop_seconds=5,
            report=_say,
            restarts_itself=False,
        )

    async def until_ready(self, timeout_seconds: float = 10) -> None:
        """Wait until it passes requests on to a ready gateway.

        Raises:
            TimeoutError: it does not in time; the message has the end of its log.
        """
        await until_answered(f"{self.url}/readyz", timeout_seconds, self)


async def until_answered(url: str, timeout_seconds: float, child: Child, text: str = "") -> None:
    """Wait until a GET is answered 200, with this text in the answer.

    Raises:
        TimeoutError: it is not in time, or the child died; the message has the end of its log.
    """
    deaths, loop = child.deaths, asyncio.get_running_loop()
    give_up_at = loop.time() + timeout_seconds
    async with aiohttp.ClientSession() as session:
        while not await _is_answered(session, url, text):
            if child.deaths > deaths or loop.time() > give_up_at:
                raise TimeoutError(f"{child.name} has died, or is not ready within {timeout_seconds:g} s{child.tail()}")
            await asyncio.sleep(_POLL_SECONDS)


async def _is_answered(session: aiohttp.ClientSession, url: str, text: str) -> bool:
    try:
        async with session.get(url, timeout=_PROBE_TIMEOUT) as response:
            return response.status == _HTTP_OK and text in await response.text()
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


def _say(line: str) -> None:
    click.echo(f"  {line}", err=True)
