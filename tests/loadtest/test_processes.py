"""How a gateway of one's own is started, and where it is asked whether it is ready."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from loadtest.chaos.processes import Gateway


@asynccontextmanager
async def answering(asked, **pages):
    """A server that gives each page's answers in turns, the last one for good; yields its port."""

    async def answer(request):
        name = request.path.removeprefix("/")
        asked.append(name)
        status, text = pages[name].pop(0) if len(pages[name]) > 1 else pages[name][0]
        return web.Response(status=status, text=text)

    app = web.Application()
    app.router.add_get("/{name}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def options(gateway):
    """Those of its command, by name."""
    flags = gateway.command[gateway.command.index("gateway") + 1 :]
    return dict(flag.removeprefix("--").split("=", 1) for flag in flags)


def test_one_process_needs_no_admin_port(tmp_path):
    """It is asked where its callers ask it."""
    assert "admin-port" not in options(Gateway("one", tmp_path))


@pytest.mark.parametrize("workers", [2, "2"])
def test_several_workers_get_an_admin_port(tmp_path, workers):
    """One that is neither of the others, whether options come from a program or from a command line."""
    told = options(Gateway("several", tmp_path, workers=workers))

    assert told["workers"] == "2"
    assert len({told["http-port"], told["grpc-port"], told["admin-port"]}) == 3


async def test_readiness_is_asked_for_on_the_admin_port(tmp_path):
    """The REST face does not have it then."""
    asked = []
    async with answering(asked, readyz=[(503, ""), (200, "")]) as port:
        await Gateway("one", tmp_path, admin_port=port).until_ready(30)

    assert asked == ["readyz", "readyz"]


async def test_all_workers_must_serve(tmp_path):
    """The kernel gives all connections to those that are there when they are made."""
    asked, head = [], "# TYPE eagleeye_workers gauge\neagleeye_workers "
    pages = {"metrics": [(200, f"{head}1.0\n"), (200, f"{head}2.0\n")], "readyz": [(200, "")]}
    async with answering(asked, **pages) as port:
        await Gateway("several", tmp_path, admin_port=port, workers=2).until_ready(30)

    assert asked == ["metrics", "metrics", "readyz"]


async def test_a_gateway_that_does_not_get_ready_is_told(tmp_path):
    """By its name, and in time."""
    async with answering([], readyz=[(503, "")]) as port:
        with pytest.raises(TimeoutError, match="one has died, or is not ready within 0 s"):
            async with asyncio.timeout(30):
                await Gateway("one", tmp_path, admin_port=port).until_ready(0)
