"""Which models a fleet serves: what its endpoints serve, joined. Pure.

Endpoints may differ while a model is renewed on one after the other. A request is prepared by one model's interface
(its input size above all), so endpoints whose model has another interface can't take it; and the version of a caller
who names none should be one that most endpoints have, or the first endpoint with a new one would get all requests.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gateway.model import Model


def is_same_interface(one: Model, other: Model) -> bool:
    """Whether a tensor made for one model can be given to the other, and its answer be read as that of the first."""
    return (one.input_wh, one.resize, one.candidates, one.labels) == (
        other.input_wh,
        other.resize,
        other.candidates,
        other.labels,
    )


def serves(models: Mapping[str, Model], model: Model, version: int) -> bool:
    """Whether the endpoint that serves `models` can take a tensor made for `model` to that version."""
    own = models.get(model.name)
    return own is not None and version in own.versions and is_same_interface(own, model)


def join(endpoints: Iterable[Mapping[str, Model]]) -> dict[str, Model]:
    """The models of all endpoints, each with the versions that any endpoint has for it.

    Of a model with several interfaces, the one that most endpoints have; of versions, the default is the one that most
    have. Where that is a draw, the newer one.
    """
    by_name: dict[str, list[Model]] = defaultdict(list)
    for models in endpoints:
        for name, model in models.items():
            by_name[name].append(model)
    return {name: _join_one(models) for name, models in by_name.items()}


def batched(name: str, endpoints: Iterable[Mapping[str, Model]]) -> int:
    """How many images of the model called `name` all endpoints together work on, each on one batch."""
    return sum(models[name].batch_size for models in endpoints if name in models)


def complete(served: Mapping[str, Model], remembered: Mapping[str, Model]) -> dict[str, Model]:
    """`served`, and what is only remembered: models and versions that are expected to come back."""
    joined = {**remembered, **served}
    for name in served.keys() & remembered.keys():
        if is_same_interface(served[name], remembered[name]):
            versions = sorted({*served[name].versions, *remembered[name].versions})
            joined[name] = replace(served[name], versions=tuple(versions))
    return joined


def _join_one(models: Sequence[Model]) -> Model:
    groups: list[list[Model]] = []
    for model in models:
        group = next((group for group in groups if is_same_interface(group[0], model)), None)
        if group is None:
            groups.append([model])
        else:
            group.append(model)
    chosen = max(groups, key=lambda group: (len(group), max(model.latest for model in group)))
    holders = Counter(version for model in chosen for version in model.versions)
    newest = max(chosen, key=lambda model: model.latest)
    default = max(holders, key=lambda version: (holders[version], version))
    return replace(newest, versions=tuple(sorted(holders)), default_version=default)
