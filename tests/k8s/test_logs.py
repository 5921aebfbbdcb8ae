"""The gateway's log line is what Fluent Bit's parser expects."""

import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.k8s.conftest import K8S

FLUENT_BIT = yaml.safe_load((K8S / "plain" / "fluent-bit.yaml").read_text())


PROGRAM = """
from gateway import logs
from gateway.metrics import Metrics
from gateway.observer import Observer

logs.configure("json")
Observer(Metrics(), "rest").finished("ok", 0.1, is_detection=True, is_failure=False, model="m", request_id="1")
"""


@pytest.fixture(scope="module")
def line():
    """What a request leaves on a gateway's standard error."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return done.stderr


def test_its_time_is_read_as_the_parser_says(line):
    """Fluent Bit's `%L` is a fraction of any length, which Python calls `.%f`."""
    (parser,) = FLUENT_BIT["parsers"]
    assert parser["format"] == "json"
    written, form = json.loads(line)[parser["time_key"]], parser["time_format"].replace("%L", "%f")
    assert datetime.strptime(written, form).astimezone(UTC).isoformat().replace("+00:00", "Z") == written


def test_labels_are_fields_of_the_line(line):
    """And only those with few values."""
    (output,) = FLUENT_BIT["pipeline"]["outputs"]
    labels = [key.removeprefix("$") for key in output["label_keys"].split(",")]
    assert set(labels) <= json.loads(line).keys()
    assert not {"request_id", "key", "path"} & set(labels)


def test_names_agree_along_the_pipeline():
    """The filter uses the parser that is defined, and takes what the input tags."""
    pipeline = FLUENT_BIT["pipeline"]
    (tail,), (parse,), (loki,) = pipeline["inputs"], pipeline["filters"], pipeline["outputs"]
    assert parse["parser"] == FLUENT_BIT["parsers"][0]["name"]
    assert tail["tag"] == parse["match"] == loki["match"]
    assert "gateway-*_eagleeye_gateway-" in tail["path"]  # POD_NAMESPACE_CONTAINER-ID
