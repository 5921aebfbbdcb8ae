"""A fleet of several versions, as a test says, that tells which of them was asked."""

import asyncio
import dataclasses

import numpy as np

from gateway.detections import RawPredictions
from gateway.errors import ModelNotFound, TritonUnavailable
from gateway.model import find
from tests.fakes import MODEL, FakePredictor


class RollingPredictor(FakePredictor):
    """Serves `served`; `expected` is what should come back. A candidate finds `candidate_boxes` of these classes."""

    def __init__(self, *versions):
        super().__init__()
        self.serve(*versions)
        self.asked = []
        self.candidates = []
        self.candidate_boxes, self.candidate_class_ids, self.candidate_scores = self.boxes, [0, 1], [0.9, 0.6]
        self.candidate_error = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.candidates_cancelled = 0

    def serve(self, *versions, default=None, expected=()):
        model = dataclasses.replace(MODEL, versions=versions, default_version=default)
        self.models = {MODEL.name: model} if versions else {}
        both = tuple(sorted({*versions, *expected}))
        self._expected_models = {MODEL.name: dataclasses.replace(model, versions=both)} if both else {}

    @property
    def expected_models(self):
        return self._expected_models

    def find(self, name, version):
        return find(self.expected_models, name, version)

    async def predict(self, model, version, tensor, deadline, *, is_replaceable=False):
        self.asked.append(version)
        await self.go.wait()
        served = self.models.get(model.name)
        if served is None or version not in served.versions:
            if is_replaceable and served is not None:
                raise TritonUnavailable("that version has just been replaced")
            while not (self.models and version in self.models[model.name].versions):
                await asyncio.sleep(0.001)
        return await super().predict(model, version, tensor, deadline)

    async def predict_once(self, model, version, tensor, deadline):
        if version not in self.models[model.name].versions:
            raise ModelNotFound("no Triton serves it")
        self.candidates.append((version, tensor))
        try:
            async with asyncio.timeout(deadline.remaining_seconds()):
                await self.may_answer.wait()
        except TimeoutError:
            raise deadline.exceeded() from None
        except asyncio.CancelledError:
            self.candidates_cancelled += 1
            raise
        if self.candidate_error:
            raise self.candidate_error
        return RawPredictions(
            np.array(self.candidate_boxes, np.float32),
            np.array(self.candidate_scores, np.float32),
            np.array(self.candidate_class_ids, np.int32),
        )
