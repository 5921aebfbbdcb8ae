"""`eagleeye up`: starts, says how to use it, stops without a trace."""

import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import psutil
import pytest

from tests.conftest import missing
from tests.gateway.keyring import Keyring
from tests.platform.conftest import free_ports


def test_the_printed_curl_line_finds_defects(platform):
    """What a newcomer copies works as it stands."""
    if not shutil.which("curl"):
        missing("curl")
    (line,) = re.findall(r"^ +(curl .*)$", platform.output, re.MULTILINE)
    answer = json.loads(subprocess.run(shlex.split(line), capture_output=True, check=True).stdout)
    found = {detection["label"] for detection in answer["detections"]}
    assert found == {"open", "short", "mousebite", "spur", "copper", "pin-hole"}
    assert answer["image"] == {"width": 640, "height": 640}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_start_does_nothing_twice_and_a_signal_leaves_nothing(start, models, number):
    """The exported model is taken as it is; one signal stops the gateway, Triton and its helpers, with exit code 0."""
    (exported,) = models.glob("models/*/1/model.onnx")
    before = (exported.stat().st_ino, exported.stat().st_mtime_ns)
    platform = start().wait_until_ready()
    assert platform.children("tritonserver")
    assert platform.children("triton_python_backend_stub")
    assert platform.children("gateway")
    assert platform.shared_memory()

    assert platform.stop(number) == (0, [])
    assert not platform.shared_memory()
    assert (exported.stat().st_ino, exported.stat().st_mtime_ns) == before
    assert [path.name for path in exported.parent.parent.iterdir() if path.is_dir()] == ["1"]


def test_a_killed_parent_takes_its_children_along(start):
    """Even SIGKILL, which nobody can handle, leaves no Triton behind."""
    platform = start().wait_until_ready()
    assert platform.stop(signal.SIGKILL) == (-signal.SIGKILL, [])


def test_a_signal_while_starting_stops_everything(start):
    """Nobody has to wait until it is ready."""
    platform = start()
    while not platform.children("tritonserver"):
        assert platform.process.poll() is None, platform.output
    assert platform.stop(signal.SIGINT) == (0, [])
    assert not platform.shared_memory()
    assert "Traceback" not in platform.output


def test_a_busy_port_is_named_in_one_line(start):
    """The line names the port and the option that moves it; nothing was started."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        platform = start(EAGLEEYE_TRITON_HTTP_PORT=str(port))
        assert platform.process.wait(120) == 1
    (line,) = platform.output.splitlines()
    assert f"port {port} " in line
    assert "--triton-http-port" in line


def test_keys_and_the_admin_port_are_handed_on(start, models):
    """Readiness is asked where it is served, and the printed curl line takes the key from the variable KEY."""
    keyring = Keyring(models / "keys.json")
    secret = keyring.add("newcomer")
    (admin_port,) = free_ports(1)
    platform = start(EAGLEEYE_KEYS_FILE=str(keyring.path), EAGLEEYE_ADMIN_PORT=str(admin_port))
    while "ready after" not in platform.output or "curl" not in platform.output:
        assert platform.process.poll() is None, platform.output
        time.sleep(0.1)
    with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/readyz", timeout=30) as response:
        assert response.status == 200
    assert (platform.status("/readyz"), platform.status("/v1/models")) == (404, 401)
    (line,) = re.findall(r"^ +curl (.*)$", platform.output, re.MULTILINE)
    (header, url) = re.search(r'-H "(.*?)" .*(http://\S+)$', line).groups()
    assert header == "X-API-Key: $KEY"
    board = (models / "state" / "board.jpg").read_bytes()
    request = urllib.request.Request(url, board, {"X-API-Key": secret})
    with urllib.request.urlopen(request, timeout=30) as response:
        assert json.load(response)["detections"]
    assert platform.stop() == (0, [])
    assert secret not in platform.output


def test_a_misspelt_variable_is_named_in_one_line(start):
    """A setting that would be ignored stops the start."""
    platform = start(EAGLEEYE_HTTP_PROT="1")
    assert platform.process.wait(120) == 2
    assert "EAGLEEYE_HTTP_PROT" in platform.output
    assert "did you mean EAGLEEYE_HTTP_PORT?" in platform.output
    assert "Traceback" not in platform.output


def test_a_folder_serves_one_run_only(start):
    """A second run in the same folder, on other ports, would pull the backends from under the first one's Triton."""
    first = start().wait_until_ready()
    log = first.folder / "state" / "triton.log"
    before = log.stat().st_ino
    second = start()
    assert second.process.wait(120) == 1
    (line,) = second.output.splitlines()
    assert "another `eagleeye up` uses the folder" in line
    assert "--state-directory" in line
    assert log.stat().st_ino == before
    assert first.status() == 200


def test_a_missing_triton_is_named_in_one_line(start, models):
    """The line says what installs it."""
    platform = start(EAGLEEYE_TRITON_ENV=str(models / "nothing"))
    assert platform.process.wait(120) == 1
    (line,) = platform.output.splitlines()
    assert "`make up` installs it" in line


def test_a_damaged_export_is_replaced(start, models):
    """A model file that is not what was exported is noticed at the next start, and published anew."""
    (exported,) = models.glob("models/*/1/model.onnx")
    exported.write_bytes(b"garbage")
    platform = start().wait_until_ready()
    assert platform.stop() == (0, [])
    assert "published         version 2" in platform.output


def test_a_model_that_triton_cannot_load_is_reported(start, models):
    """Somebody's own broken model ends the start with Triton's reason, not with silence; nothing is left running."""
    (shipped,) = models.glob("models/damoyolo_ns_deeppcb")
    shipped = shipped.rename(shipped.with_name("own"))
    config = shipped / "config.pbtxt"
    config.write_text(config.read_text().replace("damoyolo_ns_deeppcb", "own"))
    (shipped / "1" / "model.onnx").write_bytes(b"garbage")
    platform = start()
    assert platform.process.wait(120) == 1
    last = platform.output.splitlines()[-1]
    assert "could not load any model: own: " in last
    assert "model.onnx" in last
    assert "Traceback" not in platform.output


def test_the_gateway_alone_starts_without_triton_and_stops_on_a_signal(tmp_path):
    """A gateway may come before its Triton; a bad value stops the start in one line."""
    bad = subprocess.run(
        [sys.executable, "-m", "gateway", "--http-port", "many"], capture_output=True, text=True, check=False
    )
    assert bad.returncode == 2
    assert "--http-port" in bad.stderr
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "--http-port", "0", "--grpc-port", "0"], stdout=log, stderr=log
        )
    log_path = tmp_path / "log"
    while b"listening" not in log_path.read_bytes():
        assert process.poll() is None, log_path.read_text()
    psutil.Process(process.pid).terminate()
    assert process.wait(120) == 0
