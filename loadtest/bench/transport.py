"""One tensor to Triton and back, by every way there is: what it takes, and what it costs the client's processor.

The stand-in sleeps for each request; its time is taken off, so that what is left is transport and Triton's own work.
The asynchronous ways are what a server with an event loop has; `gateway` is how ours goes.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import statistics
import time
from contextlib import ExitStack, asynccontextmanager, contextmanager
from multiprocessing.shared_memory import SharedMemory
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import click
import grpc
import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.model import Model
from gateway.resize import ResizeMode
from gateway.triton.attachment import Attachment
from gateway.triton.messages import Question, infer_request
from gateway.triton.shared_memory import SharedMemory as SharedTensors
from gateway.triton.short_calls import ShortCalls
from loadtest.bench.images import encoded
from loadtest.bench.limit import standin_stages
from loadtest.bench.stages import GATEWAY
from triton_runtime.server import HOST
from triton_runtime.standin import MODEL
from triton_runtime.standin.candidates import CANDIDATES, DIGITS, LABELS, candidates

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from numpy.typing import NDArray

    from gateway.image import UInt8Array
    from loadtest.bench.stages import Row
    from triton_runtime.server import Ports
    from triton_runtime.standin import Standin

    Way = Callable[[int], list[int]]
    """So many calls, one after the other; the first class ids of the last answer."""
    Client = Callable[[Ports], AbstractAsyncContextManager[Callable[..., Any]]]
    """What makes calls on an event loop: a request, and its `timeout` in seconds."""

_OUTPUTS: Final = ("boxes", "scores", "class_ids")
_METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"
_REGION: Final = "bench"
_MEBIBYTES: Final = 16
_TIMEOUT_SECONDS: Final = 30.0
_CALLS: Final = 20
"""Of one way before it is the next one's turn."""


def measure(ports: Ports, standin: Standin, *, quick: bool) -> list[Row]:
    """All ways to a Triton that serves the stand-in.

    Raises:
        click.ClickException: an answer was wrong.
    """
    tensor, _ = standin_stages(standin, MODEL, is_scaled=False).preprocess(encoded("1080p"))
    asleep_ms = standin.base_ms + standin.per_image_ms
    wanted = candidates(tensor[np.newaxis]).class_ids[0, :DIGITS].tolist()
    taken: dict[str, list[tuple[float, float]]] = {}
    with ExitStack() as stack:
        ways = {name: stack.enter_context(way(ports, tensor)) for name, way in WAYS.items()}
        for turn in range(2 if quick else 6):
            for name, call in ways.items():
                cpu, started = time.process_time(), time.perf_counter()
                found = call(_CALLS)
                spent = (time.perf_counter() - started, time.process_time() - cpu)
                if found != wanted:
                    raise click.ClickException(f"the answer by {name} was {found}, not {wanted}")
                if turn:  # the first one makes connections
                    taken.setdefault(name, []).append((spent[0] * 1e3 / _CALLS, spent[1] * 1e3 / _CALLS))
    medians = {name: [statistics.median(column) for column in zip(*each, strict=True)] for name, each in taken.items()}
    return [
        {
            "stage": "transport",
            "case": f"{tensor.nbytes / 1e6:.1f} MB tensor",
            "bytes": tensor.nbytes,
            "ms": {name: round(wall - asleep_ms, 4) for name, (wall, _) in medians.items()},
            "cpu_ms": {name: round(cpu, 4) for name, (_, cpu) in medians.items()},
        }
    ]


def _message(tensor: UInt8Array, *, in_memory: bool = False) -> service_pb2.ModelInferRequest:
    """A question to the stand-in, as tritonclient's protobuf message; the tensor inside, or in the region."""
    request = service_pb2.ModelInferRequest(model_name=MODEL, model_version="1")
    shown = request.inputs.add(name="images", datatype="UINT8", shape=(1, *tensor.shape))
    for name in _OUTPUTS:
        request.outputs.add(name=name)
    if in_memory:
        shown.parameters["shared_memory_region"].string_param = _REGION
        shown.parameters["shared_memory_byte_size"].int64_param = tensor.nbytes
    else:
        request.raw_input_contents.append(tensor.tobytes())
    return request


def _digits(response: service_pb2.ModelInferResponse) -> list[int]:
    """Read all outputs as arrays, as a client does; the class ids of the best candidates."""
    dtypes = {"FP32": np.float32, "INT32": np.int32}
    arrays = {
        output.name: np.frombuffer(raw, dtypes[output.datatype]).reshape(tuple(output.shape))
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }
    return _first(arrays["class_ids"])


def _first(class_ids: NDArray[Any]) -> list[int]:
    found: list[int] = class_ids[0, :DIGITS].tolist()
    return found


