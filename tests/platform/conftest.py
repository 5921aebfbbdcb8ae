"""The real thing: `eagleeye up` with a real Triton, started once for all tests of this folder."""

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
import psutil
import pytest

from loadtest.chaos.processes import free_ports
from tests.conftest import REPOSITORY
from triton_runtime.process import dying_with_parent

MODEL = "damoyolo_ns_deeppcb"
READY_SECONDS = 180
SETTLE_SECONDS = 60
SETTLED_LOOKS = 3
PORT_SETTINGS = ("http", "grpc", "triton_http", "triton_grpc", "triton_metrics")


def detections(result):
    """What a client of the Open Inference Protocol got, in the form of `expected`."""
    labels, class_ids, scores, boxes = (result.as_numpy(name) for name in ("labels", "class_ids", "scores", "boxes"))
    assert (scores.dtype, boxes.dtype) == (np.float32, np.float32)
    return labels.tolist(), class_ids.tolist(), scores.tolist(), boxes.tolist()


@dataclass
class Platform:
    """One `eagleeye up` as a child process, and what a test may want to know of it."""

    folder: Path
    ports: dict[str, int]
    process: subprocess.Popen

    @classmethod
    def start(cls, folder, **environment):
        folder.mkdir(exist_ok=True)
        ports = dict(zip(PORT_SETTINGS, free_ports(len(PORT_SETTINGS)), strict=True))
        settings = {f"EAGLEEYE_{name.upper()}_PORT": str(port) for name, port in ports.items()}
        settings |= {
            "EAGLEEYE_MODEL_REPOSITORY": str(folder / "models"),
            "EAGLEEYE_STATE_DIRECTORY": str(folder / "state"),
            "EAGLEEYE_TRITON_ENV": str(REPOSITORY / ".venv-triton"),
            "EAGLEEYE_LOG_FORMAT": "json",
        }
        with (folder / f"up-{ports['http']}.log").open("wb") as log:
            process = subprocess.Popen(
                dying_with_parent([sys.executable, "-m", "eagleeye", "up"]),  # Ctrl-C ends xdist's processes at once
                env={**os.environ, **settings, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(folder, ports, process)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.ports['http']}"

    @property
    def output(self):
        return (self.folder / f"up-{self.ports['http']}.log").read_text(errors="replace")

    def status(self, path="/readyz"):
        """HTTP status of a GET, 0 while nobody listens."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as response:
                return response.status
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return 0

    def wait_until_ready(self):
        deadline = time.monotonic() + READY_SECONDS
        while not (self.status() == 200 and "ready after" in self.output):
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.1)
        return self

    def children(self, name):
        """Descendants whose command line contains `name`."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has just gone
                if name in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def gateway_peak_bytes(self):
        """The most memory that the gateway has ever held resident."""
        (gateway,) = self.children("-m gateway")
        with Path(f"/proc/{gateway.pid}/status").open() as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

    def shared_memory(self):
        """What lies in /dev/shm for it."""
        return list(Path("/dev/shm").glob(f"eagleeye_{self.process.pid}_*"))

    def triton_metric(self, name, label=""):
        """One of Triton's own counters, summed over models, or over what has a label such as `reason="CANCELED"`."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['triton_metrics']}/metrics", timeout=30) as response:
            page = response.read().decode()
        return sum(float(value) for value in re.findall(rf"^{name}{{.*{label}.*}} (\S+)$", page, re.MULTILINE))

    def settled_metric(self, name, at_least=0.0):
        """As `triton_metric`, once it stands still: Triton counts a request a little later than it answers it."""
        deadline, before, same = time.monotonic() + SETTLE_SECONDS, None, 0
        while same < SETTLED_LOOKS:
            now = self.triton_metric(name)
            assert time.monotonic() < deadline, f"{name} was {before}, is {now}, and should be {at_least} or more"
            same = same + 1 if now == before and now >= at_least else 0
            before = now
            time.sleep(0.1)
        return now

    def stop(self, number=signal.SIGTERM):
        """Stop it, and return its exit code and whatever survived."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(number)
        status = self.process.wait(120)
        _, alive = psutil.wait_procs(family, timeout=30)
        for survivor in alive:
            survivor.kill()
        return status, alive


@pytest.fixture(scope="session")
def platform(tmp_path_factory, run_folder):
    """A ready platform that serves the shipped model, which one of a run's processes exports for all."""
    folder, exported = tmp_path_factory.mktemp("platform"), run_folder / "models"
    with (run_folder / "models.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if exported.exists():
            shutil.copytree(exported, folder / "models")
            platform = Platform.start(folder)
        else:
            platform = Platform.start(folder).wait_until_ready()
            shutil.copytree(folder / "models", exported)
    yield platform.wait_until_ready()
    platform.stop()


@pytest.fixture(scope="session")
def board(platform):
    """The bytes of the sample picture that `eagleeye up` draws."""
    return (platform.folder / "state" / "board.jpg").read_bytes()


@pytest.fixture
async def http(platform):
    """A client session against the live gateway."""
    platform.wait_until_ready()
    async with aiohttp.ClientSession(platform.url) as session:
        yield session


@pytest.fixture
async def expected(http, board):
    """What REST finds on the sample: labels, class ids, and scores and boxes as float32."""
    async with http.post("/v1/detect", data=board) as response:
        found = (await response.json())["detections"]
    assert found
    return (
        [detection["label"].encode() for detection in found],
        [detection["class_id"] for detection in found],
        np.array([detection["score"] for detection in found], np.float32).tolist(),
        np.array([list(detection["box"].values()) for detection in found], np.float32).tolist(),
    )


@pytest.fixture
def models(platform, tmp_path):
    """A copy of the exported models, for platforms of a test's own."""
    shutil.copytree(platform.folder / "models", tmp_path / "own" / "models")
    return tmp_path / "own"


@pytest.fixture
def start(models):
    """Starts platforms of a test's own, and sees to it that none outlives the test."""
    started = []

    def start(**environment):
        started.append(Platform.start(models, **environment))
        return started[-1]

    yield start
    for platform in started:
        if platform.process.poll() is None:
            platform.stop()
