"""Both clients behind one way to call them, so that each rule is tested for both."""

import asyncio
import contextlib
import itertools
import threading

import pytest

from eagleeye import AsyncClient, Client


class Asker:
    """Calls a client of either kind from a test's event loop; the blocking one works in a thread."""

    def __init__(self, client):
        self.client = client
        self._is_async = isinstance(client, AsyncClient)

    def __getattr__(self, name):
        method = getattr(self.client, name)
        if self._is_async:
            return method
        return lambda *arguments, **options: asyncio.to_thread(method, *arguments, **options)

    async def all(self, name, *arguments, first=None, **options):
        """What an iterator of the client gives, or its first items before it is left."""
        iterator = getattr(self.client, name)(*arguments, **options)
        if not self._is_async:
            return await asyncio.to_thread(_take, iterator, first)
        items = []
        async with contextlib.aclosing(iterator):
            if first == 0:
                return items
            async for item in iterator:
                items.append(item)
                if len(items) == first:
                    break
        return items


def _take(iterator, first):
    with contextlib.closing(iterator):
        return list(iterator if first is None else itertools.islice(iterator, first))


@pytest.fixture(params=["blocking", "asyncio"])
def kind(request):
    """Which client a test is about."""
    return request.param


@pytest.fixture
def connect(kind):
    """Makes clients, as asynchronous context managers."""

    @contextlib.asynccontextmanager
    async def connect(url, **options):
        if kind == "asyncio":
            async with AsyncClient(url, **options) as client:
                yield Asker(client)
        else:
            client = Client(url, **options)
            try:
                yield Asker(client)
            finally:
                await asyncio.to_thread(client.close)

    return connect


async def until(condition):
    """Wait for what has no event of its own."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


def own_threads():
    """The client's threads that live."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("eagleeye")]
