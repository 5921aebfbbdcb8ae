"""A gateway without Triton: the real core and the real faces over a fake predictor."""

import io

import grpc
import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer
from PIL import Image
from tritonclient.grpc import service_pb2_grpc

from gateway.admission import Admission
from gateway.detector import Detector
from gateway.image import ImageLimits
from gateway.lifecycle import Lifecycle
from gateway.metrics import Metrics
from gateway.observer import Observer
from gateway.rest.app import application
from gateway.rest.face import RestFace
from gateway.rpc import RpcFace, serving_rpc
from tests.fakes import FakePredictor

LIMITS = ImageLimits(max_bytes=100_000, max_pixels=1_000_000)
MAX_INFLIGHT = 4


@pytest.fixture
def png():
    buffer = io.BytesIO()
    Image.fromarray(np.full((48, 96, 3), 128, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def predictor():
    return FakePredictor()


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def lifecycle(predictor):
    return Lifecycle(lambda: bool(predictor.models))


@pytest.fixture
async def detector(predictor, metrics):
    async with Detector(predictor, LIMITS, Admission(MAX_INFLIGHT), metrics, threads=2) as detector:
        yield detector


@pytest.fixture
async def rest(detector, lifecycle, predictor, metrics):
    """An HTTP client of a real server on a free port."""
    face = RestFace(
        detector=detector,
        lifecycle=lifecycle,
        models=lambda: predictor.models,
        metrics=metrics,
        observer=Observer(metrics, "rest"),
        limits=LIMITS,
        upload_timeout_seconds=1,
        timeout_seconds=5,
    )
    server = TestServer(application(face), handler_cancellation=True)
    async with TestClient(server) as client:
        yield client


@pytest.fixture
def rpc_face(detector, lifecycle, predictor, metrics):
    return RpcFace(
        detector=detector,
        lifecycle=lifecycle,
        models=lambda: predictor.models,
        find=predictor.find,
        metrics=metrics,
        observer=Observer(metrics, "grpc"),
        limits=LIMITS,
        timeout_seconds=5,
    )


@pytest.fixture
async def channel(rpc_face):
    """A gRPC channel to a real server on a free port."""
    async with (
        serving_rpc(rpc_face, host="127.0.0.1", port=0, grace_seconds=5) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield channel


@pytest.fixture
def rpc(channel):
    """The inference service's stub."""
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)
