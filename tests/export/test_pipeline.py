"""A whole export: from the shipped checkpoint to a published model, and a second time to nothing at all."""

import dataclasses
import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch

import export.build
from export.errors import CheckpointError, GraphError, OptionError, RepositoryError, VerificationError
from export.onnx import export_onnx
from export.pipeline import export_model
from export.precision_options import GateOptions
from export.repository import as_text, file_sha256, find_published, swap_config
from export.tuning import Tuning, read_tuning, with_reason, with_tuning
from export.variants import VARIANTS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def small(shipped, tmp_path_factory):
    """Options of an export that was done at a size that is quick."""
    options = dataclasses.replace(shipped, repository=tmp_path_factory.mktemp("small") / "repository", size=64)
    export_model(options)
    return options


@pytest.fixture
def copied(small, tmp_path):
    """The same, in a copy of the repository that a test may change."""
    shutil.copytree(small.repository, tmp_path / "repository")
    return dataclasses.replace(small, repository=tmp_path / "repository")


@pytest.fixture
def no_build(monkeypatch):
    """Fail the test if an export begins to build a graph."""

    def build(*_args, **_options):
        pytest.fail("the graph is already there")

    monkeypatch.setattr(export.build, "build", build)


def test_summary(exported, shipped):
    """The summary tells what was made, where, how big, and how exact."""
    assert exported.outcome == "published"
    assert exported.model.directory == shipped.repository / "deeppcb"
    assert exported.model.version == 1
    assert exported.built.parameters == 1_384_749
    assert exported.built.gflops == pytest.approx(1.470, abs=0.001)
    assert exported.built.differences.within(VARIANTS["Ns"].tolerance)
    assert exported.built.onnx == exported.model.model_file.read_bytes()


def test_config_equals_graph(exported):
    """Names, types and sizes in the published config are those of the published graph."""
    session = onnxruntime.InferenceSession(exported.model.model_file, providers=["CPUExecutionProvider"])
    config = exported.model.config
    types = {"tensor(uint8)": "TYPE_UINT8", "tensor(float)": "TYPE_FP32", "tensor(int32)": "TYPE_INT32"}

    for tensors, entries in ((session.get_inputs(), config.input), (session.get_outputs(), config.output)):
        names = [entry.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number for entry in entries]
        assert [(t.name, types[t.type], t.shape) for t in tensors] == [
            (entry.name, by_number[entry.data_type].name, ["batch", *entry.dims])
            for entry, by_number in zip(entries, names, strict=True)
        ]


def test_config_tells_what_was_exported(exported, shipped):
    """Parameters hold the digest of the checkpoint, the labels in order, and the variant's thresholds."""
    parameter = exported.model.parameter

    assert parameter("checkpoint_sha256") == hashlib.sha256(shipped.checkpoint.read_bytes()).hexdigest()
    assert json.loads(parameter("labels")) == ["open", "short", "mousebite", "spur", "copper", "pin-hole"]
    assert [parameter(key) for key in ("variant", "resize", "precision")] == ["Ns", "stretch", "fp32"]
    assert [parameter(key) for key in ("score_threshold", "iou_threshold")] == ["0.4", "0.65"]


@pytest.mark.usefixtures("exported", "no_build")
def test_second_export_does_nothing(shipped):
    """The same options again: nothing is built, nothing is written."""
    config_file = shipped.repository / "deeppcb" / "config.pbtxt"
    before = config_file.stat().st_mtime_ns

    summary = export_model(shipped)

    assert (summary.outcome, summary.model.version, summary.built) == ("unchanged", 1, None)
    assert config_file.stat().st_mtime_ns == before
    assert summary.seconds < 1


