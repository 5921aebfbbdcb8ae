"""`eagleeye models` and `eagleeye health` against a real gateway."""

import json
import threading
import time
from pathlib import Path

import pytest

from eagleeye.options import refuse_unknown_environment
from gateway.settings import Settings
from tests.eagleeye.detect.gateway import READY_SECONDS

FACES = pytest.mark.parametrize("face", ["http", "grpc"])
TABLE = """\
NAME  VERSIONS  INPUT    SCORE  IOU  CLASSES
toy   3         64 x 32  0.5    0.7  cat, dog, bird
"""


@FACES
def test_models_are_a_table(eagleeye, gateway, face):
    """One line each, the same over both faces."""
    ended = eagleeye("models", url=getattr(gateway, face))
    assert (ended.exit_code, ended.output) == (0, TABLE)


@FACES
def test_models_are_json(eagleeye, gateway, face):
    """With all that is known."""
    (model,) = json.loads(eagleeye("models", "--json", url=getattr(gateway, face)).stdout)
    assert model["name"] == "toy"
    assert model["versions"] == ["3"]
    assert model["labels"] == ["cat", "dog", "bird"]
    assert model["input_wh"] == [64, 32]
    assert model["score_threshold"] == 0.5


@FACES
def test_health_tells_whether_it_is_ready(eagleeye, slow_gateway, triton, face):
    """By its exit code, too."""
    url = getattr(slow_gateway, face)
    ended = eagleeye("health", url=url)
    assert (ended.exit_code, ended.output) == (0, f"{url}: ready\n")
    triton.ready = False
    deadline = time.monotonic() + READY_SECONDS
    while (ended := eagleeye("health", url=url)).exit_code == 0:
        assert time.monotonic() < deadline
    assert (ended.exit_code, ended.output) == (1, f"{url}: live, not ready\n")
    ended = eagleeye("health", "--json", url=url)
    assert (ended.exit_code, json.loads(ended.stdout)) == (1, {"url": url, "live": True, "ready": False})
    triton.ready = True
    ended = eagleeye("health", "--wait", READY_SECONDS, url=url)
    assert (ended.exit_code, ended.output) == (0, f"{url}: ready\n")


@pytest.mark.parametrize("command", ["models", "health"])
def test_a_full_disk_is_one_clear_line(launch, gateway, command):
    """And the interpreter does not try again at its end."""
    with Path("/dev/full").open("wb") as full:
        child = launch(command, "--url", gateway.http, stdout=full)
        assert child.communicate(timeout=60)[1] == b"Error: cannot write standard output: No space left on device\n"
    assert child.returncode == 2


def test_grpc_keeps_its_own_words_to_itself(launch, gateway):
    """Standard error has one line, ours."""
    child = launch("health", "--url", gateway.grpc.replace("grpc://", "grpcs://"))
    assert child.communicate(timeout=60)[1].decode() == (
        f"Error: what answers at {gateway.grpc.removeprefix('grpc://')} does not speak TLS, as https:// and grpcs:// "
        "addresses need it\n"
    )


@FACES
@pytest.mark.parametrize("command", [["models"], ["health"], ["health", "--wait", "0.1"]], ids=str)
def test_no_gateway_is_one_clear_line(eagleeye, unused_tcp_port, face, command):
    """With its address, and exit code 2."""
    ended = eagleeye(*command, url=f"{face}://127.0.0.1:{unused_tcp_port}")
    assert ended.exit_code == 2
    (line,) = ended.output.splitlines()
    assert line.startswith("Error: ")
    assert f"127.0.0.1:{unused_tcp_port}" in line


def test_health_waits_for_a_gateway_that_is_not_there_yet(eagleeye, own_gateway):
    """As a script does that has just started one."""
    own_gateway.stop()
    starting = threading.Thread(target=own_gateway.start)
    starting.start()
    ended = eagleeye("health", "--wait", READY_SECONDS, url=own_gateway.http)
    starting.join()
    assert (ended.exit_code, ended.output) == (0, f"{own_gateway.http}: ready\n")


def test_a_key_is_sent(eagleeye, keyed_gateway):
    """From the option or the environment; a wrong one is told, and none of it is shown."""
    gateway, key = keyed_gateway
    assert eagleeye("models", "--key", key, url=gateway.http).output == TABLE
    for given in (["--key", "wrong"], []):
        ended = eagleeye("models", *given, url=gateway.http)
        assert ended.exit_code == 2
        (line,) = ended.output.splitlines()
        assert line.startswith("Error: unauthorized: ")
        assert "wrong" not in line


@pytest.mark.usefixtures("photos")
def test_a_key_serves_detect_from_the_environment(eagleeye, keyed_gateway, monkeypatch):
    """Where no list of processes shows it."""
    gateway, key = keyed_gateway
    assert eagleeye("detect", "photos", url=gateway.grpc).exit_code == 2
    monkeypatch.setenv("EAGLEEYE_KEY", key)
    for url in (gateway.http, gateway.grpc):
        assert len(eagleeye("detect", "photos", url=url).stdout.splitlines()) == 6


def test_the_environment_of_callers_does_not_stop_a_gateway(monkeypatch):
    """It is no misspelt setting of `eagleeye gateway`."""
    monkeypatch.setenv("EAGLEEYE_KEY", "k")
    monkeypatch.setenv("EAGLEEYE_URL", "http://127.0.0.1:8080")
    refuse_unknown_environment(Settings)
