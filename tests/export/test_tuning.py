"""What `eagleeye tune` may change in a config, and when an export keeps it."""

import json

import pytest
from tritonclient.grpc import model_config_pb2 as pb

from export.errors import OptionError
from export.tuning import REASON, Tuning, before_tuning, keeping_tuning, read_tuning, with_reason, with_tuning

BEFORE = Tuning(instances=2)
FOUND = Tuning(instances=1, queue_delay_microseconds=500, preferred_batch_sizes=(4, 8), threads=2)


def config(tuning=BEFORE, graph="abc", **parameters):
    made = pb.ModelConfig(name="detector", backend="onnxruntime", max_batch_size=16)
    made.instance_group.add(count=1)
    for key, value in {"model_sha256": graph, **parameters}.items():
        made.parameters[key].string_value = value
    return with_tuning(made, tuning)


def tuned(**values):
    return with_reason(with_tuning(config(**values), FOUND), BEFORE, {"gain": 1.2})


@pytest.mark.parametrize("tuning", [BEFORE, FOUND, Tuning(3, threads=1)])
def test_what_is_written_is_read(tuning):
    """And the config that it was written into stays as it was."""
    original = config()
    changed = with_tuning(original, tuning)

    assert read_tuning(changed) == tuning
    assert read_tuning(original) == BEFORE


def test_a_config_that_says_nothing_has_one_instance():
    """As Triton takes it."""
    assert read_tuning(pb.ModelConfig()) == Tuning(instances=1)
    assert read_tuning(with_tuning(pb.ModelConfig(), BEFORE)) == BEFORE


def test_several_groups_are_somebodys_own_work():
    """What they mean together cannot be tuned as one number."""
    made = config()
    made.instance_group.add(count=1)

    with pytest.raises(OptionError, match="detector has 2 groups of instances"):
        read_tuning(made)


def test_the_reason_tells_what_stood_there():
    """As JSON, for people and for the next export."""
    reason = json.loads(tuned().parameters[REASON].string_value)

    assert (reason["gain"], reason["before"]["instances"]) == (1.2, 2)
    assert before_tuning(tuned()) == BEFORE
    assert before_tuning(config(FOUND)) == FOUND


def test_the_same_export_keeps_the_tuning():
    """`eagleeye up` exports each time; what else it writes is taken over."""
    kept = keeping_tuning(tuned(), config(map50_95="0.5"))

    assert read_tuning(kept) == FOUND
    assert before_tuning(kept) == BEFORE
    assert kept.parameters["map50_95"].string_value == "0.5"


@pytest.mark.parametrize("new", [config(Tuning(4)), config(graph="other"), config(Tuning(2, 100))])
def test_other_wishes_and_other_graphs_end_it(new):
    """Who gives other options means them; another graph has another best."""
    assert keeping_tuning(tuned(), new) == new


def test_what_was_never_tuned_is_not_kept():
    """An export decides about its own values."""
    assert keeping_tuning(config(FOUND), config()) == config()
