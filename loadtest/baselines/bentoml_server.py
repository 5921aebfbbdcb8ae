"""BentoML: one service forms batches for the GPU, and one before it, a worker for each processor, does all else.

    bentoml serve loadtest.baselines.bentoml_server:Detector

BentoML batches between services only, and hands arrays over by HTTP and pickle. Pixels are handled by our own stages.
Its packages are pinned in `bentoml.txt`, and live in `.venv-bentoml`.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any, Final

import bentoml
import numpy as np
from bentoml.exceptions import InvalidArgument

from gateway.detections import RawPredictions
from gateway.errors import GatewayError
from gateway.image import ImageLimits, UInt8Array, decode_for
from gateway.postprocess import Thresholds, postprocess
from gateway.resize import Resize, ResizeMode, resize
from loadtest.baselines.gpu import LABELS, MAX_BATCH, SCALED, STANDIN, detect

INPUT_WH: Final = (STANDIN.size, STANDIN.size)
DECODED_FOR: Final = INPUT_WH if os.environ.get(SCALED) == "1" else None
LIMITS: Final = ImageLimits(max_bytes=2**30, max_pixels=2**30)
THRESHOLDS: Final = Thresholds(score=0.4, iou=0.7)
QUIET: Final = {"access": {"enabled": False}}
LASTING: Final = {"max_requests": 10**9, "max_age": 1e9}
"""Of the connection between services: 1.4 renews it after 100 requests, and fails those that are under way on it."""


@bentoml.service(workers=1, logging=QUIET, runner_connection=LASTING)
class Network:
    """The model: one worker, since there is one GPU."""

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH)  # type: ignore[untyped-decorator]
    def predict(self, images: np.ndarray) -> np.ndarray:
        """Images uint8 (N, H, W, 3) -> candidates float32 (N, K, 6): x1, y1, x2, y2, score, class id."""
        boxes, scores, class_ids = detect(images)
        return np.concatenate([boxes, scores[..., np.newaxis], class_ids[..., np.newaxis]], axis=2, dtype=np.float32)


@bentoml.service(workers="cpu_count", logging=QUIET)
class Detector:
    """What callers ask."""

    network = bentoml.depends(Network)

    @bentoml.api(route="/v1/detect")  # type: ignore[untyped-decorator]
    async def detect(self, image: bytes, /) -> dict[str, Any]:
        """The objects in one image."""
        try:
            tensor, back = await asyncio.to_thread(_preprocess, image)
        except GatewayError as error:
            raise InvalidArgument(str(error)) from error
        (found,) = await self.network.to_async.predict(tensor[np.newaxis])
        return _answer(found, back)


def _preprocess(data: bytes) -> tuple[UInt8Array, Resize]:
    image = decode_for(data, LIMITS, DECODED_FOR)
    return resize(image.pixels, INPUT_WH, ResizeMode.STRETCH, image.source_wh)


def _answer(candidates: Any, back: Resize) -> dict[str, Any]:
    predictions = RawPredictions(candidates[:, :4], candidates[:, 4], candidates[:, 5].astype(np.int32))
    found = postprocess(predictions, back, THRESHOLDS)
    rows = zip(found.class_ids.tolist(), found.scores.tolist(), found.xyxy.tolist(), strict=True)
    return {
        "image": dict(zip(("width", "height"), back.source_wh, strict=True)),
        "detections": [
            {
                "label": LABELS[class_id],
                "class_id": class_id,
                "score": score,
                "box": dict(zip(("x1", "y1", "x2", "y2"), xyxy, strict=True)),
            }
            for class_id, score, xyxy in rows
        ],
    }
