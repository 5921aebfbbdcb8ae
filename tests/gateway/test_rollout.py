"""The rollout file: what may stand in it, whom a version answers, and what an operator does to it. Pure."""

from collections import Counter

import orjson
import pytest

from gateway.rollout import (
    ModelRollout,
    NothingToRollBack,
    Rollout,
    RolloutFileError,
    Shadow,
    choose,
    dump,
    parse,
    promoted,
    read_rollout,
    rolled_back,
    steady_draw,
    with_shadow,
    without_shadow,
    write_rollout,
)

WHOLE = {
    "models": {
        "ns": {"weights": {"3": 95, "4": 5}, "previous": {"3": 100}, "shadow": {"version": 5, "percent": 12.5}},
        "t": {"shadow": {"version": 2, "percent": 100}},
    }
}
DRAWS = [number / 1000 for number in range(1000)]


def of(weights, previous=None, shadow=None):
    return Rollout({"ns": ModelRollout(weights, previous, shadow)})


def test_what_is_written_is_read_again(tmp_path):
    """Through the file, by the atomic write, with every field."""
    path = tmp_path / "rollout.json"
    write_rollout(path, parse(WHOLE))
    assert orjson.loads(path.read_bytes()) == WHOLE
    assert read_rollout(path) == parse(WHOLE)
    assert [file.name for file in tmp_path.iterdir()] == ["rollout.json"]


def test_a_link_stays_a_link(tmp_path):
    """What it points to is replaced, and not the link."""
    (tmp_path / "link.json").symlink_to(tmp_path / "rollout.json")
    write_rollout(tmp_path / "link.json", parse(WHOLE))
    assert (tmp_path / "link.json").is_symlink()
    assert read_rollout(tmp_path / "rollout.json") == parse(WHOLE)


def test_of_a_model_that_is_not_named_nothing_is_said():
    """No weights, nothing to go back to, no candidate."""
    assert parse(WHOLE).of("other") == ModelRollout()
    assert dump(Rollout()) == {"models": {}}


@pytest.mark.parametrize(
    "content, expected",
    [
        ([], "it must be an object with models"),
        ({}, "it lacks 'models'"),
        ({"models": []}, "'models' must be an object of models by name"),
        ({"models": {}, "more": 1}, "it has a field 'more'; allowed are models"),
        ({"models": {"": {}}}, r"models\[''\]: a model's name is not empty"),
        ({"models": {"ns": 1}}, r"models\['ns'\] must be an object with previous, shadow, weights"),
        (
            {"models": {"ns": {"wieghts": {}}}},
            r"models\['ns'\] has a field 'wieghts'; allowed are previous, shadow, we",
        ),
        ({"models": {"ns": {"weights": [3]}}}, r"models\['ns'\]: 'weights' must be an object of weights by version"),
        (
            {"models": {"ns": {"weights": {"0": 1}}}},
            "'weights' names a version '0'; a version is a whole number from 1",
        ),
        ({"models": {"ns": {"weights": {"03": 1}}}}, "'weights' names a version '03'"),
        ({"models": {"ns": {"weights": {"-3": 1}}}}, "'weights' names a version '-3'"),
        ({"models": {"ns": {"weights": {"٣": 1}}}}, "'weights' names a version"),
        ({"models": {"ns": {"weights": {str(2**63): 1}}}}, "'weights' names a version '9223372036854775808'"),
        ({"models": {"ns": {"weights": {"3": -1}}}}, "the weight of version 3 is -1; it must be a number from 0 to 10"),
        ({"models": {"ns": {"weights": {"3": True}}}}, "the weight of version 3 is True"),
        ({"models": {"ns": {"weights": {"3": "95"}}}}, "the weight of version 3 is '95'"),
        ({"models": {"ns": {"weights": {"3": 1e300}}}}, "the weight of version 3 is 1e"),
        (
            {"models": {"ns": {"weights": {"3": 0, "4": 0}}}},
            "'weights': all weights are 0; at least one must be greater",
        ),
        ({"models": {"ns": {"previous": {"3": 0}}}}, "'previous': all weights are 0"),
        ({"models": {"ns": {"shadow": 5}}}, "'shadow' must be an object with percent, version"),
        ({"models": {"ns": {"shadow": {"version": 5}}}}, "'shadow' lacks 'percent'"),
        (
            {"models": {"ns": {"shadow": {"version": "5", "percent": 1}}}},
            "'version' is '5'; a version is a whole number",
        ),
        ({"models": {"ns": {"shadow": {"version": 5, "percent": 0}}}}, "'percent' is 0; it must be a number greater"),
        ({"models": {"ns": {"shadow": {"version": 5, "percent": 100.5}}}}, "'percent' is 100.5"),
        ({"models": {"ns": {"shadow": {"version": 5, "percent": True}}}}, "'percent' is True"),
    ],
)
def test_a_wrong_entry_is_named(content, expected):
    """The message says which model's, what is wrong, and what is allowed."""
    with pytest.raises(ValueError, match=expected):
        parse(content)


