"""What a model's config says so that Triton serves it as a plan, or as ONNX through ONNX Runtime's own TensorRT.

Imports neither TensorRT nor onnx: configs are changed where neither is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tritonclient.grpc import model_config_pb2 as pb

from export.contract import INPUT

if TYPE_CHECKING:
    from collections.abc import Mapping

BACKEND: Final = "tensorrt"
PLAN_PARAMETERS: Final = (
    "plan_key",
    "plan_sha256",
    "plan_batch_sizes",
    "plan_workspace_mebibytes",
    "plan_optimization_level",
    "tensorrt_version",
    "gpu_name",
    "compute_capability",
)
"""Parameters that a config has while it serves a plan, and only then."""

PRECISION_MODES: Final = {"fp32": "FP32", "fp16": "FP16", "int8": "INT8"}
"""The parameter `precision` -> the mode of ONNX Runtime's TensorRT, which is to permit what the graph holds."""


def plan_file_name(key: str) -> str:
    """The name tells plans apart, so that a change of the config alone switches from one to another at once."""
    return f"model.{key[:16]}.plan"


def serving_plan(config: Any, facts: Mapping[str, str]) -> Any:
    """The config of a model, so that Triton serves its plan.

    Args:
        config: a `ModelConfig`; it is not changed.
        facts: a value for each of `PLAN_PARAMETERS`.
    """
    changed = serving_onnx(config)
    changed.backend = BACKEND
    changed.default_model_filename = plan_file_name(facts["plan_key"])
    for name in PLAN_PARAMETERS:
        changed.parameters[name].string_value = facts[name]
    return changed


def serving_onnx(config: Any) -> Any:
    """The config of a model, so that Triton serves its ONNX file; `config` is not changed."""
    changed = pb.ModelConfig()
    changed.CopyFrom(config)
    if config.backend == BACKEND:
        changed.backend = "onnxruntime"
        changed.ClearField("default_model_filename")
    for name in PLAN_PARAMETERS:
        changed.parameters.pop(name, None)
    return changed


def keeping_plan(old: Any, new: Any) -> Any:
    """`new`, serving the plan that `old` serves, where that plan still fits: same graph, same largest batch."""

    def fixed(config: Any) -> tuple[str, int]:
        return config.parameters["model_sha256"].string_value, config.max_batch_size

    if old.backend != BACKEND or fixed(old) != fixed(new) or has_accelerator(new):
        return new
    return serving_plan(new, {name: old.parameters[name].string_value for name in PLAN_PARAMETERS})


def has_accelerator(config: Any) -> bool:
    """Whether ONNX Runtime is told to hand the graph to TensorRT."""
    return bool(config.optimization.execution_accelerators.gpu_execution_accelerator)


def accelerate(config: Any, cache_directory: str) -> None:
    """Let ONNX Runtime hand the graph to TensorRT, with engines cached on a volume; changes `config`.

    No plan file is needed, but each kind of GPU builds its engine in its first pod, while that loads the model: it is
    not ready for minutes. Only GPUs do so; on a processor the setting changes nothing.

    Args:
        config: a `ModelConfig` that `export.repository.model_config` made.
        cache_directory: an existing directory as Triton sees it. Each graph gets one of its own below: engines of
            models with equal structure would be taken for each other (microsoft/onnxruntime#6455).
    """
    sha256, batch = config.parameters["model_sha256"].string_value, config.max_batch_size
    size = "x".join(map(str, config.input[0].dims))
    settings = {
        "precision_mode": PRECISION_MODES[config.parameters["precision"].string_value],
        "max_workspace_size_bytes": str(4 << 30),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": f"{cache_directory.rstrip('/')}/{sha256[:16]}",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": cache_directory,
        "trt_profile_min_shapes": f"{INPUT}:1x{size}",
        "trt_profile_opt_shapes": f"{INPUT}:{batch}x{size}",
        "trt_profile_max_shapes": f"{INPUT}:{batch}x{size}",
    }
    accelerator = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="tensorrt")
    for name, value in settings.items():
        accelerator.parameters[name] = value
