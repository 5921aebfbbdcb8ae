"""Official checkpoints load strictly, and nothing else loads."""

import os
import pickle

import pytest
import torch

from export.checkpoint import load_detector, read_state_dict
from export.damoyolo import DamoYolo
from export.errors import CheckpointError
from export.variants import VARIANTS

SIZE = (32, 32)


@pytest.fixture(scope="module")
def weights():
    """A training-form state_dict of an Ns with 3 classes."""
    torch.manual_seed(0)
    return DamoYolo(VARIANTS["Ns"], 3, SIZE).state_dict()


@pytest.fixture
def save(tmp_path):
    """Write a checkpoint, return its path."""

    def save(content, **options):
        path = tmp_path / "checkpoint.pth"
        torch.save(content, path, **options)
        return path

    return save


def prefixed(weights):
    return {f"module.{key}": value for key, value in weights.items()}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda w: {"model": w}, id="released file"),
        pytest.param(
            lambda w: {
                "epoch": 3,
                "model": w,
                "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
                "feature_loss": None,
            },
            id="training file",
        ),
        pytest.param(lambda w: w, id="bare state_dict"),
        pytest.param(lambda w: {"model": prefixed(w)}, id="module. prefix"),
        pytest.param(
            lambda w: {key: value.half() if value.is_floating_point() else value for key, value in w.items()},
            id="float16",
        ),
    ],
)
def test_accepted_layouts(save, weights, content):
    """Every layout that official tools write loads into the same network."""
    detector = load_detector(save(content(weights)), VARIANTS["Ns"], 3, SIZE)

    for key, value in detector.state_dict().items():
        torch.testing.assert_close(value, weights[key], rtol=1e-3, atol=1e-3)
    assert not detector.training


def test_old_file_format(save, weights):
    """Files from before PyTorch's zip format load too."""
    path = save({"model": weights}, _use_new_zipfile_serialization=False)

    assert load_detector(path, VARIANTS["Ns"], 3, SIZE).head.num_classes == 3


def test_legacy_head(save):
    """One class channel more than labels marks a head of the first release."""
    weights = DamoYolo(VARIANTS["Ns"], 81, SIZE).state_dict()

    detector = load_detector(save(weights), VARIANTS["Ns"], 80, SIZE)

    assert detector.head.num_classes == 80
    assert detector.head.class_channels == 81
    assert detector(torch.zeros(1, 3, *SIZE))[0].shape == (1, 21, 80)


@pytest.mark.parametrize("labels", [1, 4, 80])
def test_wrong_number_of_labels(save, weights, labels):
    """Any other number of labels is refused, with both numbers."""
    with pytest.raises(CheckpointError, match=f"has 3 classes, but the labels file names {labels}"):
        load_detector(save(weights), VARIANTS["Ns"], labels, SIZE)


def test_wrong_variant(save, weights):
    """Another variant's file names keys that do not fit, counts them, and says which variant it is of."""
    with pytest.raises(CheckpointError) as raised:
        load_detector(save(weights), VARIANTS["T"], 3, SIZE)

    message = str(raised.value)
    assert "does not fit variant T" in message
    assert "keys missing: backbone.block_list.0.conv.conv.weight" in message
    assert "keys unexpected: backbone.block_list.0.conv.conv1.weight" in message
    assert (
        "keys of another shape: backbone.block_list.5.block_list.1.conv1.conv.weight (80x160x1x1, not 192x384x1x1)"
        in message
    )
    assert message.endswith("it fits variant Ns")
    assert "\n" not in message


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_told_apart(save, variant):
    """A file of any variant fits that variant only."""
    with torch.device("meta"):
        shapes = DamoYolo(VARIANTS[variant], 2, SIZE).state_dict()
    other = "Ns" if variant != "Ns" else "Nm"
    path = save({key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in shapes.items()})

    with pytest.raises(CheckpointError, match=f"does not fit variant {other}: .* it fits variant {variant}$"):
        load_detector(path, VARIANTS[other], 2, SIZE)


def test_one_missing_key(save, weights):
    """A file that lacks a single key is refused, and no variant is proposed."""
    weights = {key: value for key, value in weights.items() if key != "head.scales.1.scale"}

    with pytest.raises(CheckpointError, match=r"does not fit variant Ns: 1 key missing: head\.scales\.1\.scale$"):
        load_detector(save(weights), VARIANTS["Ns"], 3, SIZE)


def test_deployed_form_is_refused(save):
    """A re-parameterised network is no official checkpoint."""
    weights = DamoYolo(VARIANTS["T"], 3, SIZE).deploy().state_dict()

    with pytest.raises(CheckpointError, match="rbr_reparam"):
        load_detector(save(weights), VARIANTS["T"], 3, SIZE)


def test_values_must_be_finite(save, weights):
    """A file from a diverged training names the tensor."""
    broken = {**weights, "neck.merge_5.conv1.bn.bias": torch.full((20,), torch.nan)}

    with pytest.raises(CheckpointError, match=r"not finite, in neck\.merge_5\.conv1\.bn\.bias"):
        read_state_dict(save({"model": broken}))


@pytest.mark.parametrize(
    "content", [{}, {"model": {}}, {"model": None}, {"epoch": 3}, [1, 2], torch.zeros(3)], ids=repr
)
def test_no_state_dict(save, content):
    """A PyTorch file without a state_dict is told apart from a damaged one."""
    with pytest.raises(CheckpointError, match="holds no state_dict"):
        read_state_dict(save(content))


class Bomb:
    """Runs a command in whoever unpickles it."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize(
    "write, complaint",
    [
        (torch.save, "needs code to be run while loading, which is refused"),
        (lambda content, path: path.write_bytes(pickle.dumps(content, 2)), "needs code to be run"),
        (lambda content, path: path.write_bytes(pickle.dumps(content, 5)), "is not a PyTorch checkpoint"),
    ],
    ids=["PyTorch file", "pickle", "newer pickle"],
)
def test_code_in_a_file_never_runs(tmp_path, write, complaint):
    """A file that wants code run is refused, and the code is not run."""
    marker, path = tmp_path / "exploded", tmp_path / "checkpoint.pth"
    write({"model": Bomb(marker)}, path)

    with pytest.raises(CheckpointError, match=complaint):
        read_state_dict(path)

    assert not marker.exists()


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda _: b"hello, I am a text file\n", id="text"),
        pytest.param(lambda _: b"<!DOCTYPE html><html></html>", id="page of a failed download"),
        pytest.param(lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", id="LFS pointer"),
        pytest.param(lambda _: b"PK\x03\x04" + bytes(500), id="only a zip's first bytes"),
        pytest.param(lambda data: data[: len(data) // 2], id="half"),
        pytest.param(lambda data: data[:-10], id="without its end"),
    ],
)
def test_damaged_files(save, weights, spoil):
    """Whatever the bytes, there is one clear error."""
    path = save({"model": weights})
    path.write_bytes(spoil(path.read_bytes()))

    with pytest.raises(CheckpointError, match="is not a PyTorch checkpoint, or is truncated or damaged"):
        read_state_dict(path)


def test_missing_file(tmp_path):
    """A missing file is named."""
    with pytest.raises(CheckpointError, match=r"cannot read .*nothing\.pth: No such file"):
        read_state_dict(tmp_path / "nothing.pth")
