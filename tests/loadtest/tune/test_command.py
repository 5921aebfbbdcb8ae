"""`eagleeye tune` as its users see it, with known figures in place of servers."""

import json

import pytest
from click.testing import CliRunner

from eagleeye.cli import main
from export.repository import find_published
from export.tuning import REASON, Tuning, before_tuning, read_tuning
from loadtest.profile import Step
from loadtest.tune import command
from loadtest.tune.search import Trial, limited
from triton_runtime.standin import MODEL, Standin


@pytest.fixture
def repository(tmp_path):
    Standin().write(tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture(autouse=True)
def rates(monkeypatch):
    """Images/s by delay of the queue; what is not there breaks the limit."""
    rates = {0: 100.0, 500: 140.0}

    async def measure(bench, tuning, seconds):
        rate = rates.get(tuning.queue_delay_microseconds)
        steps = (Step(2, rate or 10.0, 50.0 if rate else 900.0),)
        return Trial(tuning, seconds, steps, limited(steps, bench.p99_ms))

    monkeypatch.setattr(command.Bench, "measure", measure)
    return rates


@pytest.fixture
def tune(repository, tmp_path):
    def tune(*options, model=MODEL):
        words = ["tune", "--model", model, "--model-repository", str(repository), "--output", str(tmp_path / "out")]
        return CliRunner().invoke(main, [*words, "--instances", "1", "--queue-delays", "0,500,2000", *options])

    return tune


def config(repository):
    return find_published(repository, MODEL).config


def test_the_best_is_written_with_its_reason(tune, repository, tmp_path):
    """Beside what stood there before; the report has all trials, and a picture of them."""
    result = tune()

    assert result.exit_code == 0, result.output
    assert read_tuning(config(repository)) == Tuning(1, 500)
    assert before_tuning(config(repository)) == Tuning(1)
    reason = json.loads(config(repository).parameters[REASON].string_value)
    assert (reason["images_per_second"], reason["gain"], reason["p99_limit_ms"]) == (140.0, 1.4, 250.0)
    report = json.loads((tmp_path / "out" / "tune.json").read_text())
    assert report["best"]["queue_delay_microseconds"] == 500
    assert (tmp_path / "out" / "tune.png").read_bytes().startswith(b"\x89PNG")


def test_what_was_there_first_is_remembered(tune, repository, rates):
    """A second run is held against the first one's result, an export against what it wrote itself."""
    tune()
    rates[500] = 50.0

    assert tune().exit_code == 0
    assert read_tuning(config(repository)) == before_tuning(config(repository)) == Tuning(1)


def test_a_dry_run_changes_nothing(tune, repository):
    """It measures and reports all the same."""
    written = (repository / MODEL / "config.pbtxt").read_bytes()

    result = tune("--dry-run")

    assert "delay 500 us" in result.output
    assert (repository / MODEL / "config.pbtxt").read_bytes() == written


def test_a_config_that_is_good_stays(tune, repository, rates):
    """To the byte, with its comments."""
    rates[500] = 101.0
    written = (repository / MODEL / "config.pbtxt").read_bytes()

    result = tune()

    assert (result.exit_code, "nothing is better" in result.output) == (0, True)
    assert (repository / MODEL / "config.pbtxt").read_bytes() == written


def test_a_limit_that_nothing_keeps_is_told(tune, rates):
    """With what is possible."""
    rates.clear()
    result = tune("--p99-ms", "250")

    assert result.exit_code == 2
    assert "even 2 callers at a time are answered within 900 ms at best, not 250" in result.output


def test_a_config_that_changed_meanwhile_is_not_overwritten(tune, repository, monkeypatch):
    """Somebody else's change counts, and the figures are not lost: the best is told."""

    def save(*_):
        file = repository / MODEL / "config.pbtxt"
        file.write_text(file.read_text() + "# mine\n")

    monkeypatch.setattr(command, "_save", save)
    result = tune()

    assert result.exit_code == 2
    assert "changed by somebody else" in result.output
    assert "the best tuning was instances 1, delay 500 us" in result.output
    assert read_tuning(config(repository)) == Tuning(1)


@pytest.mark.parametrize(
    "options, message",
    [
        (("--queue-delays", "1,x"), "'1,x' must be whole numbers from 0 on"),
        (("--instances", "0"), "'0' must be whole numbers from 1 on"),
        (("--threads", "2"), "--threads is about ONNX Runtime on a processor; gpu_standin has gpu_standin"),
    ],
)
def test_senseless_options_are_refused(tune, options, message):
    """In one line, before anything starts."""
    result = tune(*options)

    assert result.exit_code == 2
    assert message in result.output


def test_a_model_that_is_not_there_is_told(tune):
    """With where it was looked for."""
    result = tune(model="other")

    assert result.exit_code == 2
    assert "there is no model other in" in result.output