@contextmanager
def _channel(ports: Ports) -> Iterator[grpc.Channel]:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"{HOST}:{ports.grpc}", options=options) as channel:
        yield channel


@contextmanager
def grpc_stubs(ports: Ports, tensor: UInt8Array) -> Iterator[Way]:
    """Tritonclient's protobuf stubs, a thread that waits."""
    with _channel(ports) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        yield lambda calls: [_digits(infer(_message(tensor))) for _ in range(calls)][-1]


@contextmanager
def grpc_shared_memory(ports: Ports, tensor: UInt8Array) -> Iterator[Way]:
    """The same, with the tensor in memory that Triton shares."""
    with _channel(ports) as channel, _region(channel, tensor) as shared:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer

        def call(calls: int) -> list[int]:
            found: list[int] = []
            for _ in range(calls):
                np.copyto(shared, tensor)
                found = _digits(infer(_message(tensor, in_memory=True)))
            return found

        yield call


@contextmanager
def grpc_client(ports: Ports, tensor: UInt8Array) -> Iterator[Way]:
    """`tritonclient.grpc`."""
    with triton_grpc.InferenceServerClient(f"{HOST}:{ports.grpc}") as client:
        yield lambda calls: _by_client(client, triton_grpc, tensor, calls)


@contextmanager
def http_client(ports: Ports, tensor: UInt8Array) -> Iterator[Way]:
    """`tritonclient.http`."""
    with triton_http.InferenceServerClient(f"{HOST}:{ports.http}") as client:
        yield lambda calls: _by_client(client, triton_http, tensor, calls)


def _by_client(client: Any, library: Any, tensor: UInt8Array, calls: int) -> list[int]:
    found: list[int] = []
    for _ in range(calls):
        images = library.InferInput("images", (1, *tensor.shape), "UINT8")
        images.set_data_from_numpy(tensor[np.newaxis])
        answer = client.infer(MODEL, [images], outputs=[library.InferRequestedOutput(name) for name in _OUTPUTS])
        arrays = {name: answer.as_numpy(name) for name in _OUTPUTS}
        found = _first(arrays["class_ids"])
    return found


@contextmanager
def http_standard_library(ports: Ports, tensor: UInt8Array) -> Iterator[Way]:
    """The protocol's binary extension over Python's own HTTP."""
    connection = http.client.HTTPConnection(HOST, ports.http)

    def call(calls: int) -> list[int]:
        found: list[int] = []
        for _ in range(calls):
            head, length = _binary_head(tensor)
            connection.request("POST", f"/v2/models/{MODEL}/infer", head + tensor.tobytes(), length)
            response = connection.getresponse()
            found = _read_binary(response.read(), response.headers["Inference-Header-Content-Length"])
        return found

    try:
        yield call
    finally:
        connection.close()


@contextmanager
def http_aio(ports: Ports, tensor: UInt8Array) -> Iterator[Way]:
    """The same over aiohttp, on an event loop."""
    with asyncio.Runner() as runner:

        async def open_session() -> aiohttp.ClientSession:
            return aiohttp.ClientSession(f"http://{HOST}:{ports.http}")

        async def call(calls: int) -> list[int]:
            found: list[int] = []
            for _ in range(calls):
                head, length = _binary_head(tensor)
                body = head + tensor.tobytes()
                async with session.post(f"/v2/models/{MODEL}/infer", data=body, headers=length) as response:
                    found = _read_binary(await response.read(), response.headers["Inference-Header-Content-Length"])
            return found

        session = runner.run(open_session())
        yield lambda calls: runner.run(call(calls))
        runner.run(session.close())


@contextmanager
def grpc_aio(ports: Ports, tensor: UInt8Array) -> Iterator[Way]:
    """Tritonclient's protobuf stubs on an event loop."""
    with asyncio.Runner() as runner:

        async def call(calls: int) -> list[int]:
            found: list[int] = []
            for _ in range(calls):
                found = _digits(await infer(_message(tensor)))
            return found

        channel = runner.run(_aio_channel(ports))
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        yield lambda calls: runner.run(call(calls))
        runner.run(channel.close())


@contextmanager
def gateway(ports: Ports, tensor: UInt8Array) -> Iterator[Way]:
    """The gateway's own message on an event loop."""
    model = _standin_model(tensor)
    with asyncio.Runner() as runner:

        async def call(calls: int) -> list[int]:
            found: list[int] = []
            for _ in range(calls):
                found = _digits(await infer(infer_request(model, 1, tensor)))
            return found

        channel = runner.run(_aio_channel(ports))
        infer = channel.unary_unary(_METHOD, None, service_pb2.ModelInferResponse.FromString)
        yield lambda calls: runner.run(call(calls))
        runner.run(channel.close())


