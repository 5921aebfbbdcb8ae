"""A gateway without Triton: the real core and the real REST face over a fake predictor."""

import io

import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer
from PIL import Image

from gateway.admission import Admission
from gateway.detector import Detector
from gateway.image import ImageLimits
from gateway.metrics import Metrics
from gateway.observer import Observer
from gateway.rest.app import RestFace
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
async def detector(predictor, metrics):
    async with Detector(predictor, LIMITS, Admission(MAX_INFLIGHT), metrics, threads=2) as detector:
        yield detector


@pytest.fixture
async def rest(detector, predictor, metrics):
    """An HTTP client of a real server on a free port."""
    face = RestFace(
        detector=detector,
        models=lambda: predictor.models,
        metrics=metrics,
        observer=Observer(metrics, "rest"),
        limits=LIMITS,
        upload_timeout_seconds=1,
        timeout_seconds=5,
    )
    server = TestServer(face.application(), handler_cancellation=True)
    async with TestClient(server) as client:
        yield client
