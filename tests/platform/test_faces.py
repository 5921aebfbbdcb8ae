"""Both faces over one Triton: the same bytes give the same detections, and work that nobody waits for is not done."""

import asyncio
import time

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.platform.conftest import MODEL

OUTPUTS = ("num_detections", "boxes", "scores", "class_ids", "labels", "image_wh")
PATIENT = 20
BATCH = 16
"""Requests in front of Triton, and images of each, which is a full batch: each takes an instance some 0.2 s."""
IN_FRONT = 8
"""How many of them must be waiting when the impatient caller comes: more than Triton works off until it leaves."""
INSTANCES = 2


def addresses(platform):
    """host:port of both faces."""
    platform.wait_until_ready()
    return f"127.0.0.1:{platform.ports['http']}", f"127.0.0.1:{platform.ports['grpc']}"


def raw(result):
    """Every output, bit for bit; labels as text."""
    arrays = [result.as_numpy(name) for name in OUTPUTS]
    return [
        [getattr(each, "decode", lambda each=each: each)() for each in array]
        if array.dtype == object
        else (array.dtype.str, array.shape, array.tobytes())
        for array in arrays
    ]


async def by_rest(client, image):
    tensor = triton_http.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([image], object), binary_data=True)
    outputs = [triton_http.InferRequestedOutput(name, binary_data=True) for name in OUTPUTS]
    return raw(await client.infer(MODEL, [tensor], outputs=outputs))


async def by_grpc(client, image):
    tensor = triton_grpc.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([image], object))
    outputs = [triton_grpc.InferRequestedOutput(name) for name in OUTPUTS]
    return raw(await client.infer(MODEL, [tensor], outputs=outputs))


async def test_sixty_images_give_the_same_on_both_faces(platform, shared_dir):
    """Bit for bit, sizes included, for real photographs."""
    http_address, grpc_address = addresses(platform)
    paths = sorted((shared_dir / "data" / "deeppcb" / "images").iterdir())
    assert len(paths) == 60
    found = 0
    async with (
        triton_http_aio.InferenceServerClient(http_address) as http,
        triton_grpc_aio.InferenceServerClient(grpc_address) as rpc,
    ):
        for path in paths:
            image = path.read_bytes()
            one, other = await by_rest(http, image), await by_grpc(rpc, image)
            assert one == other, path.name
            found += len(one[OUTPUTS.index("labels")])
    assert found > 60


def canceled(platform):
    """Requests that Triton gave up because their caller had left."""
    return platform.triton_metric("nv_inference_request_failure", 'reason="CANCELED"')


async def tensor_request(triton):
    """A batch as Triton takes it."""
    (images,) = (await triton.ModelMetadata(service_pb2.ModelMetadataRequest(name=MODEL))).inputs
    shape = (BATCH, *images.shape[1:])
    return service_pb2.ModelInferRequest(
        model_name=MODEL,
        inputs=[{"name": "images", "datatype": "UINT8", "shape": shape}],
        raw_input_contents=[np.zeros(shape, np.uint8).tobytes()],
    )


async def until(condition):
    async with asyncio.timeout(90):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("how", ["it cancels", "its deadline passes"])
async def test_what_nobody_waits_for_is_not_executed(platform, board, how):
    """A caller leaves while its request waits in Triton's queue: Triton drops it there, and counts it as canceled."""
    _, address = addresses(platform)
    request = service_pb2.ModelInferRequest(
        model_name=MODEL,
        inputs=[{"name": "image", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [board]}}],
    )
    async with (
        grpc.aio.insecure_channel(address) as channel,
        grpc.aio.insecure_channel(f"127.0.0.1:{platform.ports['triton_grpc']}") as to_triton,
    ):
        gateway = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        triton = service_pb2_grpc.GRPCInferenceServiceStub(to_triton)
        assert (await gateway.ModelInfer(request)).outputs
        batch = await tensor_request(triton)
        begin = time.monotonic()
        assert (await triton.ModelInfer(batch)).outputs
        impatient_seconds = (time.monotonic() - begin) * IN_FRONT / INSTANCES / 2  # half of what is in front of it
        executed, given_up = platform.settled_metric("nv_inference_count"), canceled(platform)

        patient = [triton.ModelInfer(batch) for _ in range(PATIENT)]
        await until(lambda: platform.triton_metric("nv_inference_pending_request_count") >= IN_FRONT)
        impatient = gateway.ModelInfer(request, timeout=None if how == "it cancels" else impatient_seconds)
        if how == "it cancels":
            await asyncio.sleep(impatient_seconds)
            impatient.cancel()
        with pytest.raises((asyncio.CancelledError, grpc.aio.AioRpcError)):
            await impatient
        assert platform.triton_metric("nv_inference_pending_request_count") > 0
        assert all([(await call).outputs for call in patient])

        await until(lambda: canceled(platform) == given_up + 1)
        expected = executed + PATIENT * BATCH
        assert platform.settled_metric("nv_inference_count", at_least=expected) == expected
