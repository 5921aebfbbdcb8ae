"""Manifests as `kubectl apply -k` would send them, rendered once each."""

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY, missing

K8S = REPOSITORY / "k8s"
PLATFORMS = ("cpu", "gpu", "production", "scale-to-zero", "single-gpu")
VARIANTS = {  # what no overlay has: each with the least around it that makes a whole
    "engine-build": ("model-copy", "gpu", "engine-build", "without-keys", "images"),
    "ingress": ("model-copy", "keys", "ingress", "images"),
    "model-image": ("model-image", "without-keys", "images"),
    "model-volume": ("model-volume", "without-keys", "images"),
    "prometheus-adapter": ("model-copy", "gpu", "without-keys", "prometheus-adapter", "monitoring", "images"),
}
OLDEST_KUBECTL = (1, 27)  # older ones bundle a kustomize before 5


@functools.cache
def render(folder):
    """The text that `kubectl kustomize` makes of a folder."""
    return kustomize(folder)


def kustomize(folder):
    """As `render`, but anew each time."""
    require_kubectl()
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr  # deprecated fields are named there
    return done.stdout


@functools.cache
def require_kubectl():
    if shutil.which("kubectl") is None:
        missing("kubectl")
    said = subprocess.run(["kubectl", "version", "--client"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"v(\d+)\.(\d+)\.", said)
    if not found or tuple(map(int, found.groups())) < OLDEST_KUBECTL:
        missing(f"kubectl {'.'.join(map(str, OLDEST_KUBECTL))} or newer")


def promtool(*arguments, **options):
    """Run promtool, which must be content."""
    if shutil.which("promtool") is None:
        missing("promtool (Debian's package prometheus)")
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@functools.cache
def objects(folder):
    """The objects of a rendered folder."""
    return [each for each in yaml.safe_load_all(render(folder)) if each]


@pytest.fixture(scope="session")
def variants(tmp_path_factory):
    """Folders of kustomizations that put the components together which no overlay has."""
    folders = {}
    for name, components in VARIANTS.items():
        folders[name] = folder = tmp_path_factory.mktemp(name).resolve()
        up = Path(os.path.relpath(K8S, folder))
        lines = [f"- {up / 'components' / component}" for component in components]
        text = f"namespace: eagleeye\nresources:\n- {up / 'base'}\ncomponents:\n"
        (folder / "kustomization.yaml").write_text(text + "\n".join(lines) + "\n")
    return folders


@pytest.fixture(params=[*PLATFORMS, *VARIANTS])
def folder(request, variants):
    """Each overlay, and each variant."""
    return variants.get(request.param) or K8S / "overlays" / request.param


@pytest.fixture
def rendered(folder):
    """The objects of each overlay and variant."""
    return objects(folder)


def of_kind(rendered, *kinds):
    return [each for each in rendered if each["kind"] in kinds]


def pod_specs(rendered):
    """Pod specs by the name of what makes the pods."""
    return {
        each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in of_kind(rendered, "Deployment", "Job")
    }


def containers(spec):
    return [*spec.get("initContainers", []), *spec["containers"]]


def container(rendered, deployment, name):
    (found,) = (each for each in containers(pod_specs(rendered)[deployment]) if each["name"] == name)
    return found


def environment(container):
    return {each["name"]: each.get("value") for each in container.get("env", [])}