@pytest.mark.parametrize("content, expected", [(b"{", "is no valid JSON"), (b"{}", "is wrong: it lacks 'models'")])
def test_a_wrong_file_is_named(tmp_path, content, expected):
    """Its path and what is wrong with it, in one line."""
    path = tmp_path / "rollout.json"
    path.write_bytes(content)
    with pytest.raises(RolloutFileError, match=expected) as caught:
        read_rollout(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_can_be_neither_read_nor_written(tmp_path):
    """A folder, nothing at all, and a place where nothing can be."""
    for path, expected in ((tmp_path, "must be a regular file"), (tmp_path / "none", "can't be read: No such file")):
        with pytest.raises(RolloutFileError, match=expected):
            read_rollout(path)
    with pytest.raises(RolloutFileError, match="can't be written: No such file"):
        write_rollout(tmp_path / "none" / "rollout.json", Rollout())


@pytest.mark.parametrize(
    "weights, served, expected",
    [
        ({3: 100}, (3, 4), {3: 1000}),
        ({3: 95, 4: 5}, (3, 4), {3: 950, 4: 50}),
        ({3: 1, 4: 3}, (3, 4), {3: 250, 4: 750}),
        ({3: 0, 4: 7}, (3, 4), {4: 1000}),
        ({3: 95, 4: 4, 5: 1}, (4, 5), {4: 800, 5: 200}),
        ({3: 95, 4: 5}, (5,), {None: 1000}),
        ({3: 0, 4: 5}, (3,), {None: 1000}),
        ({}, (3,), {None: 1000}),
    ],
)
def test_versions_get_their_shares(weights, served, expected):
    """Of what is served; what is not leaves its share to the others."""
    assert Counter(choose(weights, served, draw) for draw in DRAWS) == expected


def test_a_canary_that_grows_takes_and_never_gives_back():
    """Who had the new version at 5 % has it at 20 % and at 100 %."""
    steps = ({3: 95, 4: 5}, {3: 80, 4: 20}, {3: 40, 4: 60}, {4: 100})
    had = [{draw for draw in DRAWS if choose(weights, (3, 4), draw) == 4} for weights in steps]
    assert [len(draws) for draws in had] == [50, 200, 600, 1000]
    assert had[0] < had[1] < had[2] < had[3]


def test_a_steady_draw_is_anyones_own():
    """The same in every process, and spread evenly over many."""
    assert steady_draw("ns", "key a sequence 7") == pytest.approx(0xF715E5 / 0x1000000, abs=1e-6)
    assert steady_draw("t", "key a sequence 7") != steady_draw("ns", "key a sequence 7")
    draws = [steady_draw("ns", f"camera {number}") for number in range(10_000)]
    assert all(0 <= draw < 1 for draw in draws)
    shares = Counter(choose({3: 95, 4: 5}, (3, 4), draw) for draw in draws)
    assert shares[4] / 10_000 == pytest.approx(0.05, abs=0.01)


def test_a_promotion_notes_what_was_before():
    """The first one can be rolled back to the default, which has no weights."""
    first = promoted(Rollout(), "ns", {3: 100})
    assert dump(first) == {"models": {"ns": {"weights": {"3": 100}, "previous": {}}}}
    assert promoted(first, "ns", {3: 95, 4: 5}).of("ns") == ModelRollout({3: 95, 4: 5}, {3: 100})


def test_the_steps_of_a_canary_are_one_promotion():
    """A rollback at any of them leaves the new version altogether."""
    rollout = of({3: 100}, previous={2: 100})
    for weights in ({3: 95, 4: 5}, {3: 50, 4: 50}, {4: 100}):
        rollout = promoted(rollout, "ns", weights)
        assert rolled_back(rollout, "ns").of("ns").weights == {3: 100}
    assert promoted(rollout, "ns", {5: 100}).of("ns").previous == {4: 100}


def test_a_version_of_no_weight_is_new_when_it_gets_some():
    """0 holds a place in the file and serves nobody."""
    rollout = of({3: 100, 4: 0}, previous={2: 100})
    assert promoted(rollout, "ns", {3: 95, 4: 5}).of("ns").previous == {3: 100, 4: 0}


def test_a_rollback_goes_one_step():
    """Not back and forth: a second one would bring back what was just left."""
    back = rolled_back(of({4: 100}, previous={3: 100}), "ns")
    assert back.of("ns") == ModelRollout({3: 100})
    for rollout in (back, Rollout()):
        with pytest.raises(NothingToRollBack, match="nothing to roll ns back to"):
            rolled_back(rollout, "ns")


def test_back_at_the_default_nothing_is_left_in_the_file():
    """As if it had never been touched."""
    assert rolled_back(promoted(Rollout(), "ns", {3: 100}), "ns") == Rollout()


def test_a_shadow_comes_and_goes_beside_the_weights():
    """Neither touches the other, nor another model."""
    rollout = with_shadow(parse(WHOLE), "ns", 6, 1)
    assert rollout.of("ns") == ModelRollout({3: 95, 4: 5}, {3: 100}, Shadow(6, 1))
    assert promoted(rollout, "ns", {4: 100}).of("ns").shadow == Shadow(6, 1)
    assert without_shadow(rollout, "ns").of("ns") == ModelRollout({3: 95, 4: 5}, {3: 100})
    assert without_shadow(rollout, "t").models.keys() == {"ns"}
    assert parse(WHOLE).of("ns").shadow == Shadow(5, 12.5)


@pytest.mark.parametrize("weights", [{}, {0: 1}, {3: -1}, {3: 0}, {3: float("nan")}])
def test_weights_that_are_none_are_refused(weights):
    """In the operator's hands as in the file."""
    with pytest.raises(ValueError, match="weight"):
        promoted(Rollout(), "ns", weights)
