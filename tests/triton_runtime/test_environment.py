"""What keeps a local Triton from starting is said before anything starts, in one line that helps."""

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from triton_runtime import environment
from triton_runtime.environment import TritonEnvironment, UnsupportedMachine


@pytest.fixture
def triton():
    """Triton's real environment, which `make` sets up."""
    return TritonEnvironment(REPOSITORY / ".venv-triton")


def test_the_real_environment_is_complete(triton):
    """Nothing to complain about where `make` has been."""
    triton.check()
    assert triton.server.is_file()


@pytest.mark.parametrize("system, machine", [("Darwin", "arm64"), ("Linux", "aarch64"), ("Windows", "AMD64")])
def test_another_platform_is_pointed_to_the_container(monkeypatch, triton, system, machine):
    """The line names the platform and the two things that work everywhere."""
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(UnsupportedMachine, match=f"this is {system} {machine}.*container.*--triton-url HOST:PORT"):
        triton.check()


def test_a_missing_server_names_what_installs_it(tmp_path):
    """An empty folder is no environment."""
    with pytest.raises(UnsupportedMachine, match="`make up` installs it"):
        TritonEnvironment(tmp_path).check()


def test_backends_are_laid_out_for_triton(triton, tmp_path):
    """The Python backend with this interpreter's stub, ours beside it, and nothing left of an earlier layout.

    What ours import lies where every stub looks for modules, under the name that it has here.
    """
    (tmp_path / "backends" / "old").mkdir(parents=True)
    backends = triton.prepare(tmp_path)
    assert sorted(folder.name for folder in backends.iterdir()) == ["onnxruntime", "python"]
    assert (backends / "python" / "triton_python_backend_stub").stat().st_mode & 0o100
    assert (backends / "python" / "libtriton_python.so").is_file()
    assert (backends / "onnxruntime" / "model.py").is_file()
    assert (backends / "python" / "triton_runtime" / "stub" / "tensors.py").is_file()


def test_the_stub_finds_its_packages_and_libraries(triton, tmp_path):
    """The environment's Python comes first in PATH, the wheel's libraries after the interpreter's own."""
    variables = triton.variables(tmp_path)
    assert variables["PATH"].startswith(f"{triton.root}/bin:")
    assert variables["LD_LIBRARY_PATH"].split(":")[0] == str(tmp_path / "libraries")
    assert variables["LD_LIBRARY_PATH"].split(":")[1].endswith("nvidia_pytriton.libs")


def test_the_stub_runs_this_interpreter_and_none_that_the_wheel_carries(triton, tmp_path):
    """Whatever name the stub asks for, the library that it gets is of the version, to the last number, that runs here.

    Another one of the same 3.x would look for modules in a standard library that is not its own.
    """
    installation = triton.install(tmp_path)
    stub = installation.backends / "python" / "triton_python_backend_stub"
    loaded = subprocess.run(
        ["ldd", stub], env=installation.variables, capture_output=True, text=True, check=True
    ).stdout
    (path,) = {line.split()[2] for line in loaded.splitlines() if line.strip().startswith("libpython")}
    library = ctypes.CDLL(os.path.realpath(path))
    library.Py_GetVersion.restype = ctypes.c_char_p

    assert "nvidia_pytriton" not in os.path.realpath(path)
    assert library.Py_GetVersion().decode().split()[0] == platform.python_version()


@pytest.mark.parametrize("carried", ["libpython3-0a1b2c3d.13.so.1.0", "libpython3-ffffffff.13.so.1.0"])
def test_the_interpreter_stands_in_for_one_that_the_wheel_carries(monkeypatch, tmp_path, carried):
    """By the wheel's own name for it, which says the version, too: 3.12's is left alone."""
    monkeypatch.setattr(environment, "_PYTHON", "3.13")
    monkeypatch.setattr(environment, "_LIBPYTHON", "libpython3.13.so.1.0")
    monkeypatch.setattr(environment, "_LIBPYTHON_CARRIED", "libpython3-*.13.so.1.0")
    monkeypatch.setattr(environment, "_find_library", Path("/system").joinpath)
    monkeypatch.setattr(environment.sysconfig, "get_config_var", lambda _: None)
    libraries = tmp_path / "lib" / "python3.13" / "site-packages" / "nvidia_pytriton.libs"
    libraries.mkdir(parents=True)
    for name in (carried, "libpython3-0a1b2c3d.12.so.1.0", "libpsl-95ca960e.so.5.3.2"):
        (libraries / name).touch()

    folder, second = TritonEnvironment(tmp_path).variables(tmp_path)["LD_LIBRARY_PATH"].split(":")[:2]

    links = {link.name: str(link.readlink()) for link in Path(folder).iterdir()}
    assert links == dict.fromkeys([carried, "libpython3.13.so.1.0"], "/system/libpython3.13.so.1.0")
    assert second == str(libraries)


def test_onnx_runtime_reports_to_nobody(triton, tmp_path):
    """Its telemetry is on by default, and serving pictures is nobody else's business."""
    assert triton.variables(tmp_path)["ORT_DISABLE_TELEMETRY"] == "1"


def test_a_missing_libpython_that_cannot_be_fetched_names_its_package(monkeypatch, triton, tmp_path):
    """Without apt, the user must install it; the line says how."""
    monkeypatch.setattr(environment, "_find_library", lambda _: None)
    monkeypatch.setattr(environment.sysconfig, "get_config_var", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    with pytest.raises(UnsupportedMachine, match=f"no apt-get here.*apt-get install libpython{version}$"):
        triton.variables(tmp_path)


def test_a_libpython_beside_the_interpreter_is_used(monkeypatch, triton, tmp_path):
    """Before the system's, which may be of another version; what the caller had in the path stays there."""
    monkeypatch.setattr(environment, "_find_library", Path("/system").joinpath)
    monkeypatch.setattr(environment.sysconfig, "get_config_var", lambda _: str(tmp_path))
    monkeypatch.setenv("LD_LIBRARY_PATH", "/some/where")
    (tmp_path / environment._LIBPYTHON).touch()
    folder, _, *given = triton.variables(tmp_path)["LD_LIBRARY_PATH"].split(":")
    assert Path(folder, environment._LIBPYTHON).readlink() == tmp_path / environment._LIBPYTHON
    assert given == ["/some/where"]


def test_a_libpython_that_was_fetched_before_is_used(monkeypatch, triton, tmp_path):
    """The second start needs no network."""
    monkeypatch.setattr(environment, "_find_library", lambda _: None)
    monkeypatch.setattr(environment.sysconfig, "get_config_var", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    folder = tmp_path / "libpython" / "usr" / "lib"
    folder.mkdir(parents=True)
    (folder / environment._LIBPYTHON).touch()
    links = triton.variables(tmp_path)["LD_LIBRARY_PATH"].split(":")[0]
    assert Path(links, environment._LIBPYTHON).readlink() == folder / environment._LIBPYTHON
