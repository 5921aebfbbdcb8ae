"""A gateway without Triton: the real core and the real faces over a fake predictor."""

import io

import grpc
import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer
from PIL import Image
from tritonclient.grpc import service_pb2_grpc

from gateway.admission import Admission
from gateway.core import Core
from gateway.detector import Detector
from gateway.hold import Hold
from gateway.image import ImageLimits
from gateway.lifecycle import Lifecycle
from gateway.memory import ByteBudget
from gateway.metrics import Metrics
from gateway.observer import Observer
from gateway.rest.app import application
from gateway.rest.face import RestFace
from gateway.rpc import RpcFace
from gateway.rpc_server import serving_rpc
from gateway.sequences import Sequences
from gateway.shadow import Shadowing
from gateway.versions import Versions
from tests.fakes import FakePredictor
from tests.gateway.keyring import Clock, Keyring

LIMITS = ImageLimits(max_bytes=100_000, max_pixels=1_000_000)
MAX_BODY_BYTES = 300_000
MAX_INFLIGHT = 4
MAX_HELD_BYTES = 4_000_000


def admission(metrics, slots=MAX_INFLIGHT):
    """One that lets `slots` images in, and a single one wait; no rate is ever measured."""
    return Admission(lambda _: slots, slots, metrics, max_unmeasured=1)


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
def hold(predictor, metrics):
    """As by default: nothing is held."""
    return Hold(predictor, 0, metrics)


@pytest.fixture
def versions(metrics):
    """As without a rollout file; a test may set its `rollout`."""
    return Versions(metrics)


@pytest.fixture
def admitting(metrics):
    return admission(metrics)


@pytest.fixture
async def shadowing(predictor, versions, admitting, metrics):
    """Comparing begins at once."""
    async with Shadowing(predictor, versions, admitting, metrics, head_start_seconds=0) as shadowing:
        yield shadowing


@pytest.fixture
async def detector(predictor, admitting, shadowing, metrics):
    async with Detector(predictor, LIMITS, admitting, metrics, threads=2, shadowing=shadowing) as detector:
        yield detector


@pytest.fixture
def core(detector, versions, shadowing, hold, lifecycle, predictor, metrics):
    return Core(
        detector=detector,
        predictor=predictor,
        versions=versions,
        shadowing=shadowing,
        hold=hold,
        lifecycle=lifecycle,
        metrics=metrics,
        limits=LIMITS,
        memory=ByteBudget(MAX_HELD_BYTES, metrics),
        timeout_seconds=30,
    )


@pytest.fixture
def rest_face(core, metrics):
    return RestFace(
        core=core,
        observer=Observer(metrics, "rest"),
        max_body_bytes=MAX_BODY_BYTES,
        upload_timeout_seconds=1,
    )


@pytest.fixture
async def rest(rest_face):
    """An HTTP client of a real server on a free port."""
    server = TestServer(application(rest_face), handler_cancellation=True)
    async with TestClient(server) as client:
        yield client


@pytest.fixture
def rpc_face(core, metrics):
    return RpcFace(core=core, observer=Observer(metrics, "grpc"))


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


@pytest.fixture
def frames_read(monkeypatch):
    """The frames that streams have read so far, those among them that newer ones replaced."""
    frames, add = [], Sequences.add

    def noting(sequences, frame):
        frames.append(id(frame))  # not the frame: nothing is to hold it
        return add(sequences, frame)

    monkeypatch.setattr(Sequences, "add", noting)
    return frames


@pytest.fixture
def keyring(tmp_path):
    """A file of keys, and what the gateway can't know: the keys themselves."""
    return Keyring(tmp_path / "keys.json")


@pytest.fixture
def clock():
    """Time that passes only when a test says so."""
    return Clock()
