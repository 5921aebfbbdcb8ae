"""ONNX graphs as TensorRT plans. The one module that imports NVIDIA's package `tensorrt`, and only when it is used.

Networks are strongly typed, the only kind that TensorRT 11 still has: a tensor has the type that the graph gives it. So
the precision is the graph's (FP32, FP16, or INT8 by Q/DQ pairs), the same that ONNX Runtime serves and that was
measured, and there is no second place where it is chosen.
"""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from export.contract import INPUT, OUTPUTS
from export.errors import OptionError, PlanError

if TYPE_CHECKING:
    from collections.abc import Callable

OLDEST: Final = 10
"""First major version with strongly typed networks that take UINT8 and INT64, and with profiles shared by instances."""

INSTALL: Final = (
    "build in NVIDIA's container of the same release as Triton's, with `pip install 'eagleeye[export,tensorrt]'` (the "
    "libraries come from NVIDIA's index, and their version must be that of Triton's TensorRT)"
)
_OPTIMIZATION_LEVELS: Final = range(6)
_CUDA_CAPABILITY_MAJOR, _CUDA_CAPABILITY_MINOR = 75, 76  # CUdevice_attribute
_CUDA_NAME_BYTES: Final = 256
_LIBRARIES: Final = ("libnvinfer.so.11", "libnvinfer.so.10", "libnvinfer.so")


@dataclass(frozen=True, slots=True)
class BatchProfile:
    """The batch sizes that a plan serves: the least, the one that it is tuned for, the most."""

    least: int
    best: int
    most: int

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.best <= self.most:
            raise OptionError(f"the batch sizes of a profile must grow from 1 on, and are {self}")

    def __str__(self) -> str:
        return f"{self.least}/{self.best}/{self.most}"


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """How a plan is built. All of it decides what the plan is, and so is part of its key."""

    best_batch: int | None = None
    """Batch size that the plan is tuned for. None: the model's largest, which is what queues build up to."""
    workspace_mebibytes: int = 4096
    """Most GPU memory that a layer may use for intermediate results."""
    optimization_level: int = 3
    """0 to 5: how long kernels are searched for, from seconds to many minutes. TensorRT's default is 3."""

    def __post_init__(self) -> None:
        if self.workspace_mebibytes < 1:
            raise OptionError(f"the workspace must be at least 1 MiB, not {self.workspace_mebibytes}")
        if self.optimization_level not in _OPTIMIZATION_LEVELS:
            raise OptionError(f"the optimization level must be from 0 to 5, not {self.optimization_level}")

    def profile(self, max_batch_size: int) -> BatchProfile:
        """The profile for a model with this largest batch.

        Raises:
            OptionError: the batch size to tune for is larger.
        """
        best = self.best_batch or max_batch_size
        if best > max_batch_size:
            raise OptionError(
                f"the plan cannot be tuned for batches of {best}: the model takes {max_batch_size} at most"
            )
        return BatchProfile(1, best, max_batch_size)


@dataclass(frozen=True, slots=True)
class Machine:
    """What a plan is bound to. It is loadable nowhere else, or slower and unsound (NVIDIA/TensorRT#1562, #2900)."""

    tensorrt_version: str
    """Major, minor and patch."""
    gpu_name: str
    compute_capability: str


def this_machine() -> Machine:
    """The TensorRT and the GPUs here.

    Raises:
        PlanError: one of them is not here, or the GPUs differ.
    """
    return Machine(tensorrt_version(), *_gpu())


def tensorrt_version() -> str:
    """Version of the Python package, or else of the library alone, which is all that Triton's container holds.

    Raises:
        PlanError: neither is here, or it is too old.
    """
    try:
        version = str(importlib.import_module("tensorrt").__version__)
    except ImportError:
        version = _library_version()
    if int(version.partition(".")[0]) < OLDEST:
        raise PlanError(f"TensorRT {version} is too old: plans need {OLDEST} or newer")
    return ".".join(version.split(".")[:3])


def _library_version() -> str:
    for name in _LIBRARIES:
        try:
            number = int(ctypes.CDLL(name).getInferLibVersion())
        except (OSError, AttributeError):
            continue
        return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    raise PlanError(f"TensorRT is not installed here; {INSTALL}")


