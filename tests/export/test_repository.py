"""Publication into a model repository: complete or not at all, whatever happens."""

import hashlib
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from export.errors import OptionError, RepositoryError
from export.repository import (
    ModelDescription,
    find_published,
    loading,
    model_config,
    publish,
    remove_versions,
    replace_config,
    serve,
    swap_config,
    validate_name,
)


def description(**changes):
    values = {
        "name": "detector",
        "variant": "Ns",
        "labels": ("open", "short"),
        "size": 64,
        "candidates": 50,
        "max_batch_size": 8,
        "instances": 2,
        "queue_delay_microseconds": 2000,
        "score_threshold": 0.4,
        "iou_threshold": 0.65,
        "map50_95": None,
        "tensorrt_accelerator": None,
        "checkpoint_sha256": "c" * 64,
        "exporter_version": "1.2.3",
        "export_key": "k" * 64,
    }
    return ModelDescription(**{**values, **changes})


def config_for(model, **changes):
    return model_config(description(**changes), hashlib.sha256(model).hexdigest())


def tree(directory):
    """Every path below, relative; hidden ones too."""
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


@pytest.fixture
def repository(tmp_path):
    return tmp_path / "repository"


def test_first_version(tmp_path, repository):
    """A new name gets a config and version 1, in a repository made on the way; nothing else is left on the disk."""
    published = publish(repository, config_for(b"graph"), b"graph")

    assert published.version == 1
    assert published.model_file.read_bytes() == b"graph"
    assert tree(tmp_path) == [
        "repository",
        "repository/detector",
        "repository/detector/1",
        "repository/detector/1/facts.json",
        "repository/detector/1/model.onnx",
        "repository/detector/config.pbtxt",
    ]


def test_versions_only_grow(repository):
    """The next version is one more than the newest, also where older ones are gone, and the config is the newest's."""
    publish(repository, config_for(b"first"), b"first")
    (repository / "detector" / "1").rename(repository / "detector" / "41")

    published = publish(repository, config_for(b"second"), b"second")

    assert published.version == 42
    assert find_published(repository, "detector").parameter("model_sha256") == hashlib.sha256(b"second").hexdigest()
    assert (repository / "detector" / "41" / "model.onnx").read_bytes() == b"first"


def test_an_export_does_not_change_what_is_loaded(repository):
    """The first version is loaded by whoever starts; a later one waits until it is asked for."""
    assert publish(repository, config_for(b"first"), b"first").loaded == (1,)
    assert publish(repository, config_for(b"second"), b"second").loaded == (1,)

    published = find_published(repository, "detector")
    replace_config(published, model_config(description(instances=7), "digest"))

    assert (published.version, published.versions) == (2, (1, 2))
    assert find_published(repository, "detector").loaded == (1,)


def test_a_policy_of_the_latest_becomes_one_of_numbers(repository):
    """A repository of an older release: what it loads now stays loaded, also while the next version comes."""
    published = publish(repository, config_for(b"first"), b"first")
    published.config.version_policy.latest.num_versions = 1
    config_file = published.directory / "config.pbtxt"
    config_file.write_text(text_format.MessageToString(published.config))

    assert find_published(repository, "detector").loaded == (1,)
    assert publish(repository, config_for(b"second"), b"second").loaded == (1,)


def test_each_version_keeps_its_facts(repository):
    """The config tells of the newest only; of a version from before such files, nothing is known."""
    for content, precision in ((b"first", "fp32"), (b"second", "fp16"), (b"third", "int8")):
        publish(repository, config_for(content, precision=precision), content)
    (repository / "detector" / "2" / "facts.json").unlink()
    (repository / "detector" / "3" / "facts.json").unlink()
    published = find_published(repository, "detector")
    replace_config(published, config_for(b"third", precision="int8", map50_95=0.57))

    published = find_published(repository, "detector")
    assert published.facts(1)["model_sha256"] == hashlib.sha256(b"first").hexdigest()
    assert [published.facts(version).get("precision") for version in (1, 2, 3)] == ["fp32", None, "int8"]
    assert published.facts(3)["map50_95"] == "0.57"


