"""Which endpoint takes a call. Pure: the state of the endpoints and a source of randomness in, a choice out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from random import Random


class Candidate(Protocol):
    """What the choice depends on."""

    @property
    def is_ejected(self) -> bool:
        """Whether it answers probes, but has failed or stalled so that it should get nothing for a while."""

    @property
    def ejections(self) -> int:
        """How often that has happened in a row."""

    @property
    def share(self) -> float:
        """The part of a full endpoint's calls that it should get, in [0, 1]; less than 1 while it warms up."""

    @property
    def outstanding(self) -> int:
        """Calls that it is working on."""


C = TypeVar("C", bound=Candidate)


def usable(candidates: Iterable[C]) -> list[C]:
    """Those that are not ejected; of the ejected ones the best, until half of all are there.

    So one endpoint's fault costs one endpoint, while a fault that all seem to have, which may as well be a
    misjudgement, does not heap everything on the last one that is left (Envoy calls this panic mode).
    """
    everyone = list(candidates)
    healthy = [each for each in everyone if not each.is_ejected]
    missing = (len(everyone) + 1) // 2 - len(healthy)
    if missing <= 0:
        return healthy
    ejected = [each for each in everyone if each.is_ejected]
    return healthy + sorted(ejected, key=lambda each: (each.ejections, each.outstanding))[:missing]


def pick(candidates: Sequence[C], random: Random) -> C:
    """The one with less outstanding work of two random ones.

    Two are enough to keep the fullest close to the mean, and several gateways that act alike do not all rush to the
    same endpoint (M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001). One that warms up
    stands for election only as often as its share says.
    """
    full = [each for each in candidates if (share := each.share) >= 1 or random.random() < share] or list(candidates)
    if len(full) == 1:
        return full[0]
    one, other = random.sample(full, 2)
    return other if other.outstanding < one.outstanding else one
