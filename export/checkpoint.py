"""Official DAMO-YOLO checkpoints: read without running any code from the file, and loaded strictly."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from export.damoyolo import DamoYolo
from export.errors import CheckpointError
from export.variants import VARIANTS, Variant

if TYPE_CHECKING:
    from pathlib import Path

Shapes = Mapping[str, tuple[int, ...]]

CLASS_KEY: Final = "head.gfl_cls.0.weight"
"""Its first axis is the head's number of class channels."""

NAMED_KEYS: Final = 3
"""How many keys of a kind an error message names before it only counts."""


def load_detector(path: Path, variant: Variant, labels: int, input_hw: tuple[int, int]) -> DamoYolo:
    """The detector with the checkpoint's weights, in training form.

    Args:
        path: a training file (a dict that holds a state_dict under "model"), a bare state_dict, either one also with
            DistributedDataParallel's "module." before every key.
        variant: the structure that the file must fit, key by key.
        labels: how many class names the caller has. One channel more in the file marks a legacy head.
        input_hw: height and width of the model's input in pixels, multiples of 32.

    Raises:
        CheckpointError: the file cannot be read, or does not fit the variant or the labels.
    """
    state_dict = read_state_dict(path)
    shapes = {key: tuple(value.shape) for key, value in state_dict.items()}
    channels = _class_channels(shapes)
    _require_fit(path, variant, shapes, channels)
    detector = DamoYolo(variant, labels, input_hw, legacy_head=_is_legacy(path, channels, labels))
    detector.load_state_dict(state_dict)
    return detector


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The checkpoint's tensors under the official keys.

    Raises:
        CheckpointError: not a PyTorch file, a damaged one, one that only code from the file could load, or one that
            holds no state_dict of finite numbers.
    """
    content = _load(path)
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path} holds no state_dict: expected a dict of tensors, by itself or under 'model'")
    state_dict = {str(key).removeprefix("module."): value for key, value in content.items()}
    broken = [key for key, value in state_dict.items() if not bool(value.isfinite().all())]
    if broken:
        raise CheckpointError(f"{path} holds values that are not finite, in {_named(broken)}")
    return state_dict


def _load(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual pickle protocols; such files fail or load, both is fine
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # arbitrary bytes make the reader fail in as many ways
        if "Unsupported global" in str(error) or "GLOBAL" in str(error):
            raise CheckpointError(
                f"{path} needs code to be run while loading, which is refused. If you trust its source, load it there "
                "with PyTorch and save it anew as {'model': state_dict}"
            ) from error
        raise CheckpointError(f"{path} is not a PyTorch checkpoint, or is truncated or damaged") from error


def _class_channels(shapes: Shapes) -> int:
    """Class channels of the head in the file; 1 where the file has no such head and will be refused anyway."""
    shape = shapes.get(CLASS_KEY, ())
    return max(1, shape[0]) if shape else 1


def _is_legacy(path: Path, channels: int, labels: int) -> bool:
    """Whether the head has the additional channel of DAMO-YOLO's first release."""
    if channels not in (labels, labels + 1):
        raise CheckpointError(f"{path} has {channels} classes, but the labels file names {labels}")
    return channels == labels + 1


def _require_fit(path: Path, variant: Variant, found: Shapes, channels: int) -> None:
    misfits = _misfits(_expected_shapes(variant, channels), found)
    if not misfits:
        return
    fitting = [other.name for other in VARIANTS.values() if not _misfits(_expected_shapes(other, channels), found)]
    hint = f"; it fits variant {fitting[0]}" if fitting else ""
    raise CheckpointError(f"{path} does not fit variant {variant.name}: {'; '.join(misfits)}{hint}")


def _misfits(expected: Shapes, found: Shapes) -> list[str]:
    """One phrase each about missing, unexpected and wrongly shaped keys."""
    missing = [key for key in expected if key not in found]
    unexpected = [key for key in found if key not in expected]
    reshaped = [
        f"{key} ({_times(found[key])}, not {_times(shape)})"
        for key, shape in expected.items()
        if key in found and found[key] != shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    return [f"{_counted(keys)} {kind}: {_named(keys)}" for kind, keys in kinds.items() if keys]


def _expected_shapes(variant: Variant, channels: int) -> Shapes:
    with torch.device("meta"):  # shapes only, no memory and no random numbers
        network = DamoYolo(variant, channels, (32, 32))
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def _counted(keys: list[str]) -> str:
    return "1 key" if len(keys) == 1 else f"{len(keys)} keys"


def _named(keys: list[str]) -> str:
    return ", ".join(keys[:NAMED_KEYS]) + (", ..." if len(keys) > NAMED_KEYS else "")


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