def test_numbers_are_never_used_again(repository):
    """What is deleted is gone in one step, and the newest stays, so that the next number is a new one."""
    for _ in range(3):
        publish(repository, config_for(b"graph"), b"graph")
    published = find_published(repository, "detector")
    for kept in (1, 3):
        with pytest.raises(RepositoryError, match=f"version {kept} of .* is loaded or the newest, and stays"):
            remove_versions(published, [2, kept])
    assert find_published(repository, "detector").versions == (1, 2, 3)

    remove_versions(published, [2])

    assert find_published(repository, "detector").versions == (1, 3)
    assert publish(repository, config_for(b"graph"), b"graph").version == 4
    assert [path.name for path in repository.parent.iterdir()] == ["repository"]


def test_nobody_else_is_written_over(repository):
    """Versions are deleted, and configs replaced, only as long as the model is as it was read."""
    publish(repository, config_for(b"graph"), b"graph")
    publish(repository, config_for(b"graph"), b"graph")
    read = find_published(repository, "detector")
    before = (read.directory / "config.pbtxt").read_bytes()
    serve(read, loading(read.config, [2]))

    with pytest.raises(RepositoryError, match="was changed by somebody else just now"):
        remove_versions(read, [1])
    with pytest.raises(RepositoryError, match="was changed by somebody else just now"):
        swap_config(read, before, b"")
    assert find_published(repository, "detector").loaded == (2,)


def test_others_may_read(repository):
    """What is published has the modes of any new file: Triton runs as another user."""
    mask = os.umask(0o022)
    try:
        published = publish(repository, config_for(b"graph"), b"graph")
    finally:
        os.umask(mask)

    assert published.directory.stat().st_mode & 0o777 == 0o755
    assert published.model_file.parent.stat().st_mode & 0o777 == 0o755
    assert published.model_file.stat().st_mode & 0o777 == 0o644


def test_config(repository):
    """The file parses back into the very message, and says what Triton and the gateway must know."""
    config = config_for(b"graph", labels=("Mäuse", 'a "quote"'), map50_95=0.587)
    publish(repository, config, b"graph")
    text = (repository / "detector" / "config.pbtxt").read_text(encoding="utf-8")

    assert text_format.Parse(text, pb.ModelConfig()) == config
    assert (config.name, config.backend, config.max_batch_size) == ("detector", "onnxruntime", 8)
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [("images", pb.TYPE_UINT8, [64, 64, 3])]
    assert [(o.name, o.data_type, list(o.dims)) for o in config.output] == [
        ("boxes", pb.TYPE_FP32, [50, 4]),
        ("scores", pb.TYPE_FP32, [50]),
        ("class_ids", pb.TYPE_INT32, [50]),
    ]
    assert config.dynamic_batching.max_queue_delay_microseconds == 2000
    assert [(g.count, g.kind) for g in config.instance_group] == [(2, pb.ModelInstanceGroup.KIND_AUTO)]
    assert [(w.batch_size, list(w.inputs["images"].dims)) for w in config.model_warmup] == [
        (1, [64, 64, 3]),
        (2, [64, 64, 3]),
        (4, [64, 64, 3]),
        (8, [64, 64, 3]),
    ]
    assert {key: value.string_value for key, value in config.parameters.items()} == {
        "labels": '["Mäuse", "a \\"quote\\""]',
        "resize": "stretch",
        "variant": "Ns",
        "precision": "fp32",
        "opset": "17",
        "score_threshold": "0.4",
        "iou_threshold": "0.65",
        "map50_95": "0.587",
        "checkpoint_sha256": "c" * 64,
        "model_sha256": hashlib.sha256(b"graph").hexdigest(),
        "exporter_version": "1.2.3",
        "export_key": "k" * 64,
    }


@pytest.mark.parametrize("largest, sizes", [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (16, [1, 2, 4, 8, 16])])
def test_batch_sizes_to_warm_up(largest, sizes):
    """Each batch size has one warm-up sample with a name of its own, the largest included."""
    samples = config_for(b"", max_batch_size=largest).model_warmup

    assert [sample.batch_size for sample in samples] == sizes
    assert len({sample.name for sample in samples}) == len(sizes)


