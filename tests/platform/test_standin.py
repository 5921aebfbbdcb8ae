"""`eagleeye up --tritons N --standin`: a fleet on one machine, whose answers tell whose they are."""

import asyncio
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import aiohttp
import pytest

from tests.conftest import REPOSITORY
from tests.platform.conftest import Platform, free_ports
from triton_runtime.standin import encode_png, fingerprint, numbered_picture

TRITON_SERVICES = ("http", "grpc", "metrics")


@pytest.fixture
def fleet(tmp_path):
    """Starts a platform of stand-ins, whose `ports` are those of the first, and sees to it that it ends."""
    started = []

    def start(count, **environment):
        block = free_ports(10 * (count - 1) + len(TRITON_SERVICES))
        ports = dict(zip((f"triton_{service}" for service in TRITON_SERVICES), block, strict=False))
        settings = {f"EAGLEEYE_{name.upper()}_PORT": str(port) for name, port in ports.items()}
        settings |= {"EAGLEEYE_TRITONS": str(count), "EAGLEEYE_STANDIN": "1"}
        platform = Platform.start(tmp_path / "own", **settings, **environment)
        started.append(platform)
        platform.ports |= ports
        return platform.wait_until_ready()

    yield start
    for platform in started:
        if platform.process.poll() is None:
            platform.stop()


def servers(platform):
    """Its Tritons, by number."""
    found = platform.children("bin/tritonserver")
    return dict(enumerate(sorted(found, key=lambda process: " ".join(process.cmdline())), start=1))


def inferences(platform, number):
    """How many images the Triton of that number has worked on, warm-up included; None while it does not serve."""
    port = platform.ports["triton_metrics"] + 10 * (number - 1)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
            page = response.read().decode()
    except OSError:
        return None
    (count,) = re.findall(r"^nv_inference_count{.*} (\S+)$", page, re.MULTILINE) or [None]
    return count and float(count)


async def answers_are_right(session, numbers):
    """Whether each picture, all sent at a time, gets the answer that is its own."""

    async def is_right(number):
        picture = numbered_picture(number)
        async with session.post("/v1/detect", data=encode_png(picture)) as response:
            assert response.status == 200, await response.text()
            found = (await response.json())["detections"]
        return "".join(detection["label"] for detection in found) == fingerprint(picture)

    return all(await asyncio.gather(*(is_right(number) for number in numbers)))


async def test_two_tritons_share_the_load_and_stop_without_a_trace(fleet):
    """Each has a log of its own; answers are not mixed up; one signal stops all."""
    platform = fleet(2, EAGLEEYE_STANDIN_BASE_MS="20")
    assert len(servers(platform)) == 2
    before = [inferences(platform, number) for number in (1, 2)]
    async with aiohttp.ClientSession(platform.url) as session:
        async with asyncio.timeout(90):  # the gateway has its own time to notice the one that came later
            while not all(inferences(platform, number) > before[number - 1] for number in (1, 2)):
                assert await answers_are_right(session, range(60))
        board = (platform.folder / "state" / "board.jpg").read_bytes()
        async with session.post("/v1/detect", data=board) as response:
            assert len((await response.json())["detections"]) == 8
    assert all((platform.folder / "state" / f"triton-{number}.log").stat().st_size for number in (1, 2))

    assert platform.stop(signal.SIGINT) == (0, [])


def test_the_example_of_the_page_works(fleet):
    """As it stands there, but for the port; one Triton will do."""
    platform = fleet(1)
    page = (REPOSITORY / "docs" / "fleet.md").read_text()
    (example,) = re.findall(r"```python\n([^`]*triton_runtime\.standin[^`]*)```", page)
    assert "assert" in example
    exec(example.replace("http://127.0.0.1:8080", platform.url), {})


async def test_the_death_of_one_does_not_touch_the_other(fleet):
    """It is started again, the other goes on as it was, and then both serve."""
    platform = fleet(2)
    before = servers(platform)
    before[2].kill()
    async with asyncio.timeout(90), aiohttp.ClientSession(platform.url) as session:
        while "Triton 2 was killed by SIGKILL; starting it again" not in platform.output:
            await asyncio.sleep(0.05)
        while (anew := inferences(platform, 2)) is None:
            await asyncio.sleep(0.05)
        assert servers(platform)[1].pid == before[1].pid
        assert servers(platform)[2].pid != before[2].pid
        while inferences(platform, 2) == anew:
            assert await answers_are_right(session, range(8))


def refusal(folder, *flags):
    """The last line of an `eagleeye up` that does not start."""
    command = [sys.executable, "-m", "eagleeye", "up", "--triton-env", str(REPOSITORY / ".venv-triton"), *flags]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert not list(folder.iterdir())
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "flags, said",
    [
        ("--tritons=9", "--http-port and --triton-http-port + 80 both name port 8080; they must differ"),
        ("--tritons=2 --triton-grpc-port=65530", "--triton-grpc-port + 10 is port 65540; 65535 is the last there is"),
        ("--tritons=0", "0 is not in the range 1<=x<=64."),
    ],
)
def test_ports_that_cannot_be_are_refused_in_one_line(tmp_path, flags, said):
    """Before anything starts, the line says which options lead there."""
    assert refusal(tmp_path, *flags.split()).endswith(said)


def test_a_busy_port_of_the_second_triton_is_refused_in_one_line(tmp_path):
    """The line names the option that moves the first one's, and by how much it is higher."""
    block = free_ports(15)
    flags = ("--http-port", "--grpc-port", "--triton-http-port", "--triton-grpc-port", "--triton-metrics-port")
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", block[14]))
        holder.listen()
        line = refusal(tmp_path, "--tritons=2", *(f"{flag}={port}" for flag, port in zip(flags, block, strict=False)))
    assert line.startswith(
        f"Error: port {block[14]} (--triton-metrics-port + 10) can't be used (Address already in use)"
    )
