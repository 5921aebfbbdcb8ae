"""The stand-in's backend in C: any compiler builds it, and it finds what `candidates` finds, number for number."""

import importlib.util
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import pytest_asyncio
import tritonclient.grpc.aio as triton_client
from tritonclient.utils import InferenceServerException

from tests.conftest import REPOSITORY
from tests.platform.conftest import free_ports
from triton_runtime.environment import TritonEnvironment, UnsupportedMachine
from triton_runtime.process import running
from triton_runtime.server import Ports, TritonServer
from triton_runtime.standin import MODEL, Standin, candidates, compiler

OUTPUTS = ("boxes", "scores", "class_ids")
SIZE = 419  # no multiple of anything: rows are sampled at a distance, and cells end between pixels
CC = [[path] for path in [shutil.which("cc")] if path]
ZIG = [sys.executable, "-m", "ziglang", "cc"]


def started(folder):
    """A Triton on a repository in the folder."""
    installation = TritonEnvironment(REPOSITORY / ".venv-triton").install(folder)
    return TritonServer(
        installation, folder / "models", Ports(*free_ports(3)), restarts_itself=False, report=lambda _: None
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def triton(tmp_path_factory):
    """A Triton whose stand-in was built by Zig, which every machine with our environment has."""
    folder = tmp_path_factory.mktemp("standin")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "_compilers", lambda: [ZIG])
        compiler.library.cache_clear()
        Standin(base_ms=0, per_image_ms=0, size=SIZE).write(folder / "models")
    compiler.library.cache_clear()
    async with running([triton := started(folder)]):
        await triton.until_serving(120)
        yield triton


def images(count):
    """Noise: every byte of a row counts in its checksum."""
    return np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def agree(result, wanted):
    """Whether the outputs are `candidates`', number for number."""
    return all(np.array_equal(result.as_numpy(name), array) for name, array in zip(OUTPUTS, wanted, strict=True))


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("count", [1, 2, 16])
async def test_answers_are_those_of_python(triton, count):
    """Boxes, scores and class ids, of one image and of a full batch."""
    tensor = triton_client.InferInput("images", [count, SIZE, SIZE, 3], "UINT8")
    tensor.set_data_from_numpy(images(count))
    async with triton_client.InferenceServerClient(f"127.0.0.1:{triton.ports.grpc}") as client:
        assert agree(await client.infer(MODEL, [tensor]), candidates(images(count)))


@pytest.mark.asyncio(loop_scope="module")
async def test_only_the_outputs_that_were_asked_for_come(triton):
    """A request may name some."""
    tensor = triton_client.InferInput("images", [1, SIZE, SIZE, 3], "UINT8")
    tensor.set_data_from_numpy(images(1))
    async with triton_client.InferenceServerClient(f"127.0.0.1:{triton.ports.grpc}") as client:
        wanted = [triton_client.InferRequestedOutput("scores")]
        result = await client.infer(MODEL, [tensor], outputs=wanted)
    assert np.array_equal(result.as_numpy("scores"), candidates(images(1)).scores)
    assert result.as_numpy("boxes") is None


@pytest.mark.parametrize(
    "before, after, said",
    [
        ('"2.0"', '"soon"', "parameter 'base_ms' must be a number of milliseconds, at least 0"),
        ('"1.0"', '"-1"', "parameter 'per_image_ms' must be a number of milliseconds, at least 0"),
        ('"1.0"', '"1e999"', "parameter 'per_image_ms' must be a number of milliseconds, at least 0"),
        ('"1.0"', '""', "parameter 'per_image_ms' must be a number of milliseconds, at least 0"),
        ("per_image_ms", "per_picture_ms", "parameter 'per_image_ms' must be a number of milliseconds, at least 0"),
    ],
)
async def test_a_curve_that_makes_no_sense_is_refused(tmp_path, before, after, said):
    """Triton has the reason, and goes on without the model."""
    Standin().write(tmp_path / "models")
    config = tmp_path / "models" / MODEL / "config.pbtxt"
    assert before in config.read_text()
    config.write_text(config.read_text().replace(before, after))
    triton = started(tmp_path)
    async with (
        running([triton]),
        triton_client.InferenceServerClient(f"127.0.0.1:{triton.ports.grpc}") as client,
    ):
        with pytest.raises(TimeoutError):
            await triton.until_serving(1)
        with pytest.raises(InferenceServerException, match=said):
            await client.load_model(MODEL)


@pytest.mark.parametrize("command", [*CC, ZIG], ids=[*("cc" for _ in CC), "zig"])
def test_compilers_have_nothing_to_complain_about(command, tmp_path):
    """With all their usual warnings on."""
    warnings = ("-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wno-sign-conversion", "-Werror")
    built = tmp_path / "backend.so"
    done = subprocess.run(
        [*command, *compiler._OPTIONS, *warnings, "-o", str(built), str(compiler._SOURCE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def forgetful():
    """What was built before, and what is built in a test, counts nowhere else."""
    compiler.library.cache_clear()
    yield
    compiler.library.cache_clear()


@pytest.mark.usefixtures("forgetful")
def test_a_machine_without_a_compiler_is_told_what_helps(monkeypatch, tmp_path):
    """Both ways: the system's, and a wheel."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UnsupportedMachine, match=r"\(there is none here\).*gcc libc6-dev.*pip install ziglang"):
        Standin().write(tmp_path / "models")


@pytest.mark.usefixtures("forgetful")
def test_a_compiler_that_fails_is_passed_over(monkeypatch, tmp_path):
    """As Debian's does without the C library's headers: the next one is tried, and the last one's words are told."""
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'fatal error: errno.h: No such file' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(shutil, "which", {"cc": str(broken)}.get)
    assert compiler.library().startswith(b"\x7fELF")
    compiler.library.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UnsupportedMachine, match=r"\(fatal error: errno\.h: No such file\)"):
        compiler.library()


def test_it_is_built_once(monkeypatch):
    """A process that writes many models compiles one time."""
    first = compiler.library()
    monkeypatch.setattr(compiler, "subprocess", SimpleNamespace())
    assert compiler.library() is first
