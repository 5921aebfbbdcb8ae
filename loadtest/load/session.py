"""What all callers of one generator process share: pictures and their answers, the clock, the ledger, and chance."""

from __future__ import annotations

import itertools
import math
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from eagleeye import Client
from loadtest.load.answers import Reference
from loadtest.load.corpus import fingerprint, pictures, shares
from loadtest.load.ledger import Ledger
from loadtest.load.profile import Profile
from loadtest.load.table import BadProfile

if TYPE_CHECKING:
    from loadtest.arrivals import Schedule
    from loadtest.load.corpus import Picture
    from loadtest.load.plan import Identity, Plan

_DRAWN_AT_ONCE = 4096
CONNECTIONS = 4
"""gRPC connections of a process, which all its callers share: each occupies a thread beside gevent's loop."""


class Turn(NamedTuple):
    """What a caller sends next."""

    picture: Picture
    reference: Reference
    priority: str | None


class Session:
    """One generator's part of a load: the share `index` of `count` equal ones.

    Args:
        plan: the load.
        identity: who asks.

    Raises:
        BadProfile: the pictures are not those that the plan has answers to.
    """

    def __init__(self, plan: Plan, identity: Identity) -> None:
        self.plan = plan
        self.identity = identity
        self.profile = Profile.parse(plan.profile)
        self.ledger = Ledger(self.profile.seconds, self.profile.stage_at)
        self.index, self.count = 0, 1
        self._zero = math.inf
        self._pictures = pictures(self.profile.images, plan.model, plan.images_folder)
        if fingerprint(self._pictures) != plan.fingerprint:
            raise BadProfile("a worker has other pictures than who leads: it needs the same release and files")
        self._references = [Reference.unpack(each) for each in plan.references]
        self._likely = shares(self._pictures)
        self._priorities = list(self.profile.priorities)
        self._chance = np.random.default_rng(self.profile.seed)
        self._turns: list[Turn] = []
        self._clients: list[Client] = []
        self._next_client = itertools.cycle(range(CONNECTIONS))
        self.under_way = 0
        """Images that are sent and have no outcome yet."""

    def grpc_client(self) -> Client:
        """One of the connections to the gRPC face, in turns; they stay open."""
        while len(self._clients) < CONNECTIONS:
            client = Client(
                self.plan.grpc_url,
                timeout_seconds=self.profile.timeout_seconds,
                max_attempts=1,
                **self.identity.for_client(),
            )
            self._clients.append(client)
        return self._clients[next(self._next_client)]

    def begin(self, index: int, count: int, in_seconds: float) -> None:
        """Set the clock to zero in so many seconds, for this share of the load."""
        self.index, self.count = index, count
        self._chance = np.random.default_rng([self.profile.seed, index])
        self._zero = time.perf_counter() + in_seconds

    def now(self) -> float:
        """Seconds since the load began; negative before."""
        return time.perf_counter() - self._zero

    @property
    def is_over(self) -> bool:
        """Whether no more images are due."""
        return self.now() >= self.profile.seconds

    def schedule(self) -> Schedule:
        """When the images of this share of an open load are due."""
        return self.profile.schedule()[self.index :: self.count]

    def kinds(self, number: int) -> list[str]:
        """Kinds of callers for so many images, by their weights."""
        weights = np.array(list(self.profile.users.values()))
        return [str(kind) for kind in self._chance.choice(list(self.profile.users), number, p=weights / weights.sum())]

    def next(self) -> Turn:
        """What the next caller sends."""
        if not self._turns:
            self._turns = self._draw()
        return self._turns.pop()

    def _draw(self) -> list[Turn]:
        """Many at once: each by itself would cost more time than sending it."""
        chosen = self._chance.choice(len(self._pictures), _DRAWN_AT_ONCE, p=self._likely)
        priorities: list[str | None] = [None] * _DRAWN_AT_ONCE
        if self._priorities:
            weights = np.array(list(self.profile.priorities.values()))
            drawn = self._chance.choice(len(weights), _DRAWN_AT_ONCE, p=weights / weights.sum())
            priorities = [self._priorities[n] for n in drawn]
        return [
            Turn(self._pictures[n], self._references[n], priority)
            for n, priority in zip(chosen, priorities, strict=True)
        ]
