"""What may be done with versions."""

import pytest

from eagleeye.model.decisions import (
    Refused,
    newest_everywhere,
    pinned,
    promotion,
    prunable,
    require_ready,
    require_unused,
    shares,
)
from gateway.rollout import ModelRollout, Rollout, Shadow, promoted, rolled_back


@pytest.mark.parametrize(
    "current, percent, weights",
    [
        ({1: 100}, 100, {2: 100}),
        ({1: 100}, 5, {1: 95, 2: 5}),
        ({1: 95, 2: 5}, 50, {1: 50, 2: 50}),
        ({1: 1, 3: 3}, 20, {1: 20, 3: 60, 2: 20}),
        ({1: 0, 3: 7}, 1, {3: 99, 2: 1}),
        ({}, 100, {2: 100}),
    ],
)
def test_a_canary_takes_its_share_from_all(current, percent, weights):
    """The others keep theirs among each other."""
    assert promotion(current, 2, percent) == pytest.approx(weights)


@pytest.mark.parametrize("current", [{}, {2: 100}, {2: 1, 1: 0}])
def test_a_canary_needs_somebody_beside_it(current):
    """The rest of the requests would have nowhere to go."""
    with pytest.raises(Refused, match=r"version 2 serves alone, .* the remaining 95 %"):
        promotion(current, 2, 5)


def test_shares_are_percentages():
    """Of what has a weight."""
    assert shares({3: 19, 4: 1, 5: 0}) == {3: 95, 4: 5}
    assert shares({}) == {}


def test_a_pinned_version_is_where_a_rollback_leads():
    """Without it, the rollback would lead to the newest version, which is the one that was promoted."""
    rollout = pinned(Rollout({"t": ModelRollout({7: 1})}), "ns", 1)

    assert rolled_back(promoted(rollout, "ns", {2: 100}), "ns").of("ns").weights == {1: 100}
    assert pinned(rollout, "ns", 2) == rollout
    assert rollout.of("t").weights == {7: 1}


def test_pinning_keeps_the_shadow():
    """It says who answers, and nothing else."""
    shadow = Shadow(3, 10)

    assert pinned(Rollout({"ns": ModelRollout(shadow=shadow)}), "ns", 1).of("ns") == ModelRollout(
        {1: 100}, None, shadow
    )


def test_ready_is_ready_everywhere():
    """One Triton without it is enough to refuse, and is named."""
    ready = {"a:1": {1, 2}, "b:1": {1}}

    require_ready([1], ready)
    with pytest.raises(Refused, match="version 2 is not ready on b:1; `eagleeye model load`"):
        require_ready([1, 2], ready)
    assert newest_everywhere(ready) == 1
    assert newest_everywhere(ready, but=[1]) is None
    assert newest_everywhere({}) is None


def test_what_gets_requests_is_not_unloaded():
    """Nor what runs in the shadow; the message says what to do."""
    entry = ModelRollout({1: 19, 2: 1, 3: 0}, {4: 100}, Shadow(5, 10))

    require_unused([3, 4, 6], entry)
    with pytest.raises(Refused, match=r"version 2 gets 5 % of the requests .* or insist with --force"):
        require_unused([2, 3], entry)
    with pytest.raises(Refused, match="version 5 runs in the shadow; end that first"):
        require_unused([5], entry)


@pytest.mark.parametrize(
    "loaded, entry, keep, gone",
    [
        ([1], ModelRollout(), 1, [2, 3, 4, 5]),
        ([1], ModelRollout(), 3, [2, 3]),
        ([1], ModelRollout(), 9, []),
        ([], ModelRollout({2: 1, 3: 0}, {4: 100}, Shadow(5, 10)), 1, [1]),
        ([1, 2, 3, 4, 5, 6], ModelRollout(), 1, []),
    ],
)
def test_what_somebody_needs_is_not_pruned(loaded, entry, keep, gone):
    """Loaded, named by the rollout, or among the newest."""
    assert prunable(range(1, 7), loaded, entry, keep) == gone


def test_the_newest_is_never_pruned():
    """Its number would be given out again."""
    assert prunable([4, 7], [], ModelRollout(), 0) == [4]
