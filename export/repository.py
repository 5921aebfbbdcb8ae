"""Triton's model repository: a model's config, and publication that no reader ever sees half done.

Imports neither torch nor onnx, so that `eagleeye up` can tell within milliseconds that a model is already there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from eagleeye.files import exclusive
from export.contract import INPUT, OPSET, OUTPUTS
from export.errors import OptionError, RepositoryError
from export.plan_config import accelerate, serving_onnx

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

CONFIG_FILE: Final = "config.pbtxt"
MODEL_FILE: Final = "model.onnx"
FACTS_FILE: Final = "facts.json"
"""Beside a version's graph: the parameters that the config had when it was exported. The config has one set only."""

MEASURED: Final = ("map50_95", "map50_95_fp32", "evaluated_on")
"""Parameters that tell what a graph is worth. They are there where somebody measured it."""

NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
"""Model names that are safe as file names, in URLs and in metric labels."""

_VERSION: Final = re.compile(r"[1-9][0-9]*")
_LAST_VERSION: Final = 2**63 - 1  # Triton's own type of a version
_MOST_WORDS: Final = 200  # of what is wrong with a config: its text may be of any length


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """All that a config says about a model."""

    name: str
    variant: str
    labels: tuple[str, ...]
    size: int
    """Side of the square input, in pixels."""
    candidates: int
    """K: pairs that the graph returns for an image."""
    max_batch_size: int
    instances: int
    queue_delay_microseconds: int
    score_threshold: float
    """What the gateway uses where a caller names none."""
    iou_threshold: float
    map50_95: float | None
    tensorrt_accelerator: str | None
    """Cache folder, as Triton sees it, of ONNX Runtime's TensorRT; None: without."""
    checkpoint_sha256: str
    exporter_version: str
    export_key: str
    """Digest of everything that decides what `model.onnx` holds."""
    precision: str = "fp32"
    """A name of `export.precision.PRECISIONS`."""
    float_layers: tuple[str, ...] = ()
    """Layers of an INT8 graph that are not INT8."""
    map50_95_fp32: float | None = None
    """What the same model reached in FP32 on the images of `map50_95`, if that was measured."""
    evaluated_on: str | None = None
    """SHA-256 of the annotations that the gate measured both with."""


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A model as it lies in a repository."""

    directory: Path
    config: Any  # pb.ModelConfig
    version: int
    """The newest; 0 where there is none. `engine ensure` looks at the one that is loaded instead."""
    versions: tuple[int, ...]
    """All that have a folder, ascending."""

    def parameter(self, key: str) -> str:
        """A parameter of the config; empty where it has none of that name."""
        return str(self.config.parameters[key].string_value) if key in self.config.parameters else ""

    @property
    def model_file(self) -> Path:
        """The newest version's graph."""
        return self.directory / str(self.version) / MODEL_FILE

    @property
    def loaded(self) -> tuple[int, ...]:
        """The versions that a Triton which starts now loads: those of the config's version policy that are there."""
        policy = self.config.version_policy
        match policy.WhichOneof("policy_choice"):
            case "specific":
                return tuple(version for version in self.versions if version in policy.specific.versions)
            case "all":
                return self.versions
        return self.versions[-max(1, policy.latest.num_versions) :]

    def facts(self, version: int) -> dict[str, str]:
        """What the export noted about a version; of an older one without such a file, or a damaged one, nothing."""
        try:
            facts = json.loads((self.directory / str(version) / FACTS_FILE).read_text("utf-8"))
        except (OSError, ValueError):
            facts = None
        if isinstance(facts, dict) and all(isinstance(value, str) for value in facts.values()):
            return facts
        return _facts(self.config) if version == self.versions[-1] else {}

    def holds(self, export_key: str) -> bool:
        """Whether the newest version is, byte for byte, what an export with this key published."""
        return (
            self.parameter("export_key") == export_key
            and self.model_file.is_file()
            and self.parameter("model_sha256") == file_sha256(self.model_file)
        )

    def same_graph(self, config: Any) -> bool:
        """Whether a config tells of the same graph."""
        return "model_sha256" in config.parameters and (
            self.parameter("model_sha256") == config.parameters["model_sha256"].string_value
        )


def validate_name(name: str) -> None:
    """Require a model name that is safe as a file name.

    Raises:
        OptionError: it is not.
    """
    if not NAME.fullmatch(name):
        raise OptionError(f"the model name {name!r} must be letters, digits, '_', '-' and '.', and not begin with '.'")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ----------------------------------------------------------------------------------------------------------- config


