"""INT8 as TensorRT wants it, and partial as the official study found necessary."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from export.calibration import read_calibration
from export.damoyolo import DamoYolo, ServedDetector
from export.errors import OptionError
from export.int8 import QUANTIZED, Int8Graph, layer_name, layers, resolve
from export.onnx import export_onnx
from export.tensorrt_support import require_tensorrt_support
from export.variants import VARIANTS
from export.verify import references, verify

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def small(small_graph, calibration_folder):
    """The small graph, quantized."""
    return Int8Graph(small_graph, read_calibration(calibration_folder, 64))


@pytest.fixture(scope="module")
def full(small):
    """All of it in INT8."""
    return onnx.load_model_from_string(small.with_float(()))


def numbers(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def int8_layers(model):
    """Layers that take what a DequantizeLinear gives."""
    producers = {name: node.op_type for node in model.graph.node for name in node.output}
    quantized = [node for node in model.graph.node if node.op_type in QUANTIZED]
    return [layer_name(node) for node in quantized if producers.get(node.input[0]) == "DequantizeLinear"]


@pytest.mark.parametrize("variant, quantized, all_layers", [("T", 30, 80), ("S", 77, 86), ("M", 50, 114)])
def test_published_layers(variant, quantized, all_layers):
    """The list of the official study leaves as many layers in INT8 as its own text counts."""
    detector = DamoYolo(VARIANTS[variant], 80, (64, 64)).deploy()
    known = layers(onnx.load_model_from_string(export_onnx(ServedDetector(detector, 100))))

    assert (len(known) - len(resolve(VARIANTS[variant].float_layers, known)), len(known)) == (quantized, all_layers)


def test_recorded_weights_of_t(parity, calibration_folder):
    """T with the recorded weights: backbone and head in INT8, the neck not; TensorRT can take it."""
    detector = DamoYolo(VARIANTS["T"], 80, (128, 128))
    detector.load_state_dict(parity.state_dict("T"))
    expected = references(detector)
    served = export_onnx(ServedDetector(detector.deploy(), 1000))
    graph = Int8Graph(served, read_calibration(calibration_folder, 128))
    partial = graph.with_float(resolve(VARIANTS["T"].float_layers, graph.layers))

    assert {name.partition(".")[0] for name in int8_layers(onnx.load_model_from_string(partial))} == {
        "backbone",
        "head",
    }
    require_tensorrt_support(partial)
    verify(partial, expected, VARIANTS["T"].tolerance, "int8")
    assert len(partial) < 0.8 * len(served)


def test_symmetric_per_channel_and_small(full, small_graph):
    """Zero points are 0, weights INT8 with a scale for each channel, activations with one, biases FP32."""
    values, by_output = numbers(full), {name: node for node in full.graph.node for name in node.output}
    convolutions = [node for node in full.graph.node if node.op_type == "Conv"]

    assert len(convolutions) == 91
    for node in convolutions:
        activation, weight = by_output[node.input[0]], by_output[node.input[1]]
        assert (activation.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        stored, scales = values[weight.input[0]], values[weight.input[1]]
        assert (stored.dtype, scales.shape) == (np.int8, (stored.shape[0],))
        assert values[activation.input[1]].shape == ()
        assert not values[activation.input[2]].any()
        assert not values[weight.input[2]].any()
        assert values[node.input[2]].dtype == np.float32
    assert len(full.SerializeToString()) < 0.45 * len(small_graph)


def test_interface_is_kept(full, small_graph):
    """Inputs and outputs are those of the FP32 graph, and only the standard's operators of its version are used."""
    wide = onnx.load_model_from_string(small_graph)

    assert list(full.graph.input) == list(wide.graph.input)
    assert list(full.graph.output) == list(wide.graph.output)
    assert {(entry.domain, entry.version) for entry in full.opset_import} == {("", 17)}
    assert not full.metadata_props


def test_float_layers_keep_their_weights(small, small_graph):
    """A layer in floating point has the very weights of the FP32 graph, and nothing quantized is left around it."""
    kept = resolve(["neck.merge_5", "head"], small.layers)
    partial = onnx.load_model_from_string(small.with_float(kept))
    wide, original = numbers(partial), numbers(onnx.load_model_from_string(small_graph))

    assert set(int8_layers(partial)) == set(small.layers) - set(kept)
    for node in partial.graph.node:
        if node.op_type == "Conv" and layer_name(node) in kept:
            np.testing.assert_array_equal(wide[node.input[1]], original[node.input[1]])
    used = {name for node in partial.graph.node for name in node.input}
    assert {tensor.name for tensor in partial.graph.initializer} <= used


def test_all_in_floating_point_is_the_original(small, small_graph):
    """With every layer in floating point, nodes and numbers are those of the FP32 graph."""
    nothing = onnx.load_model_from_string(small.with_float(small.layers))
    wide = onnx.load_model_from_string(small_graph)

    assert sorted(node.name for node in nothing.graph.node) == sorted(node.name for node in wide.graph.node)
    assert TensorProto.INT8 not in {tensor.data_type for tensor in nothing.graph.initializer}


@pytest.mark.parametrize("wanted", ["neck.merge_5.conv", "necks", "neck.merge_5.conv1.conv.Conv"])
def test_unknown_layer_is_named(small, wanted):
    """What names no layer and no part is refused; the beginning of a name is not a part."""
    with pytest.raises(OptionError, match=f"no layer '{wanted}' to keep in floating point"):
        resolve([wanted], small.layers)


def test_other_process_same_bytes(small, small_graph, calibration_folder, tmp_path):
    """Another process, with another order of its sets, makes the same file: nothing in it is left to chance."""
    (tmp_path / "served.onnx").write_bytes(small_graph)
    code = (
        "import hashlib, sys; from pathlib import Path\n"
        "from export.calibration import read_calibration; from export.int8 import Int8Graph\n"
        "graph = Int8Graph(Path(sys.argv[1]).read_bytes(), read_calibration(Path(sys.argv[2]), 64))\n"
        "print(hashlib.sha256(graph.with_float({'head.gfl_cls.0', 'head.gfl_reg.1'})).hexdigest())"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "served.onnx", calibration_folder],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )

    here = small.with_float({"head.gfl_reg.1", "head.gfl_cls.0"})
    assert done.stdout.split() == [hashlib.sha256(here).hexdigest()]
    assert done.stderr == ""
