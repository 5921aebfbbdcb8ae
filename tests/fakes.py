"""Small stand-ins for what a unit test must control. Whatever can be real is real in `tests/platform`."""

import asyncio

import numpy as np

from gateway.detections import RawPredictions
from gateway.errors import ModelNotFound
from gateway.model import Model
from gateway.resize import ResizeMode

MODEL = Model(
    name="toy",
    versions=(1, 3),
    input_wh=(64, 32),
    candidates=2,
    labels=("cat", "dog"),
    resize=ResizeMode.STRETCH,
    score_threshold=0.5,
    iou_threshold=0.7,
    facts={"variant": "none"},
)


class FakePredictor:
    """Sees a cat in the left half and a less certain dog in the right half of everything."""

    def __init__(self):
        self.models = {MODEL.name: MODEL}
        self.tensors = []
        self.error = None
        self.boxes = [[0, 0, 32, 32], [32, 0, 64, 32]]
        self.scores = [0.9, 0.6]
        self.class_ids = [0, 1]
        self.go = asyncio.Event()
        self.go.set()
        self.cancelled = 0

    @property
    def expected_models(self):
        return self.models

    def find(self, name, version):
        if name not in (None, *self.models):
            raise ModelNotFound(f"there is no model {name!r}")
        if version not in (None, *MODEL.versions):
            raise ModelNotFound(f"{name} has no version {version}")
        return MODEL, version or MODEL.latest

    async def until_served(self):
        while not self.models:
            await asyncio.sleep(0.001)

    async def predict(self, model, version, tensor, deadline, *, is_replaceable=False):
        self.tensors.append(tensor)
        if self.error:
            raise self.error
        try:
            async with asyncio.timeout(deadline.remaining_seconds()):
                await self.go.wait()
        except TimeoutError:
            raise deadline.exceeded() from None
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        boxes = np.array(self.boxes, np.float32)
        return RawPredictions(boxes, np.array(self.scores, np.float32), np.array(self.class_ids, np.int32))
