"""Overlays, rendered once."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.autoscaling import manifests
from tests.conftest import REPOSITORY, missing

DATA = Path(__file__).parent / "data"
OVERLAYS = REPOSITORY / "k8s" / "overlays"


@pytest.fixture(scope="session")
def rendered(tmp_path_factory):
    """A function from an overlay's name to a file of its objects."""
    if shutil.which("kubectl") is None:
        missing("kubectl")
    folder = tmp_path_factory.mktemp("overlays")

    def render(name):
        file = folder / f"{name}.yaml"
        if not file.exists():
            command = ["kubectl", "kustomize", str(OVERLAYS / name)]
            file.write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
        return file

    return render


@pytest.fixture(scope="session")
def gpu(rendered):
    """The overlay `gpu` of somebody who owns nine GPUs."""
    return replace(manifests.read(str(rendered("gpu")), "triton"), max_replicas=8)


@pytest.fixture(scope="session")
def plain():
    """Settings that know of no gateway."""
    return manifests.read(str(DATA / "plain.yaml"), "triton")
