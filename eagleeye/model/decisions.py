"""What an operator may do with versions, and what follows from it. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from gateway.rollout import Rollout

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from gateway.rollout import ModelRollout

_ALL: Final = 100.0
_DIGITS: Final = 6  # of a percentage, so that a third is no line of nines


class Refused(Exception):
    """What was asked for can't be done, or would do harm; the message says why, and what is allowed."""


def shares(weights: Mapping[int, float]) -> dict[int, float]:
    """The percentage of each version that has one."""
    total = sum(weights.values())
    return {version: round(_ALL * weight / total, _DIGITS) for version, weight in weights.items() if weight > 0}


def pinned(rollout: Rollout, model: str, version: int) -> Rollout:
    """The rollout in which `version` answers all requests, if nothing was said of the model so far.

    Otherwise the newest version answers: one that is loaded to be tried would do so at once, and a rollback would lead
    nowhere.
    """
    entry = rollout.of(model)
    if entry.weights:
        return rollout
    return Rollout({**rollout.models, model: replace(entry, weights={version: _ALL})})


def promotion(current: Mapping[int, float], version: int, percent: float) -> dict[int, float]:
    """The weights in which `version` gets `percent`, and what serves now shares the rest as before.

    Args:
        current: the weights that hold.
        version: the one to promote.
        percent: in (0, 100].

    Raises:
        Refused: there is no other version that could have the rest.
    """
    if percent >= _ALL:
        return {version: _ALL}
    others = {other: share for other, share in shares(current).items() if other != version}
    if not others:
        raise Refused(
            f"version {version} serves alone, and there is no other that could have the remaining {_ALL - percent:g} %"
        )
    rest = {other: round((_ALL - percent) * share / sum(others.values()), _DIGITS) for other, share in others.items()}
    return rest | {version: percent}


def newest_everywhere(ready: Mapping[str, Collection[int]], but: Collection[int] = ()) -> int | None:
    """The newest version that all Tritons serve, other than some; None if there is none.

    Args:
        ready: the versions that each Triton serves, by its address.
        but: versions that don't count.
    """
    common = set.intersection(*map(set, ready.values())) if ready else set()
    return max(common - set(but), default=None)


def require_ready(versions: Iterable[int], ready: Mapping[str, Collection[int]]) -> None:
    """Require that every Triton serves all of these versions.

    Args:
        versions: what shall get requests.
        ready: the versions that each Triton serves, by its address.

    Raises:
        Refused: one does not; the message says which, and what to do.
    """
    for version in sorted(versions):
        if lacking := [address for address, served in sorted(ready.items()) if version not in served]:
            raise Refused(
                f"version {version} is not ready on {', '.join(lacking)}; `eagleeye model load` loads it everywhere"
            )


def require_unused(versions: Collection[int], entry: ModelRollout) -> None:
    """Require that none of these versions gets requests.

    Raises:
        Refused: one does, and would leave its callers without an answer.
    """
    for version in sorted(versions):
        if percent := shares(entry.weights).get(version):
            raise Refused(
                f"version {version} gets {percent:g} % of the requests by the rollout file; promote another one first, "
                "or insist with --force"
            )
        if entry.shadow is not None and entry.shadow.version == version:
            raise Refused(
                f"version {version} runs in the shadow; end that first (`eagleeye model shadow --off`), "
                "or insist with --force"
            )


def prunable(versions: Collection[int], loaded: Collection[int], entry: ModelRollout, keep: int) -> list[int]:
    """The versions that nobody needs: neither loaded nor named by the rollout, nor among the `keep` newest.

    The newest one always stays, as numbers are never used again.
    """
    named = {*entry.weights, *(entry.previous or {})} | ({entry.shadow.version} if entry.shadow else set())
    newest = sorted(versions)[-max(1, keep) :]
    return sorted(set(versions) - set(loaded) - named - set(newest))