def test_measured_facts_and_precision_are_parameters():
    """What a model computes in and what it reached stand in its config; what nobody measured does not."""
    measured = config_for(
        b"",
        precision="int8",
        float_layers=("neck.bu_conv13",),
        map50_95=0.57,
        map50_95_fp32=0.58,
        evaluated_on="a" * 64,
    ).parameters

    assert measured["precision"].string_value == "int8"
    assert measured["float_layers"].string_value == '["neck.bu_conv13"]'
    assert [measured[key].string_value for key in ("map50_95", "map50_95_fp32", "evaluated_on")] == [
        "0.57",
        "0.58",
        "a" * 64,
    ]
    assert not {"float_layers", "map50_95", "map50_95_fp32", "evaluated_on"} & set(config_for(b"").parameters)


@pytest.mark.parametrize(
    "changes, differing",
    [
        ({"labels": ("short", "open")}, "labels"),
        ({"size": 96}, "input"),
        ({"candidates": 10}, "outputs"),
    ],
    ids=["labels", "size", "candidates"],
)
def test_another_model_under_the_name_is_refused(repository, changes, differing):
    """All versions of a name have one interface; the refusal says what to do, and changes nothing."""
    publish(repository, config_for(b"graph"), b"graph")
    before = tree(repository)

    with pytest.raises(RepositoryError, match=f"with other {differing}, and its callers"):
        publish(repository, config_for(b"other", **changes), b"other")

    assert tree(repository) == before


@pytest.mark.parametrize(
    "config, reason",
    [(None, "No such file or directory"), ("this is no config {", "1:1 : .* no field named .*")],
    ids=["no config", "broken config"],
)
def test_foreign_directory_is_refused(repository, config, reason):
    """A directory that no export wrote is neither overwritten nor taken for a model; it is told what is wrong."""
    (repository / "detector").mkdir(parents=True)
    if config:
        (repository / "detector" / "config.pbtxt").write_text(config)

    with pytest.raises(RepositoryError, match=rf"detector has no readable config.pbtxt \({reason}\)"):
        publish(repository, config_for(b"graph"), b"graph")


def test_only_what_triton_takes_for_a_version_counts(repository):
    """Neither a file nor a number that it can't hold."""
    publish(repository, config_for(b"graph"), b"graph")
    (repository / "detector" / "7").touch()
    for name in (str(2**63), "01", "2.bak"):
        (repository / "detector" / name).mkdir()

    assert find_published(repository, "detector").versions == (1,)


def test_repository_that_is_a_file(tmp_path):
    """What is in the way is named in one line."""
    (tmp_path / "file").write_text("")

    with pytest.raises(RepositoryError, match=r"cannot write the model repository .*file"):
        publish(tmp_path / "file", config_for(b"graph"), b"graph")


def test_new_config_for_the_same_version(repository):
    """A config can be replaced without a new version."""
    published = publish(repository, config_for(b"graph"), b"graph")

    replace_config(published, config_for(b"graph", instances=7))

    found = find_published(repository, "detector")
    assert (found.version, found.config.instance_group[0].count) == (1, 7)


def test_holds_compares_bytes(repository):
    """A graph that was changed on the disk, or is gone, does not count as published."""
    published = publish(repository, config_for(b"graph"), b"graph")
    assert published.holds("k" * 64)
    assert not published.holds("x" * 64)

    published.model_file.write_bytes(b"grapH")
    assert not published.holds("k" * 64)

    published.model_file.unlink()
    assert not published.holds("k" * 64)


@pytest.mark.parametrize("name", ["deeppcb", "damoyolo_t-v2.1", "_x", "-", "7", "a" * 128])
def test_good_names(name):
    """Letters, digits, '_', '-' and '.'."""
    validate_name(name)


@pytest.mark.parametrize("name", ["", ".hidden", "..", "a/b", "a b", "a\n", "müller", "a" * 129, "a\x00"], ids=repr)
def test_bad_names(name):
    """Nothing that leaves the repository, hides in it or needs quoting."""
    with pytest.raises(OptionError, match="the model name"):
        validate_name(name)


# ---------------------------------------------------------------------------------------- failures, crashes, neighbours


@pytest.mark.parametrize("existing", [False, True], ids=["first version", "next version"])
def test_failed_write_leaves_nothing(tmp_path, repository, existing, monkeypatch):
    """A full disk is one clear error, and what was there is there as before."""
    if existing:
        publish(repository, config_for(b"old"), b"old")
    repository.mkdir(exist_ok=True)
    before = tree(tmp_path)

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(RepositoryError, match="No space left on device"):
        publish(repository, config_for(b"new"), b"new")

    assert tree(tmp_path) == before