@contextmanager
def gateway_shared_memory(ports: Ports, tensor: UInt8Array) -> Iterator[Way]:
    """The gateway's own way with `--triton-shared-memory`, on an event loop."""
    with _by_memory(ports, tensor, _short_calls) as way:
        yield way


@contextmanager
def grpc_aio_shared_memory(ports: Ports, tensor: UInt8Array) -> Iterator[Way]:
    """The same by `grpc.aio`."""
    with _by_memory(ports, tensor, _aio_calls) as way:
        yield way


@contextmanager
def _by_memory(ports: Ports, tensor: UInt8Array, client: Client) -> Iterator[Way]:
    model = _standin_model(tensor)
    with asyncio.Runner() as runner, SharedTensors(_MEBIBYTES) as memory:

        async def call(calls: int) -> list[int]:
            found: list[int] = []
            for _ in range(calls):
                with memory.lend(tensor) as slot:
                    if slot is None or attachment.region is None:
                        raise click.ClickException("Triton does not share the memory; its log says why")
                    message = Question(model, 1, tensor).message_about(slot, attachment.region)
                    found = _digits(await infer(message, timeout=_TIMEOUT_SECONDS))
            return found

        channel = runner.run(_aio_channel(ports))
        triton = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        attachment = Attachment(memory, f"{HOST}:{ports.grpc}")
        runner.run(attachment.renew(triton))
        entered = client(ports)
        infer = runner.run(entered.__aenter__())
        yield lambda calls: runner.run(call(calls))
        runner.run(entered.__aexit__(None, None, None))
        runner.run(attachment.close(triton))
        runner.run(channel.close())


@asynccontextmanager
async def _short_calls(ports: Ports) -> AsyncIterator[Callable[..., Any]]:
    calls = ShortCalls(f"{HOST}:{ports.grpc}", _METHOD, service_pb2.ModelInferResponse.FromString)
    yield calls
    await calls.close()


@asynccontextmanager
async def _aio_calls(ports: Ports) -> AsyncIterator[Callable[..., Any]]:
    async with await _aio_channel(ports) as channel:
        yield channel.unary_unary(_METHOD, None, service_pb2.ModelInferResponse.FromString)


def _standin_model(tensor: UInt8Array) -> Model:
    return Model(MODEL, (1,), tensor.shape[1::-1], CANDIDATES, LABELS, ResizeMode.STRETCH, 0.4, 0.7, {})


async def _aio_channel(ports: Ports) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"{HOST}:{ports.grpc}")


@contextmanager
def _region(channel: grpc.Channel, tensor: UInt8Array) -> Iterator[UInt8Array]:
    """Memory of the tensor's shape that Triton has mapped, too."""
    triton = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    memory = SharedMemory(create=True, size=tensor.nbytes)
    try:
        triton.SystemSharedMemoryRegister(
            service_pb2.SystemSharedMemoryRegisterRequest(name=_REGION, key=f"/{memory.name}", byte_size=tensor.nbytes)
        )
        shared = np.ndarray(tensor.shape, np.uint8, memory.buf)
        yield shared
        triton.SystemSharedMemoryUnregister(service_pb2.SystemSharedMemoryUnregisterRequest(name=_REGION))
        del shared
    finally:
        memory.unlink()


def _binary_head(tensor: UInt8Array) -> tuple[bytes, dict[str, str]]:
    """What stands before the tensor in a request with binary data, and the header that tells its length."""
    shown = {
        "name": "images",
        "datatype": "UINT8",
        "shape": (1, *tensor.shape),
        "parameters": {"binary_data_size": tensor.nbytes},
    }
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in _OUTPUTS]
    head = json.dumps({"inputs": [shown], "outputs": outputs}).encode()
    return head, {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}


def _read_binary(body: bytes, length: str) -> list[int]:
    dtypes = {"FP32": np.float32, "INT32": np.int32}
    at, arrays = int(length), {}
    for output in json.loads(body[:at])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        raw = np.frombuffer(body, dtypes[output["datatype"]], size // 4, at)
        arrays[output["name"]] = raw.reshape(output["shape"])
        at += size
    return _first(arrays["class_ids"])


WAYS: Final = {
    GATEWAY: gateway,
    f"{GATEWAY}, shared memory": gateway_shared_memory,
    "gRPC aio": grpc_aio,
    "gRPC aio, shared memory": grpc_aio_shared_memory,
    "HTTP aio": http_aio,
    "gRPC": grpc_stubs,
    "gRPC, shared memory": grpc_shared_memory,
    "HTTP": http_standard_library,
    "tritonclient.grpc": grpc_client,
    "tritonclient.http": http_client,
}
