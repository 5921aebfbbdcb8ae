"""A small Triton for tests: a real gRPC server that can be told to misbehave in ways a real one seldom does."""

import asyncio
import contextlib
import mmap
import sys
from collections import Counter

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.triton.shared_memory import FOLDER
from tests.gateway.test_contract import config

SOON = 30.0


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Serves `toy` and answers what it is told to."""

    def __init__(self):
        self.ready = [("toy", "1"), ("toy", "3")]
        self.configs = {"toy": config()}
        self.outputs = {
            "boxes": ("FP32", np.arange(20, dtype=np.float32).reshape(1, 5, 4)),
            "scores": ("FP32", np.linspace(1, 0, 5, dtype=np.float32)[np.newaxis]),
            "class_ids": ("INT32", np.array([[0, 1, 1, 0, 1]], np.int32)),
        }
        self.failure = None
        self.words = "secret detail"
        self.is_stopping = False
        self.seconds = 0.0
        self.infer = None
        self.requests = []
        self.version = "2.51.0"
        self.can_share = True
        self.regions = {}
        self.reads = Counter()
        self.tensors = []
        self.remaining_seconds = None
        self.go = asyncio.Event()
        self.go.set()
        self.cancelled = asyncio.Event()
        self.cancellations = 0
        self.thawed = asyncio.Event()
        self.thawed.set()

    async def RepositoryIndex(self, request, context):  # noqa: N802 (the service's names)
        await self.thawed.wait()
        if self.is_stopping:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Server not ready")
        models = [
            service_pb2.RepositoryIndexResponse.ModelIndex(name=name, version=version, state="READY")
            for name, version in self.ready
        ]
        return service_pb2.RepositoryIndexResponse(models=models)

    async def ModelConfig(self, request, context):  # noqa: N802
        return service_pb2.ModelConfigResponse(config=self.configs[request.name])

    async def ModelInfer(self, request, context):  # noqa: N802
        if self.is_stopping:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Server is stopping, scheduler for model has stopped")
        if self.infer:
            await self.infer(request, context)
        region = request.inputs[0].parameters["shared_memory_region"].string_param
        if region and region not in self.regions:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Unable to find shared memory region: '{region}'")
        self.reads[region] += 1
        self.requests.append(request)
        self.remaining_seconds = context.time_remaining()
        if self.failure:
            await context.abort(self.failure, self.words)
        try:
            await self.thawed.wait()
            await asyncio.sleep(self.seconds)
            await self.go.wait()
        except asyncio.CancelledError:  # it may be read all the same, so `reads` does not go down
            self.cancelled.set()
            self.cancellations += 1
            raise
        self.tensors.append(self._tensor(request, region))
        self.reads[region] -= 1
        return service_pb2.ModelInferResponse(
            outputs=[
                service_pb2.ModelInferResponse.InferOutputTensor(name=name, datatype=datatype, shape=array.shape)
                for name, (datatype, array) in self.outputs.items()
            ],
            raw_output_contents=[array.tobytes() for _, array in self.outputs.values()],
        )

    def _tensor(self, request, region):
        """What a request is about, as it is now."""
        if not region:
            return request.raw_input_contents[0]
        parameters = request.inputs[0].parameters
        begin = parameters["shared_memory_offset"].int64_param
        with (FOLDER / self.regions[region].removeprefix("/")).open("rb") as file:
            memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            return memory[begin : begin + parameters["shared_memory_byte_size"].int64_param]

    async def ServerMetadata(self, request, context):  # noqa: N802
        return service_pb2.ServerMetadataResponse(version=self.version)

    async def SystemSharedMemoryStatus(self, request, context):  # noqa: N802
        status = service_pb2.SystemSharedMemoryStatusResponse
        return status(regions={name: status.RegionStatus(name=name, key=key) for name, key in self.regions.items()})

    async def SystemSharedMemoryRegister(self, request, context):  # noqa: N802
        if not self.can_share:
            await context.abort(grpc.StatusCode.INTERNAL, f"Unable to open shared memory region: '{request.key}'")
        assert request.key not in self.regions.values()
        self.regions[request.name] = request.key
        return service_pb2.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(self, request, context):  # noqa: N802
        if self.reads[request.name]:
            await context.abort(
                grpc.StatusCode.INTERNAL, f"Cannot unregister '{request.name}', it is currently in use."
            )
        self.regions.pop(request.name, None)
        return service_pb2.SystemSharedMemoryUnregisterResponse()


@contextlib.asynccontextmanager
async def serving(triton, port=0, host="127.0.0.1"):
    """Serve it on a port, a free one by default; at the end, what is under way breaks."""
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
    port = server.add_insecure_port(f"{host}:{port}")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def _serve_alone(port, seconds):
    triton = FakeTriton()
    triton.seconds = seconds
    async with serving(triton, port):
        await asyncio.Event().wait()


async def until(condition):
    """Wait for what must come true by itself."""
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.01)


if __name__ == "__main__":  # as a process, for tests that kill or freeze it
    asyncio.run(_serve_alone(int(sys.argv[1]), float(sys.argv[2])))
