"""Stands in for NVIDIA's package `tensorrt`: the part of its API that is used, recorded, without building anything.

Names, arguments and results as the Python API documentation of TensorRT 10 and 11 has them. It reads the ONNX file for
the network's inputs and outputs, so that the checks on those meet the truth.
"""

import enum
import importlib.machinery
import types

import onnx

TYPES = {1: "FLOAT", 2: "UINT8", 6: "INT32", 10: "HALF"}


class Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class ILogger:
    Severity = Severity

    def __init__(self):
        self.is_initialised = True


class FakeTensorRT(types.ModuleType):
    """The module. `calls` lists what was asked of it; the other attributes make it fail."""

    def __init__(self, version="10.15.1.29"):
        super().__init__("tensorrt")
        self.__version__ = version
        self.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)  # others look whether it is installed
        self.calls = []
        self.parser_errors = []
        self.build_error = ""
        self.refused_caches = set()
        self.on_build = lambda: None
        self.ILogger = ILogger
        self.uint8, self.float32, self.int32 = "UINT8", "FLOAT", "INT32"
        self.NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1})
        self.MemoryPoolType = enum.Enum("MemoryPoolType", ["WORKSPACE"])
        self.Builder = lambda log: Builder(self, log)
        self.OnnxParser = lambda network, log: OnnxParser(self, network, log)

    @property
    def builds(self):
        return sum(call[0] == "build_serialized_network" for call in self.calls)


class Builder:
    def __init__(self, trt, log):
        assert log.is_initialised
        self._trt, self._log = trt, log

    def create_network(self, flags):
        self._trt.calls.append(("create_network", flags))
        return Network()

    def create_builder_config(self):
        return Config(self._trt)

    def create_optimization_profile(self):
        return types.SimpleNamespace(set_shape=lambda *shapes: self._trt.calls.append(("set_shape", *shapes)))

    def build_serialized_network(self, network, config):
        self._trt.calls.append(("build_serialized_network", config.builder_optimization_level))
        self._trt.on_build()
        self._log.log(Severity.WARNING, "a warning")
        if self._trt.build_error:
            self._log.log(Severity.ERROR, self._trt.build_error)
            return None
        return memoryview(b"plan of " + network.graph_bytes[:16])


class Network:
    num_inputs = num_outputs = 0

    def read(self, graph_bytes):
        graph = onnx.load_model_from_string(graph_bytes).graph
        self.graph_bytes = graph_bytes
        self._inputs, self._outputs = list(map(tensor, graph.input)), list(map(tensor, graph.output))
        self.num_inputs, self.num_outputs = len(self._inputs), len(self._outputs)

    def get_input(self, index):
        return self._inputs[index]

    def get_output(self, index):
        return self._outputs[index]


def tensor(value):
    kind = value.type.tensor_type
    shape = tuple(-1 if dim.dim_param else dim.dim_value for dim in kind.shape.dim)
    return types.SimpleNamespace(name=value.name, dtype=TYPES[kind.elem_type], shape=shape)


class OnnxParser:
    def __init__(self, trt, network, log):
        self._trt, self._network = trt, network
        self.num_errors = len(trt.parser_errors)

    def parse(self, graph_bytes):
        self._network.read(graph_bytes)
        return not self._trt.parser_errors

    def get_error(self, index):
        return types.SimpleNamespace(desc=lambda: self._trt.parser_errors[index])


class Config:
    def __init__(self, trt):
        self._trt = trt
        self.builder_optimization_level = None
        self._cache = None

    def set_memory_pool_limit(self, pool, count):
        self._trt.calls.append(("set_memory_pool_limit", pool.name, count))

    def create_timing_cache(self, content):
        return None if content == b"damaged" else content

    def set_timing_cache(self, cache, ignore_mismatch):
        self._trt.calls.append(("set_timing_cache", cache, ignore_mismatch))
        self._cache = cache
        return cache not in self._trt.refused_caches

    def get_timing_cache(self):
        return types.SimpleNamespace(serialize=lambda: memoryview(self._cache + b"+"))

    def add_optimization_profile(self, profile):
        self._trt.calls.append(("add_optimization_profile",))
        return 0


class FakeCuda:
    """Stands in for the driver library: `gpus` are (name, major, minor)."""

    def __init__(self, *gpus, error=0):
        self._gpus, self._error = gpus, error
        self.cuInit, self.cuDeviceGetCount, self.cuDeviceGet = self._init, self._count, self._device
        self.cuDeviceGetName, self.cuDeviceGetAttribute = self._name, self._attribute

    def _init(self, flags):
        return self._error

    def _count(self, count):
        count._obj.value = len(self._gpus)
        return 0

    def _device(self, device, index):
        device._obj.value = index
        return 0

    def _name(self, name, length, device):
        name.value = self._gpus[device.value][0].encode()
        return 0

    def _attribute(self, value, attribute, device):
        value._obj.value = self._gpus[device.value][{75: 1, 76: 2}[attribute]]
        return 0
