"""Pictures, a gateway to ask about them, and the command."""

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from eagleeye.cli import main
from tests.eagleeye.detect.gateway import FakeTriton, Gateway, serving
from tests.gateway.keyring import Keyring


@pytest.fixture(scope="session")
def shared_triton():
    with serving(FakeTriton()) as port:
        yield port


@pytest.fixture(scope="session")
def gateway(tmp_path_factory, shared_triton):
    """A gateway for all tests that leave it as it is."""
    gateway = Gateway(tmp_path_factory.mktemp("gateway"), shared_triton).start()
    yield gateway
    gateway.stop()


@pytest.fixture(scope="session")
def told_triton():
    return FakeTriton()


@pytest.fixture(scope="session")
def told_triton_port(told_triton):
    with serving(told_triton) as port:
        yield port


@pytest.fixture(scope="session")
def told_gateway(tmp_path_factory, told_triton_port):
    gateway = Gateway(tmp_path_factory.mktemp("gateway"), told_triton_port).start()
    yield gateway
    gateway.stop()


@pytest.fixture
def triton(told_triton):
    """The Triton behind `slow_gateway` and `own_gateway`, which a test may tell what to do."""
    told_triton.reset()
    yield told_triton
    told_triton.reset()


@pytest.fixture
def slow_gateway(told_gateway):
    """A gateway in front of `triton`."""
    return told_gateway


@pytest.fixture
def own_gateway(tmp_path_factory, told_triton_port):
    """A gateway in front of `triton` that the test may kill."""
    gateway = Gateway(tmp_path_factory.mktemp("gateway"), told_triton_port).start()
    yield gateway
    gateway.stop()


@pytest.fixture
def keyed_gateway(tmp_path_factory, told_triton_port):
    """A gateway that asks for a key, and the key."""
    keyring = Keyring(tmp_path_factory.mktemp("keys") / "keys.json")
    key = keyring.add("camera")
    gateway = Gateway(tmp_path_factory.mktemp("gateway"), told_triton_port, "--keys-file", keyring.path).start()
    yield gateway, key
    gateway.stop()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder in which the commands run."""
    monkeypatch.chdir(tmp_path)
    for name in ("EAGLEEYE_URL", "EAGLEEYE_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def photos(here):
    """Six grey images of 96 x 48 pixels, each brighter than the one before, in `photos` and below it."""
    for number, name in enumerate(["a.png", "b.jpg", "c.bmp", "d/e.webp", "d/f.PNG", "g.jpeg"]):
        draw(here / "photos" / name, 40 * number)
    return here / "photos"


@pytest.fixture
def eagleeye(gateway):
    """Runs `eagleeye` in this process, against the gateway."""

    def run(*arguments, url=gateway.http, **options):
        environment = {"EAGLEEYE_URL": url}
        return CliRunner().invoke(main, [str(argument) for argument in arguments], env=environment, **options)

    return run


@pytest.fixture
def http_server():
    """The address of a service that is no gateway."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Refusing(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(404)

    def log_message(self, *_):
        pass


@pytest.fixture
def launch(here):
    """Starts `eagleeye` as a child process, which runs `start` first."""
    children = []

    def launch(*arguments, start="pass", **options):
        program = f"import resource, runpy; {start}; runpy.run_module('eagleeye', run_name='__main__', alter_sys=True)"
        command = [sys.executable, "-c", program, *map(str, arguments)]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": here, **options}
        children.append(subprocess.Popen(command, env={**os.environ, "PYTHONPATH": ""}, **options))
        return children[-1]

    yield launch
    for child in children:
        if child.poll() is None:
            child.kill()
        child.communicate()


def draw(path, brightness, wh=(96, 48)):
    """Writes a grey image; its format is that of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((wh[1], wh[0], 3), brightness, np.uint8))


def film(path, count, fps=10, wh=(96, 48)):
    """Writes a video whose frames become brighter."""
    codec = {".avi": "MJPG", ".mp4": "mp4v"}[path.suffix]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, wh)
    assert writer.isOpened()
    for number in range(count):
        writer.write(np.full((wh[1], wh[0], 3), number * 240 // count, np.uint8))
    writer.release()
