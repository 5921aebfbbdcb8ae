"""The live gateway against its own description: generated requests, and every line of code that the page shows."""

import json
import os
import shutil
import subprocess
import sys
import urllib.request

import pytest

from tests.conformance import hold_against_description
from tests.conftest import missing


@pytest.fixture(scope="module")
def document(platform):
    with urllib.request.urlopen(f"{platform.url}/openapi.json", timeout=30) as response:
        return json.load(response)


@pytest.fixture
def try_out(tmp_path, board):
    """Runs code as a reader would who has a picture."""
    (tmp_path / "picture.jpg").write_bytes(board)
    # what a reader sees on the screen anyway, a test needs as an exit code
    (tmp_path / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")

    def run(sample):
        interpreter = {"Shell": ["bash", "-o", "pipefail", "-c"], "Python": [sys.executable, "-c"]}[sample["lang"]]
        environment = {"PATH": os.environ["PATH"], "CURL_HOME": str(tmp_path)}
        return subprocess.run(
            [*interpreter, sample["source"]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            timeout=60,
            check=False,
        )

    return run


def test_every_line_of_code_on_the_page_works(document, try_out, tmp_path):
    """As it stands, with the reader's picture: each ends well and shows an answer."""
    if not shutil.which("curl"):
        missing("curl")
    failed, answers = [], {}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert operation["x-codeSamples"], f"{method} {path}"
            for sample in operation["x-codeSamples"]:
                ended = try_out(sample)
                answers[operation["operationId"], sample["label"]] = ended.stdout
                if ended.returncode or ended.stderr:
                    failed.append((sample["source"], ended.stdout, ended.stderr))
    assert failed == []
    found = json.loads(answers["detect", "A picture"])["detections"]
    assert len(found) == 6
    assert answers["detect", "From Python"].count(b"\n") == len(found)
    assert [len(each["detections"]) for each in json.loads(answers["detect", "Several pictures"])["results"]] == [6, 6]
    assert json.loads(answers["detect", "As JSON"])["detections"] == found
    assert {row["image_id"] for row in json.loads(answers["detect", "Rows of a COCO result file"])} == {17}
    assert (tmp_path / "annotated.jpg").read_bytes().startswith(b"\xff\xd8\xff")
    assert json.loads(answers["infer", "As JSON"])["outputs"][0]["data"] == [6]


def test_the_live_service_is_as_described(platform):
    """Over a real Triton, too: no server error, no answer that the description doesn't have."""
    report = hold_against_description(platform.url, max_examples=5)
    assert report.findings == {}
    assert report.requests >= 1000
