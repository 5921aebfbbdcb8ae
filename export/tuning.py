"""What can be tuned about serving a model, apart from what it is: read from its config, and written into it.

`eagleeye tune` measures and writes. The parameter `tuned` says why, and what stood there before: an export that would
write just that again keeps what was found, and one that is told something else has its way.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tritonclient.grpc import model_config_pb2 as pb

from export.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

REASON: Final = "tuned"
"""Parameter of a config: a JSON object with what was measured, and the `before` that it was held against."""
_THREADS: Final = "intra_op_thread_count"
_GRAPH: Final = "model_sha256"


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a model is served.

    Attributes:
        instances: copies of it, on each GPU or on the processor.
        queue_delay_microseconds: how long Triton may hold a request back to find company for it.
        preferred_batch_sizes: sizes at which a batch does not wait any longer; Triton's own rule where there are none.
        threads: of ONNX Runtime on the processor for one image, in each instance; None leaves it to the backend.
    """

    instances: int
    queue_delay_microseconds: int = 0
    preferred_batch_sizes: tuple[int, ...] = ()
    threads: int | None = None


def read_tuning(config: Any) -> Tuning:
    """How a config has its model served.

    Raises:
        OptionError: it has several groups of instances, which somebody has written by hand.
    """
    if len(config.instance_group) > 1:
        raise OptionError(f"{config.name} has {len(config.instance_group)} groups of instances; only one can be tuned")
    batching, parameters = config.dynamic_batching, config.parameters
    return Tuning(
        instances=max(1, config.instance_group[0].count) if config.instance_group else 1,
        queue_delay_microseconds=int(batching.max_queue_delay_microseconds),
        preferred_batch_sizes=tuple(batching.preferred_batch_size),
        threads=int(parameters[_THREADS].string_value) if _THREADS in parameters else None,
    )


def with_tuning(config: Any, tuning: Tuning) -> Any:
    """The config that serves its model so; `config` is not changed."""
    changed = pb.ModelConfig()
    changed.CopyFrom(config)
    if not changed.instance_group:
        changed.instance_group.add()
    changed.instance_group[0].count = tuning.instances
    changed.dynamic_batching.max_queue_delay_microseconds = tuning.queue_delay_microseconds
    changed.dynamic_batching.preferred_batch_size[:] = tuning.preferred_batch_sizes
    changed.parameters.pop(_THREADS, None)
    if tuning.threads is not None:
        changed.parameters[_THREADS].string_value = str(tuning.threads)
    return changed


def with_reason(config: Any, before: Tuning, reason: Mapping[str, Any]) -> Any:
    """The config with the reason for its tuning; `config` is not changed."""
    changed = pb.ModelConfig()
    changed.CopyFrom(config)
    changed.parameters[REASON].string_value = json.dumps({**reason, "before": dataclasses.asdict(before)})
    return changed


def before_tuning(config: Any) -> Tuning:
    """What stood in a config before it was tuned for the first time; what stands there, if it never was.

    Raises:
        OptionError: it has several groups of instances.
    """
    if REASON not in config.parameters:
        return read_tuning(config)
    before = json.loads(config.parameters[REASON].string_value)["before"]
    return Tuning(**{**before, "preferred_batch_sizes": tuple(before["preferred_batch_sizes"])})


def keeping_tuning(old: Any, new: Any) -> Any:
    """`new`, tuned as `old` is, where that still fits: the same graph, and `new` is as `old` was before its tuning."""
    if REASON not in old.parameters or old.parameters[_GRAPH] != new.parameters[_GRAPH]:
        return new
    if before_tuning(old) != read_tuning(new):
        return new
    kept = with_tuning(new, read_tuning(old))
    kept.parameters[REASON].CopyFrom(old.parameters[REASON])
    return kept
