"""Triton's model `postprocess`, a Python model: the detector's candidates -> JSON, by the gateway's own stage."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from gateway.detections import RawPredictions
from gateway.postprocess import Thresholds, postprocess
from gateway.resize import Resize


class TritonPythonModel:
    """One instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read labels and thresholds."""
        parameters = json.loads(args["model_config"])["parameters"]
        self._labels = json.loads(parameters["labels"]["string_value"])
        score, iou = (float(parameters[name]["string_value"]) for name in ("score_threshold", "iou_threshold"))
        self._thresholds = Thresholds(score, iou)

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """Answer each request of a batch."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        """A text (N, 1) for each image of a request."""
        names = ("boxes", "scores", "class_ids", "source_wh", "scale_wh")
        inputs = (pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in names)
        texts = [
            json.dumps(self._found(RawPredictions(*predictions), Resize(tuple(source_wh), tuple(scale_wh))))
            for *predictions, source_wh, scale_wh in zip(*inputs, strict=True)
        ]
        answers = np.array([[text.encode()] for text in texts], np.object_)
        return pb_utils.InferenceResponse([pb_utils.Tensor("answer", answers)])

    def _found(self, predictions: RawPredictions, back: Resize) -> dict[str, Any]:
        found = postprocess(predictions, back, self._thresholds)
        rows = zip(found.class_ids.tolist(), found.scores.tolist(), found.xyxy.tolist(), strict=True)
        return {
            "image": dict(zip(("width", "height"), map(int, back.source_wh), strict=True)),
            "detections": [
                {
                    "label": self._labels[class_id],
                    "class_id": class_id,
                    "score": score,
                    "box": dict(zip(("x1", "y1", "x2", "y2"), xyxy, strict=True)),
                }
                for class_id, score, xyxy in rows
            ],
        }
