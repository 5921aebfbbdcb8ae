"""Traces reach a real OTLP collector over HTTP, continue the caller's, and are handed on to Triton."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tritonclient.grpc import service_pb2

from gateway import tracing
from gateway.metrics import Metrics
from gateway.triton.endpoint import Endpoint
from tests.gateway.test_endpoint import predict
from tests.gateway.test_rpc import infer_request
from tests.gateway.triton.fake_triton import FakeTriton, serving

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"


class Collector:
    """Keeps every span that is sent to it."""

    def __init__(self):
        self.spans = {}

    async def receive(self, request):
        message = ExportTraceServiceRequest.FromString(await request.read())
        for resource in message.resource_spans:
            for scope in resource.scope_spans:
                self.spans |= {span.name: span for span in scope.spans}
        return web.Response()


@pytest.fixture
async def collector():
    """A collector to which this process sends its traces."""
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.receive)
    async with TestServer(app) as server:
        tracing.configure(str(server.make_url("")))
        yield collector
        await asyncio.to_thread(tracing.shutdown)


async def flushed(collector):
    await asyncio.to_thread(tracing.shutdown)
    return collector.spans


async def test_a_request_continues_the_callers_trace_with_a_span_per_stage(collector, rest, png):
    """The request's span is the caller's child; the stages, also those in threads, are the request's children."""
    await rest.post("/v1/detect", data=png, headers={"traceparent": TRACEPARENT})
    spans = await flushed(collector)
    request = spans.pop("POST /v1/detect")
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
    assert {"decode", "preprocess", "infer", "postprocess"} <= spans.keys()
    for stage in spans.values():
        assert (stage.trace_id.hex(), stage.parent_span_id) == (TRACE_ID, request.span_id)


@pytest.mark.parametrize("header", ["garbage", f"00-{'0' * 32}-{PARENT_ID}-01", ""])
async def test_a_malformed_traceparent_starts_a_trace_of_its_own(collector, rest, header):
    """Nonsense from outside breaks nothing."""
    assert (await rest.get("/v1/models/toy", headers={"traceparent": header})).status == 200
    span = (await flushed(collector))["GET /v1/models/{name}"]
    assert span.parent_span_id == b""


async def test_a_grpc_call_continues_the_callers_trace(collector, rpc):
    """The same over metadata."""
    request = service_pb2.ModelMetadataRequest(name="toy")
    await rpc.ModelMetadata(request, metadata=(("traceparent", TRACEPARENT),))
    span = (await flushed(collector))["inference.GRPCInferenceService/ModelMetadata"]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)


async def test_each_frame_of_a_stream_has_a_trace_of_its_own(collector, rpc, png):
    """The stream continues the caller's; with its frames, that trace would be one of a whole day."""
    frames = iter([infer_request(png)])
    async for answer in rpc.ModelStreamInfer(frames, metadata=(("traceparent", TRACEPARENT),)):
        assert not answer.error_message
    spans = await flushed(collector)
    stream = spans["inference.GRPCInferenceService/ModelStreamInfer"]
    decode, infer = spans["decode"], spans["infer"]
    assert stream.trace_id.hex() == TRACE_ID
    assert (decode.trace_id, decode.parent_span_id) == (infer.trace_id, infer.parent_span_id)
    assert infer.trace_id != stream.trace_id


class TracedTriton(FakeTriton):
    """Keeps the metadata of the last inference."""

    async def ModelInfer(self, request, context):  # noqa: N802 (the service's name)
        self.metadata = dict(context.invocation_metadata())
        return await super().ModelInfer(request, context)


async def test_triton_is_told_the_trace(collector):
    """Triton can hang its own spans under the stage that called it."""
    triton = TracedTriton()
    async with serving(triton) as port, Endpoint(f"127.0.0.1:{port}", Metrics()) as endpoint:
        with tracing.request("caller", {"traceparent": TRACEPARENT}):
            await predict(endpoint)
    _, trace_id, parent_id, _ = triton.metadata["traceparent"].split("-")
    assert trace_id == TRACE_ID
    assert parent_id == (await flushed(collector))["caller"].span_id.hex()


async def test_without_a_collector_nothing_is_traced():
    """The default: Triton hears of no trace."""
    triton = TracedTriton()
    async with serving(triton) as port, Endpoint(f"127.0.0.1:{port}", Metrics()) as endpoint:
        with tracing.request("caller", {"traceparent": TRACEPARENT}):
            await predict(endpoint)
    assert "traceparent" not in triton.metadata