def model_config(model: ModelDescription, model_sha256: str) -> Any:
    """The `ModelConfig` message for Triton and, in its parameters, for the gateway."""
    config = pb.ModelConfig(name=model.name, backend="onnxruntime", max_batch_size=model.max_batch_size)
    config.input.add(name=INPUT, data_type=pb.TYPE_UINT8, dims=[model.size, model.size, 3])
    boxes, scores, class_ids = OUTPUTS
    config.output.add(name=boxes, data_type=pb.TYPE_FP32, dims=[model.candidates, 4])
    config.output.add(name=scores, data_type=pb.TYPE_FP32, dims=[model.candidates])
    config.output.add(name=class_ids, data_type=pb.TYPE_INT32, dims=[model.candidates])
    config.dynamic_batching.max_queue_delay_microseconds = model.queue_delay_microseconds
    config.instance_group.add(count=model.instances)  # no kind: on the GPU where there is one, else on the CPU
    config.version_policy.specific.versions.append(1)  # a later version is loaded when somebody says so
    for batch_size in warm_batch_sizes(model.max_batch_size):
        config.model_warmup.append(_warmup(model.size, batch_size))
    for key, value in _parameters(model, model_sha256).items():
        config.parameters[key].string_value = value
    if model.tensorrt_accelerator is not None:
        accelerate(config, model.tensorrt_accelerator)
    return config


def warm_batch_sizes(largest: int) -> list[int]:
    """The batch sizes that a model runs before it is ready: the powers of two below the largest, and the largest."""
    return [*(2**power for power in range((largest - 1).bit_length())), largest]


def _warmup(size: int, batch_size: int) -> Any:
    """A request before readiness: the first run of a batch size allocates, and on GPUs picks kernels."""
    sample = pb.ModelWarmup(name=f"batch of {batch_size}", batch_size=batch_size)
    sample.inputs[INPUT].CopyFrom(
        pb.ModelWarmup.Input(data_type=pb.TYPE_UINT8, dims=[size, size, 3], zero_data=True),
    )
    return sample


def _parameters(model: ModelDescription, model_sha256: str) -> dict[str, str]:
    parameters = {
        "labels": json.dumps(model.labels, ensure_ascii=False),
        "resize": "stretch",
        "variant": model.variant,
        "precision": model.precision,
        "opset": str(OPSET),
        "score_threshold": str(model.score_threshold),
        "iou_threshold": str(model.iou_threshold),
        "checkpoint_sha256": model.checkpoint_sha256,
        "model_sha256": model_sha256,
        "exporter_version": model.exporter_version,
        "export_key": model.export_key,
    }
    if model.precision == "int8":
        parameters["float_layers"] = json.dumps(model.float_layers)
    for key in MEASURED:
        if getattr(model, key) is not None:
            parameters[key] = str(getattr(model, key))
    return parameters


def _facts(config: Any) -> dict[str, str]:
    """What a config says about the version that was exported with it, and not about the plan that may serve it."""
    return {key: value.string_value for key, value in sorted(serving_onnx(config).parameters.items())}


def loading(config: Any, versions: Iterable[int]) -> Any:
    """The config with which Triton loads these versions; `config` is not changed."""
    changed = pb.ModelConfig()
    changed.CopyFrom(config)
    changed.version_policy.specific.versions[:] = sorted(versions)
    return changed


def _interface(config: Any) -> dict[str, Any]:
    """What all versions of a model have in common: callers rely on it, and they name no version."""

    def tensor(entry: Any) -> tuple[str, int, tuple[int, ...]]:
        return entry.name, entry.data_type, tuple(entry.dims)

    return {
        "labels": config.parameters["labels"].string_value if "labels" in config.parameters else "",
        "input": [tensor(entry) for entry in config.input],
        "outputs": [tensor(entry) for entry in config.output],
    }


# ------------------------------------------------------------------------------------------------------ publication


def find_published(repository: Path, name: str) -> PublishedModel | None:
    """The model of that name, or None.

    Raises:
        RepositoryError: something of that name is there, but it is no model with a readable config.
    """
    directory = repository / name
    if not os.path.lexists(directory):
        return None
    try:
        config = text_format.Parse((directory / CONFIG_FILE).read_text(encoding="utf-8"), pb.ModelConfig())
    except (OSError, ValueError, text_format.ParseError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())[:_MOST_WORDS]
        raise RepositoryError(
            f"{directory} has no readable {CONFIG_FILE} ({reason}). Mend or remove it, or choose another name"
        ) from error
    versions = sorted(int(entry.name) for entry in directory.iterdir() if _is_version(entry))
    return PublishedModel(directory, config, max(versions, default=0), tuple(versions))


def _is_version(entry: Path) -> bool:
    """Whether Triton takes it for a version: a directory, of a number that it can hold."""
    return bool(_VERSION.fullmatch(entry.name)) and int(entry.name) <= _LAST_VERSION and entry.is_dir()


