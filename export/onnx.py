"""The network as an ONNX graph with the served model's contract, checked.

Exporter: torch's TorchScript one. Tried beside it, with torch 2.13: the exporter over `torch.export`. Its graph has the
same operators and runs at the same speed, but it needs two more packages (onnxscript, onnx-ir), takes 8 s for Ns where
this one takes 1 s, and attaches metadata to every node. torch calls this one deprecated: the day it goes, `dynamo=True`
is the successor, and nothing after the call depends on which it was.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

import onnx
import torch
from onnx import TensorProto

from export.contract import INPUT, OPSET, OUTPUTS
from export.errors import GraphError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from export.damoyolo import ServedDetector

BATCH: Final = "batch"
"""Name of the one open axis."""

INNER: Final = ("all_boxes", "all_scores")
"""Tensors that keep a name inside the served graph, so that `export.verify` can look at every anchor."""


def export_onnx(model: ServedDetector) -> bytes:
    """The served graph as a serialised ONNX model; equal models give equal bytes.

    Raises:
        GraphError: the graph is not valid, or its inputs and outputs are not the contract's.
    """
    images = torch.zeros((1, *model.detector.input_hw, 3), dtype=torch.uint8)
    graph = trace(model, {INPUT: images}, [*OUTPUTS, *INNER])
    # The tracer leaves symbols for some sizes that are known; declared here, they are proved by the check below.
    del graph.graph.output[:]
    graph.graph.output.extend(_declared_outputs(model))
    check_graph(graph)
    return bytes(graph.SerializeToString(deterministic=True))


def with_inner_outputs(serialised: bytes) -> bytes:
    """The same graph with the `INNER` tensors as further outputs."""
    graph = onnx.load_model_from_string(serialised)
    for name in INNER:
        graph.graph.output.append(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return bytes(graph.SerializeToString())


def trace(module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> onnx.ModelProto:
    """The module as an ONNX graph. The first axis of every input and output is the batch, and open."""
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the choice of exporter, explained above
        path = Path(directory) / "model.onnx"
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes={name: {0: BATCH} for name in (*inputs, *outputs)},
        )
        return onnx.load_model(path)


def _declared_outputs(model: ServedDetector) -> list[onnx.ValueInfoProto]:
    candidates = model.best_candidates.top_k
    boxes, scores, class_ids = OUTPUTS
    return [
        onnx.helper.make_tensor_value_info(boxes, TensorProto.FLOAT, [BATCH, candidates, 4]),
        onnx.helper.make_tensor_value_info(scores, TensorProto.FLOAT, [BATCH, candidates]),
        onnx.helper.make_tensor_value_info(class_ids, TensorProto.INT32, [BATCH, candidates]),
    ]


def check_graph(graph: onnx.ModelProto) -> None:
    """Require a valid graph whose tensors have the declared types and sizes, and in which only the batch is open.

    Raises:
        GraphError: it is not.
    """
    try:
        onnx.checker.check_model(graph, full_check=True)
        onnx.shape_inference.infer_shapes(graph, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(f"the exported graph is not valid ONNX: {error}") from error
    leftover = {node.op_type for node in graph.graph.node} & {"BatchNormalization", "If", "Loop", "Shape"}
    if leftover:  # each would mean that something was traced which should be a constant, or was not folded
        raise GraphError(f"the exported graph holds operators that it should not: {', '.join(sorted(leftover))}")