@pytest.mark.usefixtures("exported")
def test_second_export_needs_no_torch(shipped):
    """That nothing is to do is found without torch, onnx or ONNX Runtime: it must be quick."""
    code = (
        "import sys; from pathlib import Path; from export.pipeline import ExportOptions, export_model\n"
        "variant, checkpoint, labels, name, repository = sys.argv[1:]\n"
        "summary = export_model(ExportOptions(variant, Path(checkpoint), Path(labels), name, Path(repository)))\n"
        "print(summary.outcome, *({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    arguments = [shipped.variant, shipped.checkpoint, shipped.labels, shipped.name, shipped.repository]

    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == ["unchanged"]


@pytest.mark.usefixtures("no_build")
def test_new_serving_options_keep_the_graph(copied):
    """Options that only the config holds give a new config, and no new version."""
    summary = export_model(dataclasses.replace(copied, instances=5, max_batch_size=4, score_threshold=0.25))

    found = find_published(copied.repository, "deeppcb")
    assert (summary.outcome, summary.model.version, found.version) == ("reconfigured", 1, 1)
    assert (found.config.instance_group[0].count, found.config.max_batch_size) == (5, 4)
    assert found.parameter("score_threshold") == "0.25"


@pytest.mark.usefixtures("no_build")
def test_a_tuned_model_stays_tuned(copied):
    """What `eagleeye tune` wrote is kept by the same export, and gives way to another wish."""
    published = find_published(copied.repository, "deeppcb")
    found = Tuning(instances=1, queue_delay_microseconds=700, threads=2)
    tuned = with_reason(with_tuning(published.config, found), read_tuning(published.config), {})
    swap_config(published, as_text(published.config), as_text(tuned))

    assert export_model(copied).outcome == "unchanged"
    assert read_tuning(find_published(copied.repository, "deeppcb").config) == found
    export_model(dataclasses.replace(copied, instances=3))
    assert read_tuning(find_published(copied.repository, "deeppcb").config) == Tuning(instances=3)


def test_damaged_graph_is_replaced(copied):
    """A graph that was changed on the disk is exported anew, as the next version, with the same bytes as before."""
    first = find_published(copied.repository, "deeppcb").model_file
    undamaged = first.read_bytes()
    first.write_bytes(undamaged[:-1])

    summary = export_model(copied)

    assert (summary.outcome, summary.model.version) == ("published", 2)
    assert summary.model.model_file.read_bytes() == undamaged


def test_other_checkpoint_is_the_next_version(copied, tmp_path):
    """Another checkpoint with the same labels becomes version 2 beside version 1."""
    weights = torch.load(copied.checkpoint, weights_only=True)
    weights["model"]["head.gfl_cls.0.bias"] += 0.1
    torch.save(weights, tmp_path / "retrained.pth")

    summary = export_model(dataclasses.replace(copied, checkpoint=tmp_path / "retrained.pth"))

    assert (summary.outcome, summary.model.version) == ("published", 2)
    assert sorted(path.name for path in summary.model.directory.iterdir()) == ["1", "2", "config.pbtxt"]
    assert summary.model.parameter("checkpoint_sha256") == file_sha256(tmp_path / "retrained.pth")


@pytest.mark.usefixtures("no_build")
@pytest.mark.parametrize("changes", [{"size": 320}, {"top_k": 10}], ids=["size", "candidates"])
def test_other_interface_is_refused_at_once(copied, changes):
    """What would break the callers of a published model is refused before the time is spent on building."""
    with pytest.raises(RepositoryError, match="Choose another name"):
        export_model(dataclasses.replace(copied, **changes))


def test_failed_verification_leaves_nothing(shipped, tmp_path, monkeypatch):
    """A graph that computes something else is not published, and the repository isn't even made."""

    def wrong(model):
        with torch.no_grad():
            model.detector.head.gfl_cls[0].bias += 1
        return export_onnx(model)

    monkeypatch.setattr(export.build, "export_onnx", wrong)

    with pytest.raises(VerificationError, match="differs from torch"):
        export_model(dataclasses.replace(shipped, repository=tmp_path / "repository", size=64))

    assert list(tmp_path.iterdir()) == []


def test_graph_that_tensorrt_refuses_leaves_nothing(shipped, tmp_path, monkeypatch):
    """A graph that GPUs could not run one day is not published, though ONNX Runtime runs it."""
    monkeypatch.setattr("export.tensorrt_support.MAX_TOP_K", 50)

    with pytest.raises(GraphError, match="its K is 84, and at most 50 are possible"):
        export_model(dataclasses.replace(shipped, repository=tmp_path / "repository", size=64))

    assert list(tmp_path.iterdir()) == []


def test_wrong_checkpoint_leaves_nothing(shipped, tmp_path):
    """Nor does a checkpoint of another variant leave anything."""
    with pytest.raises(CheckpointError, match="it fits variant Ns"):
        export_model(dataclasses.replace(shipped, repository=tmp_path / "repository", variant="Nm"))

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"variant": "XL"}, "no variant 'XL'; choose from Ns, Nm, N, Nl, T, S, M, L"),
        ({"name": "../up"}, "the model name '../up' must be"),
        ({"size": 100}, "multiple of 32 pixels, not 100"),
        ({"size": 0}, "multiple of 32 pixels, not 0"),
        ({"top_k": 0}, "top-k must be from 1 to 3840, not 0"),
        ({"top_k": 3841}, "top-k must be from 1 to 3840, not 3841"),
        ({"max_batch_size": 0}, "largest batch size must be at least 1, not 0"),
        ({"instances": -1}, "number of instances must be at least 1, not -1"),
        ({"queue_delay_microseconds": -1}, "queue delay must be at least 0, not -1"),
        ({"score_threshold": 1.5}, "score threshold must lie between 0 and 1, not 1.5"),
        ({"score_threshold": float("nan")}, "score threshold must lie between 0 and 1, not nan"),
        ({"map50_95": 58.7}, "mAP must lie between 0 and 1, not 58.7"),
        ({"precision": "int4"}, "no precision 'int4'; choose from fp32, fp16, int8"),
        ({"precision": "int8"}, "int8 needs a folder of calibration images"),
        ({"precision": "fp16", "calibration": ROOT}, "calibration images and float layers are for int8, not for fp16"),
        ({"float_layers": "none"}, "calibration images and float layers are for int8, not for fp32"),
        ({"precision": "int8", "calibration": Path("nowhere")}, "cannot read the calibration folder nowhere"),
        ({"gate": GateOptions(ROOT, ROOT), "map50_95": 0.5}, "the gate measures mAP; don't tell it as well"),
        ({"labels": Path("nowhere.txt")}, "cannot read the labels file nowhere.txt"),
        ({"checkpoint": Path("nowhere.pth")}, "cannot read the checkpoint nowhere.pth"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(f"{k}={v}" for k, v in value.items()),
)
@pytest.mark.usefixtures("no_build")
def test_impossible_options(shipped, tmp_path, changes, complaint):
    """Each impossible option is refused with its value, before anything is done."""
    with pytest.raises(OptionError, match=re.escape(complaint)):
        export_model(dataclasses.replace(shipped, **{"repository": tmp_path / "repository", **changes}))

    assert list(tmp_path.iterdir()) == []