def require_same_interface(published: PublishedModel, config: Any) -> None:
    """Require that `config` describes another version of the published model, not another model.

    Raises:
        RepositoryError: labels, input or outputs differ.
    """
    old, new = _interface(published.config), _interface(config)
    differing = [key for key in new if old[key] != new[key]]
    if differing:
        raise RepositoryError(
            f"{published.directory} serves a model with other {' and '.join(differing)}, and its callers would not "
            "expect the change. Choose another name, or remove that directory first"
        )


def publish(repository: Path, config: Any, model: bytes) -> PublishedModel:
    """Add a model, or the next version of one. It appears complete or not at all, whenever the process dies.

    The first version is loaded by every Triton that starts from now on. A later one is not, until somebody loads it.

    Args:
        repository: created if need be.
        config: the `ModelConfig`; its name is the model's. Its version policy is not taken over.
        model: content of `model.onnx`.

    Raises:
        RepositoryError: the repository cannot be written, or holds a model of that name with another interface.
    """
    with _staging(repository) as staging:
        published = find_published(repository, config.name)
        if published is None:
            return _publish_first(repository, staging, config, model)
        require_same_interface(published, config)
        loaded = published.loaded or [published.version + 1]  # Triton can't start on a model that loads nothing
        return _publish_next(published, staging, loading(config, loaded), model)


def replace_config(published: PublishedModel, config: Any) -> PublishedModel:
    """Give a published model, and its newest version, another config in one step; the same versions stay loaded.

    Raises:
        RepositoryError: the repository cannot be written.
    """
    config = loading(config, published.loaded)
    with _staging(published.directory.parent) as staging:
        _write_facts(staging, config)
        _rename(staging / FACTS_FILE, published.model_file.with_name(FACTS_FILE))
        _replace_config(published.directory, staging, config)
    return dataclasses.replace(published, config=config)


def swap_config(published: PublishedModel, expected: bytes, content: bytes) -> None:
    """Replace a model's config file by other content, if it is still as `expected`; the same is not written again.

    Raises:
        RepositoryError: it is not, or the repository cannot be written.
    """
    if content == expected:
        _require_content(published, expected)
        return
    with _staging(published.directory.parent) as staging:
        _require_content(published, expected)
        _write(staging / CONFIG_FILE, content)
        _rename(staging / CONFIG_FILE, published.directory / CONFIG_FILE)


def _require_content(published: PublishedModel, expected: bytes) -> None:
    if (published.directory / CONFIG_FILE).read_bytes() != expected:
        raise RepositoryError(f"{published.directory} was changed by somebody else just now")


def as_text(config: Any) -> bytes:
    """The content of the config file."""
    text: str = text_format.MessageToString(config, as_utf8=True)
    return text.encode()


def remove_versions(published: PublishedModel, versions: Iterable[int]) -> None:
    """Delete versions. Each is there as a whole or gone, whenever the process dies.

    Args:
        published: the model as it was read.
        versions: some of its versions. None is loaded, nor the newest: its number would be given out anew.

    Raises:
        RepositoryError: one is, somebody else changed the model since it was read, or the repository cannot be written.
    """
    with _staging(published.directory.parent) as staging:
        _require_unchanged(published, published.config)
        if kept := {published.version, *published.loaded} & set(versions):
            raise RepositoryError(f"version {min(kept)} of {published.directory} is loaded or the newest, and stays")
        for version in versions:
            _rename(published.directory / str(version), staging / str(version))
        _sync(published.directory)


def serve(published: PublishedModel, config: Any, plan: Path | None = None) -> PublishedModel:
    """Let Triton serve a version of a model by another config, in one step; as it was where nothing changes.

    Args:
        published: the model as it was read.
        config: the wanted `ModelConfig`.
        plan: a file that the version shall hold first, under the name that `config` gives to the model's file.

    Raises:
        RepositoryError: the repository cannot be written, or somebody else changed the model since it was read.
    """
    if plan is None and config == published.config:
        return published
    with _staging(published.directory.parent) as staging:
        _require_unchanged(published, config)
        version = published.directory / str(published.version)
        for unused in version.glob("model.*.plan"):  # the one in use stays until the next time: it may be loading
            if unused.name != published.config.default_model_filename:
                unused.unlink()
        if plan is not None:
            _copy(plan, staging / "plan")
            _rename(staging / "plan", version / config.default_model_filename)
        _replace_config(published.directory, staging, config)
    return dataclasses.replace(published, config=config)


def _require_unchanged(published: PublishedModel, wanted: Any) -> None:
    """Refuse to write over what somebody else wrote, unless it is what is wanted."""
    current = find_published(published.directory.parent, published.directory.name)
    if current is None or current.versions != published.versions or current.config not in (published.config, wanted):
        raise RepositoryError(f"{published.directory} was changed by somebody else just now; run this again")


