"""Building plans, as far as it goes without NVIDIA's library: what is asked of it, and what is said when it refuses."""

import ctypes
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.errors import OptionError, PlanError
from export.tensorrt import BatchProfile, Machine, PlanSettings, build_plan, tensorrt_version, this_machine
from tests.export.fake_tensorrt import FakeCuda, FakeTensorRT


def tiny_graph(input_type=TensorProto.UINT8, batch="batch", scores="scores"):
    """A graph with the served model's interface: 64 x 64 pixels, 50 candidates."""
    constants = {"k": np.array([200]), "few": np.array([50]), "shape": np.array([-1, 50, 4])}
    return helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
                helper.make_node("Flatten", ["pixels"], ["flat"]),
                helper.make_node("TopK", ["flat", "k"], ["many", "places"]),
                helper.make_node("Reshape", ["many", "shape"], ["boxes"]),
                helper.make_node("TopK", ["flat", "few"], [scores, "best"]),
                helper.make_node("Cast", ["best"], ["class_ids"], to=TensorProto.INT32),
            ],
            "tiny",
            [helper.make_tensor_value_info("images", input_type, [batch, 64, 64, 3])],
            [
                helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [batch, 50, 4]),
                helper.make_tensor_value_info(scores, TensorProto.FLOAT, [batch, 50]),
                helper.make_tensor_value_info("class_ids", TensorProto.INT32, [batch, 50]),
            ],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    ).SerializeToString()


@pytest.fixture
def trt(monkeypatch):
    """The fake package, installed."""
    fake = FakeTensorRT()
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    return fake


@pytest.fixture
def no_tensorrt(monkeypatch):
    """A machine without the package, which the test machine may have."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)


def libraries(monkeypatch, **found):
    """Only these shared libraries can be loaded."""

    def load(name):
        if name.split(".so")[0] not in found:
            raise OSError(f"{name}: cannot open shared object file")
        return found[name.split(".so")[0]]

    monkeypatch.setattr(ctypes, "CDLL", load)


def test_tiny_graph_is_valid():
    """What the tests build from is a graph."""
    onnx.checker.check_model(onnx.load_model_from_string(tiny_graph()), full_check=True)


def test_everything_asked_of_tensorrt(trt):
    """A strongly typed network, the limits, the timing cache and one profile; plan and grown cache come back."""
    warnings = []
    settings = PlanSettings(workspace_mebibytes=512, optimization_level=4)

    plan, cache = build_plan(tiny_graph(), BatchProfile(1, 8, 16), settings, b"known", warnings.append)

    assert plan == b"plan of " + tiny_graph()[:16]
    assert cache == b"known+"
    assert warnings == ["TensorRT: a warning"]
    assert trt.calls == [
        ("create_network", 1 << 1),
        ("set_memory_pool_limit", "WORKSPACE", 512 * 2**20),
        ("set_timing_cache", b"known", False),
        ("set_shape", "images", (1, 64, 64, 3), (8, 64, 64, 3), (16, 64, 64, 3)),
        ("add_optimization_profile",),
        ("build_serialized_network", 4),
    ]


@pytest.mark.parametrize("cache", [b"another GPU's", b"damaged"])
def test_unusable_timing_cache(trt, cache):
    """A timing cache of another machine, or a damaged one, is left out."""
    trt.refused_caches = {cache}

    _, grown = build_plan(tiny_graph(), BatchProfile(1, 1, 1), PlanSettings(), cache)

    assert grown == b"+"


def test_published_model_is_understood(trt, exported):
    """The shipped model's graph has the interface that is required of a network."""
    build_plan(exported.model.model_file.read_bytes(), BatchProfile(1, 16, 16), PlanSettings())

    assert ("set_shape", "images", *((batch, 416, 416, 3) for batch in (1, 16, 16))) in trt.calls


@pytest.mark.parametrize(
    "graph, words",
    [
        (tiny_graph(input_type=TensorProto.FLOAT), "the graph's tensors as [('images', 'FLOAT'),"),
        (tiny_graph(scores="confidences"), "('confidences', 'FLOAT')"),
        (tiny_graph(batch=1), "the input's shape as (1, 64, 64, 3); only the batch may be open"),
    ],
)
def test_other_interfaces(trt, graph, words):
    """A network with other tensors than the contract's is not built."""
    with pytest.raises(PlanError) as failure:
        build_plan(graph, BatchProfile(1, 1, 1), PlanSettings())

    assert words in str(failure.value)
    assert trt.builds == 0