KILL_AT_EVERY_STEP = """
import itertools, os, pathlib, sys
from export.repository import publish
from tests.export.test_repository import config_for

top, existing = pathlib.Path(sys.argv[1]), sys.argv[2] == "existing"
STEPS = {"open", "os.mkdir", "os.rename", "os.rmdir", "os.remove"}

def die_at(step):
    seen = itertools.count()
    sys.addaudithook(lambda event, _: os._exit(9) if event in STEPS and next(seen) == step else None)

for step in itertools.count():
    repository = top / str(step) / "repository"
    if existing:
        publish(repository, config_for(b"old"), b"old")
    child = os.fork()
    if child == 0:
        die_at(step)
        publish(repository, config_for(b"new"), b"new")
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:  # the process outlived all its steps
        break
"""


def visible_model(repository):
    """What Triton finds: (the config's digest, {version: graph}), or None where there is no directory at all."""
    found = list(repository.iterdir()) if repository.exists() else []  # it does not skip hidden ones
    if not found:
        return None
    assert found == [repository / "detector"]
    config = text_format.Parse((found[0] / "config.pbtxt").read_text(), pb.ModelConfig())
    versions = {path.name: (path / "model.onnx").read_bytes() for path in found[0].iterdir() if path.is_dir()}
    return config.parameters["model_sha256"].string_value, versions


@pytest.mark.parametrize("existing", [False, True], ids=["first version", "next version"])
def test_killed_at_any_step(tmp_path, existing):
    """Whenever the process is killed, Triton sees the old state or the new one, and the next export tidies up."""
    arguments = [sys.executable, "-c", KILL_AT_EVERY_STEP, str(tmp_path), "existing" if existing else "none"]
    subprocess.run(arguments, cwd=Path(__file__).parents[2], check=True, timeout=60)
    old, new = (hashlib.sha256(graph).hexdigest() for graph in (b"old", b"new"))
    if existing:
        allowed = [(old, {"1": b"old"}), (old, {"1": b"old", "2": b"new"}), (new, {"1": b"old", "2": b"new"})]
    else:
        allowed = [None, (new, {"1": b"new"})]
    seen = []

    for place in sorted(tmp_path.iterdir(), key=lambda path: int(path.name)):
        seen.append(visible_model(place / "repository"))
        assert seen[-1] in allowed, place.name

        publish(place / "repository", config_for(b"next"), b"next")
        assert tree(place)[0] == "repository", "something was left beside it"

    assert len(seen) > 10
    assert all(state in seen for state in allowed), "the test must meet every state"


def test_readers_never_see_half_a_version(repository):
    """A reader that looks all the time finds every version with its whole graph, and always a readable config."""
    graph = os.urandom(1 << 20)
    publish(repository, config_for(graph), graph)
    done = threading.Event()

    def read():
        looks = 0
        while not done.is_set() or looks == 0:
            _, versions = visible_model(repository)
            assert all(content == graph for content in versions.values())
            looks += 1
        return looks

    with ThreadPoolExecutor() as pool:
        looks = pool.submit(read)
        for _ in range(15):
            publish(repository, config_for(graph), graph)
        done.set()

        assert looks.result() > 1


def test_exports_at_the_same_time(tmp_path, repository):
    """Exports that publish at once wait for one another: each gets a version of its own."""
    with ThreadPoolExecutor(8) as pool:
        published = list(pool.map(lambda _: publish(repository, config_for(b"graph"), b"graph"), range(16)))

    assert sorted(model.version for model in published) == list(range(1, 17))
    assert [path.name for path in tmp_path.iterdir()] == ["repository"]


def test_staging_inside_where_beside_is_another_file_system(tmp_path, repository, monkeypatch):
    """A mounted repository is written too, and keeps nothing of the way."""
    monkeypatch.setattr("export.repository._can_stage", lambda *_: False)

    publish(repository, config_for(b"graph"), b"graph")

    assert [path.name for path in tmp_path.iterdir()] == ["repository"]
    assert [path.name for path in repository.iterdir()] == ["detector"]