def copy_loaded(source: PublishedModel, config: Any, repository: Path) -> None:
    """Have a model's loaded versions in another repository, under the same numbers, unless they are there already.

    Args:
        source: the model.
        config: what its config shall be there.
        repository: created if need be.

    Raises:
        RepositoryError: the repository cannot be written, or holds another model or another version of these numbers.
    """
    config = loading(config, source.loaded)
    with _staging(repository) as staging:
        there = find_published(repository, config.name)
        if there is not None and there.loaded == source.loaded and there.same_graph(config):
            return
        (staging / "model").mkdir()
        if there is not None:
            require_same_interface(there, config)
        for version in source.loaded:
            if there is None or version not in there.versions:
                _copy_version(source.directory / str(version), staging / "model" / str(version))
            else:
                _require_equal(source, there, version)
        if there is None:
            _write(staging / "model" / CONFIG_FILE, as_text(config))
            _rename(staging / "model", repository / config.name)
            return
        for copied in sorted((staging / "model").iterdir()):
            _rename(copied, there.directory / copied.name)
        _replace_config(there.directory, staging, config)


def _copy_version(source: Path, target: Path) -> None:
    target.mkdir()
    for name in (MODEL_FILE, FACTS_FILE):
        if name == MODEL_FILE or (source / name).is_file():
            _copy(source / name, target / name)


def _require_equal(source: PublishedModel, there: PublishedModel, version: int) -> None:
    one, other = (model.directory / str(version) / MODEL_FILE for model in (source, there))
    if not other.is_file() or file_sha256(one) != file_sha256(other):
        raise RepositoryError(f"{there.directory} holds version {version} of another origin; empty it first")


def _publish_first(repository: Path, staging: Path, config: Any, model: bytes) -> PublishedModel:
    staged = staging / "model"
    (staged / "1").mkdir(parents=True)
    config = loading(config, [1])
    _write(staged / "1" / MODEL_FILE, model)
    _write_facts(staged / "1", config)
    _write(staged / CONFIG_FILE, as_text(config))
    _rename(staged, repository / config.name)
    return PublishedModel(repository / config.name, config, 1, (1,))


def _publish_next(published: PublishedModel, staging: Path, config: Any, model: bytes) -> PublishedModel:
    staged, version = staging / "version", published.version + 1
    staged.mkdir()
    _write(staged / MODEL_FILE, model)
    _write_facts(staged, config)
    if published.config.version_policy.WhichOneof("policy_choice") != "specific":  # it would take up what is new
        _replace_config(published.directory, staging, loading(published.config, published.loaded))
    _rename(staged, published.directory / str(version))
    # Dying here leaves the new version under the old config: nobody loads it, and the next export publishes once more.
    _replace_config(published.directory, staging, config)
    return PublishedModel(published.directory, config, version, (*published.versions, version))


def _write_facts(directory: Path, config: Any) -> None:
    _write(directory / FACTS_FILE, f"{json.dumps(_facts(config), indent=1, ensure_ascii=False)}\n".encode())


def _replace_config(directory: Path, staging: Path, config: Any) -> None:
    _write(staging / CONFIG_FILE, as_text(config))
    _rename(staging / CONFIG_FILE, directory / CONFIG_FILE)


@contextlib.contextmanager
def _staging(repository: Path) -> Iterator[Path]:
    """An empty directory on the repository's file system, for the one process that may publish at this moment.

    It stands beside the repository, as Triton takes every directory inside for a model, even a hidden one, and does not
    start if one holds no version. Only where a rename from there or writing there is impossible it stands inside.
    """
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with exclusive(repository):
            beside, inside = _staging_places(repository.resolve())
            for abandoned in (beside, inside):  # by a process that died: whoever lives would hold the lock
                if abandoned.exists():
                    shutil.rmtree(abandoned)
            staging = beside if _can_stage(beside, repository) else inside
            staging.mkdir()  # not by tempfile, whose directories only their owner may read
            try:
                yield staging
            finally:
                shutil.rmtree(staging)
    except OSError as error:
        raise RepositoryError(f"cannot write the model repository {repository}: {error.strerror or error}") from error


def _staging_places(repository: Path) -> tuple[Path, Path]:
    return repository.parent / f".{repository.name}.staging", repository / ".staging"


def _can_stage(place: Path, repository: Path) -> bool:
    """Whether a directory there could be made, and moved into the repository by a rename."""
    return os.access(place.parent, os.W_OK) and place.parent.stat().st_dev == repository.stat().st_dev


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as original, target.open("wb") as copy:
        shutil.copyfileobj(original, copy)
        copy.flush()
        os.fsync(copy.fileno())


def _rename(staged: Path, target: Path) -> None:
    """Move into place, so that it is there also after a power cut."""
    for directory in [staged, *staged.rglob("*")]:
        if directory.is_dir():
            _sync(directory)
    staged.rename(target)
    _sync(target.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
