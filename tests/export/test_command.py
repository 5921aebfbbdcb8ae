"""The command `eagleeye export`: help, one-line errors, a summary."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import export.__main__
from export.__main__ import export as command
from export.__main__ import next_step, require_loaded
from export.errors import PlanError, VerificationError
from export.repository import publish
from export.variants import VARIANTS
from tests.export.test_repository import config_for

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run():
    """Run the command in this process."""
    return lambda *arguments: CliRunner().invoke(command, [str(a) for a in arguments])


@pytest.fixture
def arguments(shipped, tmp_path):
    """The shipped checkpoint's export, as a list of arguments that a test may extend."""
    return [
        "--variant", shipped.variant,
        "--checkpoint", shipped.checkpoint,
        "--labels", shipped.labels,
        "--name", shipped.name,
        "--repository", tmp_path / "repository",
    ]  # fmt: skip


def test_help_needs_no_torch():
    """Help lists every option with its default, and answers without loading torch or onnx."""
    code = (
        "import sys; from export.__main__ import export\n"
        "try: export(['--help'], prog_name='export')\n"
        "except SystemExit as stop: print(stop.code, *({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "0"
    for option in command.params:
        assert option.opts[0] in done.stdout
        assert option.help
    text = " ".join(done.stdout.split())
    for default in (1000, 16, 2, 0, 0.4):
        assert f"[default: {default};" in text
    for variant in VARIANTS.values():
        assert f"{variant.name} {variant.input_size}" in text


def test_success_from_the_shell(arguments, exported, tmp_path):
    """The installed command publishes, tells its steps on stderr and its figures on stdout.

    The file is, byte for byte, the one that another process made.
    """
    program = Path(sys.executable).with_name("eagleeye")

    done = subprocess.run([program, "export", *arguments], capture_output=True, text=True, check=True)

    published = tmp_path / "repository" / "deeppcb" / "1" / "model.onnx"
    assert published.read_bytes() == exported.model.model_file.read_bytes()
    assert "comparing ONNX Runtime with torch" in done.stderr
    assert "Warning" not in done.stderr
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == [
        "published", "parameters", "computation", "file", "score difference", "box difference", "time",
    ]  # fmt: skip
    assert "1.385 million" in done.stdout
    assert "1.470 GFLOPs" in done.stdout


@pytest.mark.usefixtures("exported")
def test_unchanged(run, arguments, shipped):
    """A second export says in one line that there was nothing to do."""
    done = run(*arguments, "--repository", shipped.repository)

    assert done.exit_code == 0
    assert done.stdout.startswith(f"unchanged version 1 in {shipped.repository}")


@pytest.mark.parametrize(
    "extra, complaint",
    [
        (["--variant", "T"], "does not fit variant T: "),
        (["--checkpoint", __file__], "is not a PyTorch checkpoint"),
        (["--labels", __file__], "has no readable label in line"),
        (["--name", "a b"], "the model name 'a b' must be"),
        (["--size", "100"], "the size must be a multiple of 32 pixels, not 100"),
        (["--repository", "/proc/models"], "cannot write the model repository /proc/models"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_errors_are_one_line(run, arguments, extra, complaint):
    """What cannot be done is told in one line on stderr with exit code 1; nothing is on stdout."""
    done = run(*arguments, *extra)

    messages = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert done.exit_code == 1
    assert done.stdout == ""
    assert len(messages) == 1
    assert done.stderr.splitlines()[-1] == messages[0]
    assert complaint in messages[0]
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    "extra, complaint",
    [
        (["--variant", "XL"], "'XL' is not one of"),
        (["--checkpoint", "nowhere.pth"], "does not exist"),
        (["--top-k", "4000"], "4000 is not in the range"),
        (["--max-batch-size", "0"], "0 is not in the range"),
        (["--score-threshold", "1.1"], "1.1 is not in the range"),
        (["--instances", "two"], "'two' is not a valid integer"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_usage_errors(run, arguments, extra, complaint):
    """Values that the help rules out are usage errors, with exit code 2."""
    done = run(*arguments, *extra)

    assert done.exit_code == 2
    assert complaint in done.stderr


def test_required_options(run):
    """Without arguments the first missing option is named."""
    done = run()

    assert done.exit_code == 2
    assert "Missing option '--variant'" in done.stderr


def test_options_reach_the_export(run, arguments, tmp_path, monkeypatch):
    """Every option of the command arrives, under its own name."""
    received = []

    def export_model(options, _progress):
        received.append(options)
        raise VerificationError("stop here")

    monkeypatch.setattr(export.__main__, "export_model", export_model)
    extra = {
        "--size": 320, "--top-k": 7, "--max-batch-size": 3, "--instances": 4,
        "--queue-delay-microseconds": 5, "--score-threshold": 0.6, "--map50-95": 0.587,
        "--tensorrt-accelerator": "/engines",
    }  # fmt: skip

    done = run(*arguments, *(part for pair in extra.items() for part in pair))

    assert done.stderr == "Error: stop here\n"
    arrived = {f"--{name.replace('_', '-')}": getattr(received[0], name) for name in received[0].__slots__[5:]}
    left_alone = {"--precision": "fp32", "--calibration": None, "--float-layers": None, "--gate": None}
    assert arrived == {**left_alone, **extra}
    assert received[0].repository == tmp_path / "repository"


def test_a_version_that_is_not_loaded_says_how(tmp_path):
    """The first one is loaded by whoever starts; a later one is loaded by a command, and has no plan before."""
    first, second = (publish(tmp_path / "models", config_for(graph), graph) for graph in (b"first", b"second"))

    require_loaded(first)
    assert next_step(first) == []
    assert next_step(second) == ["not loaded yet    eagleeye model load detector 2 --triton-url HOST:8001"]
    with pytest.raises(
        PlanError, match=r"version 2 of detector is published, but not loaded.*model load detector 2 --only"
    ):
        require_loaded(second)
