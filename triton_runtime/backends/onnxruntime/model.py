"""Serves `backend: "onnxruntime"` models with ONNX Runtime on the CPU, inside Triton's Python backend.

Triton finds this file as `<backend-directory>/onnxruntime/model.py` and runs it in the place of its native ONNX Runtime
backend, which only NVIDIA's containers have. The same `config.pbtxt` and `model.onnx` run on both.

Of the native backend's parameters `intra_op_thread_count` is honoured. It is 1 here unless set, so that instances do
not fight over processors: more throughput comes from more instances.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

from triton_runtime.stub.tensors import to_numpy, to_triton

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TritonPythonModel:
    """One instance of one model; Triton calls it with several requests at a time when it batches."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model's ONNX file. An error here is shown by Triton as the reason that the model is not ready."""
        config = json.loads(args["model_config"])
        file_name = config.get("default_model_filename") or "model.onnx"
        path = Path(args["model_repository"], args["model_version"], file_name)
        self._input_names = [tensor["name"] for tensor in config["input"]]
        self._output_names = [tensor["name"] for tensor in config["output"]]
        self._session = onnxruntime.InferenceSession(path, _session_options(config), providers=["CPUExecutionProvider"])

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """Answer each request of a batch. An error is the answer of its own request only."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        try:
            outputs = self._run([to_numpy(request, name) for name in self._input_names])
        except Exception as error:  # noqa: BLE001 (whatever went wrong, the request must get an answer)
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        tensors = [to_triton(name, output) for name, output in zip(self._output_names, outputs, strict=True)]
        return pb_utils.InferenceResponse(tensors)

    def _run(self, inputs: list[NDArray[Any]]) -> list[NDArray[Any]]:
        """Run the network on one image after the other.

        On a processor a batch saves nothing, it only leaves the caches: DAMO-YOLO-Ns took 12.5 ms an image alone, and
        16.7 ms in a batch of 16, which also needs 1.4 GB instead of 0.2 GB. Triton still saves its cost per execution.
        """
        rows = [
            self._session.run(
                self._output_names,
                {name: array[i : i + 1] for name, array in zip(self._input_names, inputs, strict=True)},
            )
            for i in range(len(inputs[0]))
        ]
        return rows[0] if len(rows) == 1 else [np.concatenate(column) for column in zip(*rows, strict=True)]


def _session_options(config: dict[str, Any]) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    parameters = config.get("parameters", {})
    options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", {}).get("string_value", "1"))
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads would eat the processors
    return options