def test_progress_names_every_step(shipped, tmp_path):
    """The caller hears of each step before it begins."""
    steps = []

    export_model(dataclasses.replace(shipped, repository=tmp_path / "repository", size=64), steps.append)

    verbs = ["looking", "loading", "running", "exporting", "comparing", "publishing"]
    assert [step.split()[0] for step in steps] == verbs


@pytest.fixture(scope="module")
def lower(small, calibration_folder, tmp_path_factory):
    """By precision options in one repository, after FP32, and what an export and a second one of the same did."""
    repository = tmp_path_factory.mktemp("lower") / "repository"
    shutil.copytree(small.repository, repository)
    fp16 = dataclasses.replace(small, repository=repository, precision="fp16")
    int8 = dataclasses.replace(fp16, precision="int8", calibration=calibration_folder, float_layers="none")
    return {options.precision: (options, export_model(options), export_model(options)) for options in (fp16, int8)}


@pytest.mark.parametrize("precision, version", [("fp16", 2), ("int8", 3)])
def test_lower_precision(small, lower, precision, version):
    """Another precision is another graph of the same interface: the next version. A second export does nothing."""
    _, summary, again = lower[precision]

    assert (summary.outcome, summary.model.version) == ("published", version)
    assert summary.model.parameter("precision") == precision
    assert len(summary.built.onnx) < 0.6 * len(summary.built.fp32)
    assert summary.built.fp32 == (small.repository / "deeppcb" / "1" / "model.onnx").read_bytes()
    assert (again.outcome, again.model.config) == ("unchanged", summary.model.config)


def test_another_process_writes_the_same_repository(small, lower, tmp_path):
    """All precisions, graphs, configs and facts, byte by byte, whatever the order of sets and the time of day."""
    here, there = lower["int8"][0].repository, tmp_path / "there"
    done = (small, lower["fp16"][0], lower["int8"][0])
    exports = [dataclasses.replace(options, repository=there) for options in done]
    code = (
        "import pickle, sys\n"
        "from export.pipeline import export_model\n"
        "for options in pickle.load(sys.stdin.buffer):\n"
        "    export_model(options)"
    )

    subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(exports),
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        check=True,
    )

    assert len(files(here)) > 3
    assert files(there) == files(here)


def files(folder):
    """SHA-256 of every file by its path within the folder."""
    return {path.relative_to(folder): file_sha256(path) for path in folder.rglob("*") if path.is_file()}


def test_other_calibration_is_another_graph(small, tmp_path, calibration_folder):
    """The same options with other images quantize anew, and not to the same bytes."""
    options = dataclasses.replace(
        small, repository=tmp_path / "repository", precision="int8", calibration=calibration_folder, float_layers="none"
    )
    first = export_model(options)
    (tmp_path / "fewer").mkdir()
    shutil.copy(calibration_folder / "3.png", tmp_path / "fewer")

    second = export_model(dataclasses.replace(options, calibration=tmp_path / "fewer"))

    assert (second.outcome, second.model.version) == ("published", 2)
    assert second.built.onnx != first.built.onnx


def test_search_is_the_default_where_nothing_is_published(small, tmp_path, calibration_folder, monkeypatch):
    """For a variant without a published list the layers are searched for, and stand in the config."""
    found = ("head.gfl_cls.0", "head.gfl_reg.0")
    monkeypatch.setattr("export.sensitivity.find_float_layers", lambda *_: found)
    options = dataclasses.replace(
        small, repository=tmp_path / "repository", precision="int8", calibration=calibration_folder
    )

    summary = export_model(options)

    assert json.loads(summary.model.parameter("float_layers")) == list(found)
    assert export_model(options).outcome == "unchanged"


def test_published_layers_need_a_variant_that_has_them(small, tmp_path, calibration_folder):
    """To ask for a list that does not exist says what to do instead."""
    options = dataclasses.replace(
        small,
        repository=tmp_path / "repository",
        precision="int8",
        calibration=calibration_folder,
        float_layers="published",
    )

    with pytest.raises(OptionError, match=r"no layers .* are published for variant Ns; search for them"):
        export_model(options)


def test_told_map_is_kept(copied):
    """What was told about a graph once needs not be told again."""
    export_model(dataclasses.replace(copied, map50_95=0.58))

    summary = export_model(dataclasses.replace(copied, instances=1))

    assert (summary.outcome, summary.model.parameter("map50_95")) == ("reconfigured", "0.58")
