"""`eagleeye load` before anything is sent."""

import json

import pytest
from click.testing import CliRunner

from eagleeye.connection import Connection
from loadtest.load.command import load
from loadtest.load.report import markdown
from loadtest.load.target import Target
from tests.loadtest.load.test_report import made

AWAY = ("--url", "http://127.0.0.1:9", "--timeout-seconds", "0.2")


def refusal(*arguments):
    """The one line that a command which can do nothing prints."""
    done = CliRunner().invoke(load, arguments)
    assert done.exit_code == 2, done.output
    return done.stderr.splitlines()[-1]


@pytest.fixture
def broken(tmp_path):
    (tmp_path / "broken.toml").write_text(
        'title = "t"\nload = "open"\nuser = 3\n[[stages]]\nseconds = 1\nper_second = 1\n'
    )
    return str(tmp_path / "broken.toml")


def test_what_cannot_be_is_one_line(broken, tmp_path):
    """A profile that there is not, one that is not right, an address of the wrong face, and no gateway."""
    unknown = refusal("run", "smoek", *AWAY)
    assert unknown.startswith("Error: no profile 'smoek' (No such file or directory); give a file, or one of day,")
    assert refusal("run", broken, *AWAY) == "Error: the profile is not right: user is unknown; did you mean users?"
    assert refusal("run", "smoke", "--url", "grpc://h:1").startswith("Error: --url is the gateway's REST face")
    wrong = refusal("table", "--grpc-url", "http://h:1", *AWAY)
    assert wrong == "Error: --grpc-url is http://h:1; the gRPC face's address begins with grpc:// or grpcs://"
    assert refusal("run", "smoke", *AWAY) == "Error: http://127.0.0.1:9 cannot be reached: Connection refused"
    (tmp_path / "no.json").write_text("{}")
    refused = refusal("report", str(tmp_path / "no.json"), "--output", str(tmp_path))
    assert refused == f"Error: {tmp_path / 'no.json'} is no result of `eagleeye load run`"


def test_ctrl_c_is_no_missed_objective(monkeypatch):
    """Its exit code says that nothing was measured, and no traceback is shown."""

    def stop(_name):
        raise KeyboardInterrupt

    monkeypatch.setattr("loadtest.load.command.read", stop)
    assert refusal("run", "smoke", *AWAY) == "Error: stopped before its end, without a report"


def test_our_profiles_are_listed():
    """With their lengths and titles."""
    lines = CliRunner().invoke(load, ["profiles"]).output.splitlines()
    assert lines[3] == "smoke         30 s  Smoke: every kind of caller, briefly"
    assert len(lines) == 6


def test_a_report_is_made_again_from_a_log(tmp_path):
    """What else stands there, as before a Job's last line, is no matter."""
    result = made({"figure": "p99_ms", "at_most": 100})
    log = "10 images due\nMISSED p99_ms\n" + json.dumps(result) + "\n"
    done = CliRunner().invoke(load, ["report", "-", "--output", str(tmp_path)], input=log)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "report.md").read_text() == markdown(result)


@pytest.mark.parametrize(
    "url, grpc_url",
    [
        ("http://host:8080", "grpc://host:8081"),
        ("https://host/prefix", "grpcs://host:8081"),
        ("http://[::1]:8080/", "grpc://[::1]:8081"),
        ("http://[::1]", "grpc://[::1]:8081"),
    ],
)
def test_the_grpc_face_is_looked_for_on_the_same_host(url, grpc_url):
    """With TLS where REST has it."""
    connection = Connection(url, None, 10.0, None, None, None)
    assert Target(connection, None, None, None, None, 0, None, (), None, None).grpc == grpc_url