def test_parser_errors(trt):
    """What the parser says is passed on, all of it."""
    trt.parser_errors = ["node 3: no such operator", "node 9: bad type"]

    with pytest.raises(PlanError, match="cannot read the graph: node 3: no such operator; node 9: bad type"):
        build_plan(tiny_graph(), BatchProfile(1, 1, 1), PlanSettings())


def test_build_errors(trt):
    """A build that ends without a plan tells the errors that were logged."""
    trt.build_error = "out of memory"

    with pytest.raises(PlanError, match="could not build the plan: out of memory"):
        build_plan(tiny_graph(), BatchProfile(1, 1, 1), PlanSettings())


@pytest.mark.usefixtures("no_tensorrt")
def test_no_package():
    """Without the package the message says where to build, and how to install."""
    with pytest.raises(PlanError, match=r"package tensorrt is not installed here.*eagleeye\[export,tensorrt\]"):
        build_plan(tiny_graph(), BatchProfile(1, 1, 1), PlanSettings())


@pytest.mark.usefixtures("trt")
def test_this_machine(monkeypatch):
    """Version to the patch, and the GPU by CUDA's own words."""
    libraries(monkeypatch, libcuda=FakeCuda(("NVIDIA L4", 8, 9), ("NVIDIA L4", 8, 9)))

    assert this_machine() == Machine("10.15.1", "NVIDIA L4", "8.9")


@pytest.mark.usefixtures("no_tensorrt")
@pytest.mark.parametrize("number, version", [(101501, "10.15.1"), (110400, "11.4.0")])
def test_version_of_the_library(monkeypatch, number, version):
    """Triton's container has the library without the Python package; its version counts the same."""
    libraries(monkeypatch, libnvinfer=type("Library", (), {"getInferLibVersion": staticmethod(lambda: number)}))

    assert tensorrt_version() == version


@pytest.mark.usefixtures("no_tensorrt")
def test_no_tensorrt(monkeypatch):
    """Neither package nor library."""
    libraries(monkeypatch)

    with pytest.raises(PlanError, match="TensorRT is not installed here; build in NVIDIA's container"):
        tensorrt_version()


def test_old_tensorrt(trt):
    """A release without strongly typed UINT8 networks."""
    trt.__version__ = "8.6.1"

    with pytest.raises(PlanError, match=r"TensorRT 8\.6\.1 is too old: plans need 10 or newer"):
        tensorrt_version()


@pytest.mark.usefixtures("trt")
@pytest.mark.parametrize(
    "found, words",
    [
        ({}, "no NVIDIA driver is here"),
        ({"libcuda": FakeCuda()}, "CUDA shows no GPU to this process"),
        ({"libcuda": FakeCuda(("L4", 8, 9), error=100)}, "CUDA shows no GPU to this process"),
        ({"libcuda": FakeCuda(("L4", 8, 9), ("T4", 7, 5))}, r"the GPUs here differ \(L4, T4\).*CUDA_VISIBLE_DEVICES"),
    ],
)
def test_no_usable_gpu(monkeypatch, found, words):
    """No driver, no GPU, or several kinds: each has its own words."""
    libraries(monkeypatch, **found)

    with pytest.raises(PlanError, match=words):
        this_machine()


def test_profile():
    """From 1 to the model's largest batch, tuned for the largest unless told otherwise."""
    assert PlanSettings().profile(16) == BatchProfile(1, 16, 16)
    assert str(PlanSettings(best_batch=4).profile(16)) == "1/4/16"


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: PlanSettings(best_batch=17).profile(16), "tuned for batches of 17: the model takes 16 at most"),
        (lambda: BatchProfile(1, 0, 4), "must grow from 1 on, and are 1/0/4"),
        (lambda: PlanSettings(workspace_mebibytes=0), "workspace must be at least 1 MiB, not 0"),
        (lambda: PlanSettings(optimization_level=6), "from 0 to 5, not 6"),
    ],
)
def test_impossible_settings(make, words):
    """Refused before anything is built."""
    with pytest.raises(OptionError, match=words):
        make()
