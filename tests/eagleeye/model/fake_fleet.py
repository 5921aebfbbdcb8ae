"""Tritons that only load and unload, as 2.51 was seen to do it; their repository is a set of numbers in memory."""

import asyncio
import contextlib

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc


class Repository:
    """What a config names, and how often it was written."""

    def __init__(self, *versions):
        self.versions = set(versions)
        self.writes = []

    def write(self, *versions):
        def change():
            self.versions = set(versions)
            self.writes.append(sorted(versions))

        return change


class Triton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """One of them.

    Attributes:
        broken: versions that it can't load.
        absent: versions that it does not find, and passes over.
        hangs: whether it never ends to load.
        refuses: what it says to every load; empty for nothing.
        on_load: called when it is told to load.
    """

    def __init__(self, repository, *ready):
        self.repository = repository
        self.ready = set(ready)
        self.broken, self.absent, self.hangs, self.refuses, self.loads = set(), set(), False, "", 0
        self.on_load = lambda: None

    async def RepositoryIndex(self, request, context):  # noqa: N802
        entries = [("ns", str(version), "READY", "") for version in sorted(self.ready)]
        entries.append(("ns", "9", "UNAVAILABLE", "unloaded"))
        entries.append(("never", "", "", ""))
        index = service_pb2.RepositoryIndexResponse.ModelIndex
        return service_pb2.RepositoryIndexResponse(
            models=[index(name=n, version=v, state=s, reason=r) for n, v, s, r in entries]
        )

    async def RepositoryModelLoad(self, request, context):  # noqa: N802
        self.loads += 1
        self.on_load()
        if self.hangs:
            await asyncio.Event().wait()
        if self.refuses:
            await context.abort(grpc.StatusCode.UNAVAILABLE, self.refuses)
        wanted = self.repository.versions - self.absent
        if bad := wanted & self.broken - self.ready:
            words = (
                f"load failed for model 'ns': version {min(bad)} is at UNAVAILABLE state:\n bad file\n\nAt:\n /secret"
            )
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, words)
        self.ready = set(wanted)
        return service_pb2.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request, context):  # noqa: N802
        self.ready = set()
        return service_pb2.RepositoryModelUnloadResponse()


@contextlib.asynccontextmanager
async def serving(*tritons):
    """Their addresses, while they serve."""
    async with contextlib.AsyncExitStack() as stack:
        addresses = []
        for triton in tritons:
            server = grpc.aio.server()
            service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
            addresses.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
            await server.start()
            stack.push_async_callback(server.stop, None)
        yield addresses
