"""What there is to tell of models and their versions, as a table and as JSON. Pure but for reading the repository."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from eagleeye.model.decisions import shares
from eagleeye.model.fleet import READY
from export.errors import RepositoryError
from export.repository import CONFIG_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from eagleeye.model.fleet import Index
    from export.repository import PublishedModel
    from gateway.rollout import ModelRollout

_HEADER: Final = ("NAME", "VERSION", "SIZE", "PRECISION", "MAP", "SHA256", "LOADED", "SERVES")
_TRITONS: Final = "TRITONS"
_DIGEST_DIGITS: Final = 12
_NOTHING: Final = "-"


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a model.

    Attributes:
        version: its number.
        files: their sizes in bytes, by name.
        facts: what the export noted; empty where nothing is known.
        is_loaded: whether the repository names it as one to load.
        is_default: whether it answers who names none, since the rollout file says nothing: the newest that is loaded.
        percent: its share of the requests by the rollout file; None where that says nothing of the model.
        is_previous: whether a rollback would go back to it.
        shadow_percent: the share of images that it gets in the shadow; None for none.
        tritons: its state on each Triton, by address; `ABSENT` where a Triton does not know it.
    """

    version: int
    files: Mapping[str, int]
    facts: Mapping[str, str]
    is_loaded: bool
    is_default: bool
    percent: float | None
    is_previous: bool
    shadow_percent: float | None
    tritons: Mapping[str, str]

    @property
    def size_bytes(self) -> int:
        """Of all its files."""
        return sum(self.files.values())


@dataclass(frozen=True, slots=True)
class Overview:
    """One model with its versions, oldest first."""

    name: str
    versions: Sequence[Version]


def overview(published: PublishedModel, entry: ModelRollout, indexes: Mapping[str, Index]) -> Overview:
    """What is known of a model: from the repository, the rollout file, and the Tritons that have answered."""
    name = published.directory.name
    percents = shares(entry.weights)
    return Overview(
        name,
        [
            Version(
                version=version,
                files=_files(published.directory / str(version)),
                facts=published.facts(version),
                is_loaded=version in published.loaded,
                is_default=not entry.weights and version in published.loaded[-1:],
                percent=percents.get(version, 0.0) if entry.weights else None,
                is_previous=version in (entry.previous or {}),
                shadow_percent=entry.shadow.percent if entry.shadow and entry.shadow.version == version else None,
                tritons={
                    address: index.states.get(name, {}).get(version, "ABSENT")
                    for address, index in indexes.items()
                    if not index.error
                },
            )
            for version in published.versions
        ],
    )


def names(repository: Path) -> list[str]:
    """Names of the models in a repository, in order.

    Raises:
        RepositoryError: there is no such repository.
    """
    if not repository.is_dir():
        raise RepositoryError(f"there is no model repository {repository}")
    return sorted(config.parent.name for config in repository.glob(f"*/{CONFIG_FILE}"))


def as_json(model: Overview) -> dict[str, Any]:
    """The same for programs."""
    return {
        "name": model.name,
        "versions": [{**asdict(version), "size_bytes": version.size_bytes} for version in model.versions],
    }


def table(models: Sequence[Overview], *, is_live: bool) -> list[tuple[str, ...]]:
    """Header and rows, one for each version; what the Tritons say stands last, if any was asked."""
    rows = [_HEADER, *(_row(model.name, version) for model in models for version in model.versions)]
    if not is_live:
        return rows
    states = [_TRITONS, *(_tritons(version) for model in models for version in model.versions)]
    return [(*row, state) for row, state in zip(rows, states, strict=True)]


def details(model: Overview) -> list[str]:
    """Files and facts of each version, and what each Triton says of it, in lines."""
    lines = []
    for version in model.versions:
        lines.append(f"version {version.version}")
        lines += [f"  {name:24}{size:>14,} bytes" for name, size in sorted(version.files.items())]
        lines += [f"  {key:24}{value}" for key, value in version.facts.items()]
        lines += [f"  on {address:21}{state}" for address, state in version.tritons.items()]
    return lines


def _files(directory: Path) -> dict[str, int]:
    return {str(path.relative_to(directory)): path.stat().st_size for path in directory.rglob("*") if path.is_file()}


def _row(name: str, version: Version) -> tuple[str, ...]:
    facts = version.facts
    return (
        name,
        str(version.version),
        f"{version.size_bytes / 2**20:.2f} MiB",
        facts.get("precision", _NOTHING),
        _rounded(facts.get("map50_95", "")),
        facts.get("model_sha256", _NOTHING)[:_DIGEST_DIGITS],
        "yes" if version.is_loaded else "no",
        _serves(version),
    )


def _rounded(number: str) -> str:
    try:
        return f"{float(number):.4f}"
    except ValueError:  # nobody has measured it, or somebody wrote it by hand
        return _NOTHING


def _serves(version: Version) -> str:
    words = [] if version.percent is None else [f"{version.percent:g} %"]
    if version.is_default:
        words.append("by default")
    if version.is_previous:
        words.append("previous")
    if version.shadow_percent is not None:
        words.append(f"shadow {version.shadow_percent:g} %")
    return ", ".join(words) or _NOTHING


def _tritons(version: Version) -> str:
    ready = sum(state == READY for state in version.tritons.values())
    return f"{ready} of {len(version.tritons)} ready"
