"""Profiles: what a file may say, and what becomes of it."""

import copy
import tomllib

import numpy as np
import pytest

from loadtest.load.profile import OURS, Profile, is_of_capacity, read, resolve
from loadtest.load.table import BadProfile
from tests.conftest import REPOSITORY

MINIMAL = {"title": "t", "load": "open", "stages": [{"seconds": 4, "per_second": 5}]}


def changed(**changes):
    return {**copy.deepcopy(MINIMAL), **changes}


@pytest.mark.parametrize("path", sorted(OURS.glob("*.toml")), ids=lambda path: path.stem)
def test_ours_are_right(path):
    """Each of them parses, has objectives, and is known to the README."""
    profile = Profile.parse(resolve(read(path.stem), capacity_per_second=100.0))
    assert profile.objectives
    assert profile.seconds >= 10
    assert f"`{path.stem}`" in (REPOSITORY / "loadtest" / "README.md").read_text()


def test_there_are_the_profiles_that_are_promised():
    """By these names."""
    assert {path.stem for path in OURS.glob("*.toml")} == {"day", "overload", "ramp", "smoke", "soak", "spike"}


@pytest.mark.parametrize(
    "data, said",
    [
        ({}, "load is missing"),
        (changed(load="half"), "load is 'half'; it must be one of closed, open"),
        (changed(tilte="x"), "tilte is unknown; did you mean title?"),
        (changed(stages=[]), "there is no [[stages]]"),
        (changed(stages={}), "stages is {}; it must be a list of tables, [[stages]]"),
        (changed(stages=[{"seconds": 4}]), "stages[0].per_second is missing"),
        (changed(stages=[{"seconds": 0, "per_second": 1}]), "stages[0].seconds is 0; it must be a number above 0"),
        (
            changed(stages=[{"seconds": True, "per_second": 1}]),
            "stages[0].seconds is True; it must be a number above 0",
        ),
        (
            changed(stages=[{"seconds": 1, "per_second": [1, 2, 3]}]),
            "stages[0].per_second is [1, 2, 3]; it must be a number, or two: at the begin and at the end",
        ),
        (
            changed(stages=[{"seconds": 1, "per_second": -1}]),
            "stages[0].per_second is -1; it must be a number 0 or more",
        ),
        (
            changed(stages=[{"seconds": 1, "users": 1}]),
            "stages[0]: users does not go with open load, whose stages have per_second",
        ),
        (
            changed(load="closed"),
            "stages[0]: per_second does not go with closed load, whose stages have users",
        ),
        (changed(users={"ftp": 1}), "users.ftp is unknown; there are grpc, http, stream"),
        (changed(users={"http": 0}), "there are no users and no cameras"),
        (changed(users={"http": 0}, cameras={"count": 1}), "stages ask for load, and no kind of users has a weight"),
        (changed(cameras={"count": 1.5}), "cameras.count is 1.5; it must be a whole number, 0 or more"),
        (changed(priorities={"urgent": 1}), "priorities.urgent is unknown; there are high, low, normal"),
        (changed(timeout_seconds=601), "timeout_seconds is 601; it must be a number above 0, 600 at most"),
        (
            changed(images={"sizes": [{"wh": [10]}]}),
            "images.sizes[0].wh is [10]; it must be two whole numbers, 1 or more, such as [1920, 1080]",
        ),
        (changed(slo=[{"figure": "p99_ms"}]), "slo[0]: give one of at_most and at_least"),
        (
            changed(slo=[{"figure": "p99_ms", "at_most": 1, "stage": "x"}]),
            "slo[0].stage is 'x'; it must be one of stage 1",
        ),
        (
            changed(slo=[{"figure": "p99_ms", "at_most": 1, "users": "grpc"}]),
            "slo[0].users is 'grpc'; it must be one of http",
        ),
        (
            changed(slo=[{"figure": "staleness_p99_ms", "at_most": 1}]),
            "slo[0].figure is staleness_p99_ms, and there are no cameras",
        ),
    ],
)
def test_what_is_wrong_is_named_by_its_place(data, said):
    """With what is allowed there."""
    with pytest.raises(BadProfile) as refused:
        Profile.parse(data)
    assert str(refused.value) == said


def test_two_stages_of_one_name_are_refused():
    """An objective could mean either."""
    stage = {"name": "a", "seconds": 1, "per_second": 1}
    with pytest.raises(BadProfile, match="two stages have one name: a, a"):
        Profile.parse(changed(stages=[stage, stage]))


def test_shares_of_the_capacity_become_rates():
    """And `level` and `speed` scale all stages."""
    data = changed(stages=[{"seconds": 60, "of_capacity": [0.5, 2]}, {"seconds": 30, "per_second": 7}])
    assert is_of_capacity(data)
    profile = Profile.parse(resolve(data, capacity_per_second=40.0, level=0.5, speed=10))
    assert [(stage.seconds, stage.begin, stage.end) for stage in profile.stages] == [(6, 10, 40), (3, 3.5, 3.5)]
    with pytest.raises(BadProfile, match="not known"):
        resolve(data, capacity_per_second=None)


def test_resolving_leaves_nonsense_for_parsing():
    """Which has the words for it."""
    for stages in (5, [3], [{"seconds": "x", "of_capacity": "y"}]):
        data = resolve(changed(stages=stages), capacity_per_second=1.0)
        with pytest.raises(BadProfile, match="stages"):
            Profile.parse(data)


def test_users_follow_the_stages():
    """Evenly from begin to end of each; the last one's end is kept."""
    data = {"title": "t", "load": "closed", "stages": [{"seconds": 10, "users": [0, 10]}, {"seconds": 5, "users": 3}]}
    profile = Profile.parse(data)
    assert [profile.users_at(seconds) for seconds in (0, 5, 9.9, 10, 14, 99)] == [0, 5, 10, 3, 3, 3]
    assert [profile.stage_at(seconds) for seconds in (-1, 0, 9.9, 10, 15, 99)] == [0, 0, 0, 1, 1, 1]


def test_the_schedule_is_the_same_for_all_who_make_it():
    """Workers take every n-th arrival of it: together they are the whole."""
    profile = Profile.parse(changed(stages=[{"seconds": 4, "per_second": [5, 25]}]))
    whole = profile.schedule()
    assert len(whole) == 60
    shares = [Profile.parse(changed(stages=[{"seconds": 4, "per_second": [5, 25]}])).schedule()[n::3] for n in range(3)]
    assert np.array_equal(np.sort(np.concatenate(shares)), whole)


@pytest.mark.parametrize(
    "name, said",
    [
        ("smok", "no profile 'smok' (No such file or directory); give a file, or one of day, overload, ramp, smoke,"),
        ("broken.toml", "broken.toml is no TOML: "),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch, name, said):
    """With the names that there are."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.toml").write_text("title = ")
    with pytest.raises(BadProfile) as refused:
        read(name)
    assert str(refused.value).startswith(said)


def test_a_file_of_the_users_own_is_read(tmp_path):
    """By its path."""
    (tmp_path / "own.toml").write_text('title = "own"')
    assert read(str(tmp_path / "own.toml")) == tomllib.loads('title = "own"')