def _gpu() -> tuple[str, str]:
    """Name and compute capability of the GPUs that CUDA shows to this process, by its driver library.

    Raises:
        PlanError: there is none, or they are of several kinds.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise PlanError("no NVIDIA driver is here (libcuda.so.1), so there is no GPU to build a plan for") from error
    count = ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        raise PlanError("CUDA shows no GPU to this process; does the pod or container ask for one?")
    kinds = {_kind(cuda, index) for index in range(count.value)}
    if len(kinds) > 1:
        names = ", ".join(sorted(name for name, _ in kinds))
        raise PlanError(f"the GPUs here differ ({names}), and a plan fits one kind; choose with CUDA_VISIBLE_DEVICES")
    return kinds.pop()


def _kind(cuda: Any, index: int) -> tuple[str, str]:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(_CUDA_NAME_BYTES)
    failed = (
        cuda.cuDeviceGet(ctypes.byref(device), index)
        or cuda.cuDeviceGetName(name, _CUDA_NAME_BYTES, device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(major), _CUDA_CAPABILITY_MAJOR, device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(minor), _CUDA_CAPABILITY_MINOR, device)
    )
    if failed:
        raise PlanError(f"CUDA does not tell what GPU {index} is (error {failed})")
    return name.value.decode(), f"{major.value}.{minor.value}"


def build_plan(
    graph: bytes,
    profile: BatchProfile,
    settings: PlanSettings,
    timing_cache: bytes = b"",
    progress: Callable[[str], None] = lambda _line: None,
) -> tuple[bytes, bytes]:
    """Build a plan for the GPU here; this takes minutes.

    Args:
        graph: the served ONNX model.
        profile: the batch sizes that it shall serve.
        settings: workspace and optimization level.
        timing_cache: what an earlier build measured, on this kind of GPU and with this TensorRT; empty for nothing.
        progress: called with TensorRT's warnings.

    Returns:
        The plan, and the timing cache with what this build added.

    Raises:
        PlanError: no TensorRT here, or it refuses the graph.
    """
    try:
        trt = importlib.import_module("tensorrt")
    except ImportError as error:
        raise PlanError(f"the Python package tensorrt is not installed here, and it builds plans; {INSTALL}") from error
    log = _log(trt, progress)
    builder = trt.Builder(log)
    network = _parse(trt, builder, log, graph)
    size_hwc = _require_contract(trt, network)
    config = _configure(trt, builder, settings, timing_cache)
    shapes = builder.create_optimization_profile()
    shapes.set_shape(INPUT, *((batch, *size_hwc) for batch in (profile.least, profile.best, profile.most)))
    config.add_optimization_profile(shapes)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise PlanError(f"TensorRT could not build the plan: {log.told()}")
    cache = config.get_timing_cache()
    return bytes(plan), b"" if cache is None else bytes(cache.serialize())


def _log(trt: Any, progress: Callable[[str], None]) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]  # the base is only there once TensorRT is imported
        """Passes warnings on and keeps errors for the message."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in {trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR}:
                self._errors.append(message)
            elif severity == trt.ILogger.Severity.WARNING:
                progress(f"TensorRT: {message}")

        def told(self) -> str:
            return "; ".join(self._errors) or "it gives no reason"

    return Log()


def _parse(trt: Any, builder: Any, log: Any, graph: bytes) -> Any:
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph):
        reasons = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors)) or log.told()
        raise PlanError(f"TensorRT cannot read the graph: {reasons}")
    return network


def _require_contract(trt: Any, network: Any) -> tuple[int, ...]:
    """The input's height, width and 3, once names and types of all tensors are those of the contract.

    Raises:
        PlanError: they are not: the plan would not do what Triton and the gateway expect.
    """
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    found = [(tensor.name, tensor.dtype) for tensor in (*inputs, *outputs)]
    wanted = [(INPUT, trt.uint8), *zip(OUTPUTS, (trt.float32, trt.float32, trt.int32), strict=True)]
    if found != wanted:
        raise PlanError(f"TensorRT reads the graph's tensors as {found}; the contract has {wanted}")
    batch, *size_hwc = inputs[0].shape
    if batch != -1 or min(size_hwc) < 1:
        raise PlanError(f"TensorRT reads the input's shape as {tuple(inputs[0].shape)}; only the batch may be open")
    return tuple(size_hwc)


def _configure(trt: Any, builder: Any, settings: PlanSettings, timing_cache: bytes) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mebibytes << 20)
    config.builder_optimization_level = settings.optimization_level
    known = config.create_timing_cache(timing_cache)
    if known is None or not config.set_timing_cache(known, ignore_mismatch=False):  # damaged, or of another release
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    return config
