"""Triton's model `preprocess`, a Python model: encoded images -> the detector's input, by the gateway's own stages."""

from __future__ import annotations

import json
from typing import Final

import numpy as np
import triton_python_backend_utils as pb_utils

from gateway.errors import GatewayError
from gateway.image import ImageLimits, decode_for
from gateway.resize import ResizeMode, resize

LIMITS: Final = ImageLimits(max_bytes=2**30, max_pixels=2**30)


class TritonPythonModel:
    """One instance; there is one for each processor."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the size of the detector's input, and how images become that."""
        config = json.loads(args["model_config"])
        height, width, _ = config["output"][0]["dims"]
        self._size_wh = (int(width), int(height))
        self._decoded_for = self._size_wh if config["parameters"]["scaled"]["string_value"] == "1" else None
        self._mode = ResizeMode(config["parameters"]["resize"]["string_value"])

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """Answer each request of a batch."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        """Tensors of the images (N, 1) of a request, and what leads from each back to its source."""
        try:
            images = [
                decode_for(data, LIMITS, self._decoded_for)
                for data in pb_utils.get_input_tensor_by_name(request, "image").as_numpy()[:, 0]
            ]
        except GatewayError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        resized = [resize(image.pixels, self._size_wh, self._mode, image.source_wh) for image in images]
        outputs = {
            "images": np.stack([tensor for tensor, _ in resized]),
            "source_wh": np.array([back.source_wh for _, back in resized], np.int32),
            "scale_wh": np.array([back.scale_wh for _, back in resized], np.float64),
        }
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in outputs.items()])
