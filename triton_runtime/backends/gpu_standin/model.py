"""Serves `backend: "gpu_standin"` models: a GPU's timing without a GPU, inside Triton's Python backend.

An execution lasts `base_ms` + `per_image_ms` x images, as the model's config says in its parameters, and leaves the
processor alone meanwhile. Queueing and batching are Triton's own. `triton_runtime.stub.candidates` has the answers.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import triton_python_backend_utils as pb_utils

from triton_runtime.stub.candidates import BROKEN_FILE, candidates
from triton_runtime.stub.tensors import to_numpy, to_triton


class TritonPythonModel:
    """The one instance of one model; Triton calls it with several requests at a time when it batches."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read latency and version. An error here is shown by Triton as the reason that the model is not ready."""
        parameters = json.loads(args["model_config"])["parameters"]
        self._version = int(args["model_version"])
        if Path(args["model_repository"], args["model_version"], BROKEN_FILE).exists():
            raise pb_utils.TritonModelException(f"version {self._version} holds a file {BROKEN_FILE!r}, and breaks")
        self._base_seconds = float(parameters["base_ms"]["string_value"]) / 1e3
        self._per_image_seconds = float(parameters["per_image_ms"]["string_value"]) / 1e3

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """Answer the requests of a batch together, at the time at which a GPU would have them ready."""
        started = time.monotonic()
        batches = [to_numpy(request, "images") for request in requests]
        ready_at = started + self._base_seconds + self._per_image_seconds * sum(map(len, batches))
        responses = [
            pb_utils.InferenceResponse(
                [to_triton(name, array) for name, array in candidates(images, self._version)._asdict().items()]
            )
            for images in batches
        ]
        time.sleep(max(0.0, ready_at - time.monotonic()))
        return responses
