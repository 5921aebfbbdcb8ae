"""A deployment on the bench: what it serves, the right answers to pictures, its capacity, and loads on it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from eagleeye import Client, EagleEyeError
from eagleeye.connection import NothingDone, say
from loadtest.load.answers import Answer
from loadtest.load.corpus import fingerprint, pictures, references, shares
from loadtest.load.plan import Plan
from loadtest.load.profile import Profile
from loadtest.load.run import run
from loadtest.load.table import BadProfile
from loadtest.profile import capacity, climb_gateway

if TYPE_CHECKING:
    from eagleeye import ModelInfo
    from loadtest.load.answers import Reference
    from loadtest.load.corpus import Picture
    from loadtest.load.run import Workforce
    from loadtest.load.target import Target
    from loadtest.profile import Step

_SEED: Final = 1
_DRAWN: Final = 16
"""Times the pictures that there are: so that each comes about as often as its weight says."""
_CHECK_SECONDS: Final = 10.0
_ASK_SECONDS: Final = 60.0
"""For the answer to each picture before the load begins, tries included: Triton may still warm up."""


def parse(data: dict[str, Any]) -> Profile:
    """The profile that resolved data are.

    Raises:
        NothingDone: they are none.
    """
    try:
        return Profile.parse(data)
    except BadProfile as error:
        raise NothingDone(f"the profile is not right: {error}") from error


class Bench:
    """A deployment that is measured: it serves a model, and gets the pictures of a profile."""

    def __init__(self, target: Target, profile: Profile) -> None:
        self._target = target
        with target.connection.client() as client:
            try:
                model = self._find_model(client)
                self._model = model.name
                if profile.needs_grpc:
                    self._check_grpc()
                self._pictures = pictures(profile.images, model.name, target.images)
                self._references = self._learn(client, model.score_threshold)
            except (BadProfile, EagleEyeError) as error:
                raise NothingDone(str(error)) from error

    def _check_grpc(self) -> None:
        """Before any load: it would be nothing but failures."""
        try:
            with Client(
                self._target.grpc, timeout_seconds=_CHECK_SECONDS, **self._target.identity.for_client()
            ) as client:
                client.health()
        except (EagleEyeError, ValueError, OSError) as error:
            raise NothingDone(f"{error}; the profile needs the gRPC face, which --grpc-url names") from error

    def _find_model(self, client: Client) -> ModelInfo:
        served = {model.name: model for model in client.models()}
        name = self._target.model or (next(iter(served)) if len(served) == 1 else None)
        if name not in served:
            wanted = f"there is no model {name!r}" if name else "name one by --model"
            raise NothingDone(f"{wanted}; the gateway serves {', '.join(sorted(served)) or 'none'}")
        return served[name]

    def _learn(self, client: Client, threshold: float) -> list[Reference]:
        """The right answers; a gateway that is still busy with the start is asked until it has them."""

        def ask(picture: Picture) -> Answer:
            return Answer.of_client(client.detect(picture.data, model=self._model, timeout_seconds=_ASK_SECONDS))

        return references(self._pictures, self._target.expected, threshold, ask)

    def climb(self, p99_ms: float, step_seconds: float) -> Step:
        """The most that it answers in time, with the same pictures, each as often as the load sends it."""
        chance = np.random.default_rng(_SEED)
        drawn = chance.choice(len(self._pictures), _DRAWN * len(self._pictures), p=shares(self._pictures))
        images = [self._pictures[n].data for n in drawn]
        say("callers  images/s   p99 ms")
        climbed = climb_gateway(self._target.connection, images, p99_ms, step_seconds, model=self._model)
        steps = asyncio.run(climbed)
        best = capacity(steps, p99_ms)
        if best is None:
            raise NothingDone(f"even with one caller 99 % take {steps[0].p99_ms:.0f} ms, and --p99-ms is {p99_ms:g}")
        say(f"capacity: {best.images_per_second:.1f} images/s, from {best.callers} callers")
        return best

    def run(self, data: dict[str, Any], workforce: Workforce, capacity: float | None) -> dict[str, Any]:
        """The result of a load whose levels are known."""
        parse(data)
        target = self._target
        plan = Plan(
            profile=data,
            url=target.connection.url,
            grpc_url=target.grpc,
            model=self._model,
            references=[each.pack() for each in self._references],
            fingerprint=fingerprint(self._pictures),
            images=str(target.images or ""),
        )
        return run(plan, target.identity, workforce, target.sources, target.pool(), capacity)
