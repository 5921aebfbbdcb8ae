"""The servers beside: what can be said of them without starting them. `tests/platform/test_bench.py` starts them."""

import dataclasses
import json
from pathlib import Path

import click
import pytest

from export.repository import find_published
from loadtest.baselines.servers import BASELINES
from loadtest.baselines.triton_ensemble import ENSEMBLE, INFER, write
from triton_runtime.standin import MODEL, Standin


@pytest.fixture
def configs(tmp_path):
    """The configs of an ensemble around the stand-in, by model."""
    Standin(size=96).write(tmp_path)
    write(tmp_path, MODEL, Path("environment"), is_scaled=True)
    return {name: find_published(tmp_path, name).config for name in ("preprocess", MODEL, "postprocess", ENSEMBLE)}


def test_the_ensemble_joins_what_fits(configs):
    """All that a step needs comes from the caller or an earlier step, with the same type and shape."""
    ensemble = configs[ENSEMBLE]
    made = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in ensemble.input}
    for step in ensemble.ensemble_scheduling.step:
        model = configs[step.model_name]
        needed = {step.input_map[tensor.name]: (tensor.data_type, list(tensor.dims)) for tensor in model.input}
        assert needed.items() <= made.items()
        made |= {step.output_map[tensor.name]: (tensor.data_type, list(tensor.dims)) for tensor in model.output}

    assert [step.model_name for step in ensemble.ensemble_scheduling.step] == ["preprocess", MODEL, "postprocess"]
    assert {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in ensemble.output}.items() <= made.items()


def test_the_python_models_batch_in_an_environment_of_their_own(configs, tmp_path):
    """Wherever Triton itself runs, and as large a batch as the detector takes."""
    for name in ("preprocess", "postprocess"):
        parameters = configs[name].parameters
        assert parameters["EXECUTION_ENV_PATH"].string_value == str(Path("environment").absolute())
        assert configs[name].HasField("dynamic_batching")
        assert configs[name].max_batch_size == configs[MODEL].max_batch_size
        assert (tmp_path / name / "1" / "model.py").is_file()


def test_no_ensemble_without_a_detector(tmp_path):
    """There would be nothing for it to ask."""
    with pytest.raises(click.ClickException, match="no model gpu_standin"):
        write(tmp_path, MODEL, Path("environment"), is_scaled=False)


def test_tritons_answer_is_read():
    """The text stands behind Triton's JSON and the length, whatever characters both have."""
    answer = {"detections": [{"label": "Fußgänger {"}]}
    text = json.dumps(answer, ensure_ascii=False).encode()
    head = b'{"model_name":"ensemble","outputs":[{"name":"answer"}]}'

    assert INFER.read(head + len(text).to_bytes(4, "little") + text) == answer


@pytest.mark.parametrize("name", ["triton_ensemble", "bentoml"])
def test_a_server_without_its_environment_says_so(tmp_path, name):
    """And who makes it; a half-made one does not count."""
    (tmp_path / ".venv-x").mkdir()
    beside = dataclasses.replace(BASELINES[name], environment=tmp_path / ".venv-x")

    assert beside.lacking == "there is no .venv-x; `make bench` makes it"
    (tmp_path / ".venv-x" / ".done").touch()
    assert beside.lacking == ""


def test_a_server_without_its_packages_says_so():
    """By their names."""
    beside = dataclasses.replace(BASELINES["flask"], packages=("flask", "no_such_package"))

    assert beside.lacking == "no_such_package not installed; extra `baselines`"
