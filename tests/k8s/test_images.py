"""The images: what goes into them, that it suffices, and how they are built, signed and named."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.k8s import images
from tests.k8s.conftest import K8S, PLATFORMS, VARIANTS, container, containers, objects, of_kind

BUILD = images.IMAGES / "build"
TARGETS = ("gateway", "triton", "exporter", "load", "models")
WORKFLOWS = REPOSITORY / ".github" / "workflows"
BUDGET_BYTES = 350_000_000
BASE_BYTES = 62_000_000  # distroless Python of Debian 13: an assumption, Debian 12's was 55; CI weighs the image itself
TOOLS = {  # what pods run in each image, and what of it is not ours
    "gateway": {"eagleeye"},
    "triton": {"eagleeye", "python3", "tritonserver"},
    "models": {"sh"},
}
TOOLS_OF_BUSYBOX = {"cp", "find", "ls", "sha256sum", "wc"}  # as the image busybox has them


def tool(name):
    return Path(sys.executable).with_name(name)


def succeeds(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) in {(0, ""), (0, "ok -- validation done")}, done.stdout + done.stderr


def all_objects(variants):
    for folder in [*(K8S / "overlays" / name for name in PLATFORMS), *(variants[name] for name in VARIANTS)]:
        yield from objects(folder)


def image_name(container):
    return re.split("[@:]", container["image"].rpartition("/")[2])[0].removesuffix("-canary")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Our wheel, from nothing but the build context."""
    return images.build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def gateway(wheel, tmp_path_factory):
    """`eagleeye` as in the gateway's image, trimmed as there."""
    folder = tmp_path_factory.mktemp("gateway") / "library"
    packages = images.locked("gateway")
    launcher = images.install(folder, wheel, packages, copied=packages)
    images.trim(folder, "gateway-packages")
    yield launcher
    shutil.rmtree(folder)  # 270 MB


@pytest.fixture(scope="module")
def triton(wheel, tmp_path_factory):
    """`eagleeye` as in Triton's image."""
    folder = tmp_path_factory.mktemp("triton") / "library"
    return images.install(folder, wheel, images.locked("triton"))


def test_the_dockerfile_lints():
    """Hadolint has nothing to say, not even by the way."""
    succeeds(tool("hadolint"), "--failure-threshold=style", images.DOCKERFILE)


@pytest.mark.parametrize("script", [BUILD, REPOSITORY / ".ci" / "run"], ids=["build", "ci"])
def test_scripts_lint(script):
    """Shellcheck has nothing to say."""
    succeeds(tool("shellcheck"), script)


@pytest.mark.parametrize("workflow", sorted(WORKFLOWS.iterdir()), ids=lambda path: path.name)
def test_workflows_are_valid(workflow):
    """By the schema of GitHub's workflows."""
    succeeds(tool("check-jsonschema"), "--builtin-schema=vendor.github-workflows", workflow)


def test_base_images_are_pinned():
    """Each has a tag that names a release, or a digest; what has neither is another stage, or empty."""
    found = images.stages()
    rolling = {"latest", "nonroot"}  # distroless has no other: `build pin` adds the digest
    for base, _ in found.values():
        if base not in found and base != "scratch":
            name, _, digest = base.partition("@")
            tag = name.rpartition(":")[2]
            assert tag != name
            assert digest or tag not in rolling or "distroless" in name


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_nobody_in_particular(target):
    """By number, so that runAsNonRoot can be checked; nothing runs through a shell, and nothing is fetched by ADD."""
    (user,) = images.of(target, "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    for word in ("ENTRYPOINT", "CMD"):
        assert all(json.loads(value) for value in images.of(target, word))
    assert not images.of(target, "ADD")
    assert {"org.opencontainers.image.revision", "org.opencontainers.image.version"} <= {
        label.partition("=")[0].strip('"') for value in images.of(target, "LABEL") for label in value.split()
    }


def test_an_image_runs_as_the_user_of_its_pods(variants):
    """The volumes' owner is the same with and without Kubernetes."""
    for each in of_kind(all_objects(variants), "Deployment"):
        spec = each["spec"]["template"]["spec"]
        security = spec["securityContext"]
        (name,) = {image_name(container) for container in spec["containers"]}
        assert images.of(name, "USER") == [f"{security['runAsUser']}:{security['runAsGroup']}"]


def test_what_is_copied_is_sent():
    """Every source of COPY is in a fresh clone, and in the build context."""
    sent = images.context()
    for _, instructions in images.stages().values():
        for word, value in instructions:
            if word == "COPY" and "--from=" not in value:
                *sources, _ = [part for part in value.split() if not part.startswith("--")]
                for source in sources:
                    assert any(path == source or path.startswith(f"{source}/") for path in sent), source


def test_no_secret_is_sent():
    """Nothing but code: no key, no model, no manifest, no test."""
    top = {path.partition("/")[0] for path in images.context()}
    assert top - {"k8s"} == {
        *("LICENSE", "README.md", "constraints.txt", "pyproject.toml"),
        *("eagleeye", "export", "gateway", "loadtest", "triton_runtime"),
    }
    assert all(path.startswith("k8s/images/") for path in images.context() if path.startswith("k8s/"))
    rules = list(images.ignored())
    assert not images.is_sent("k8s/components/keys/keys.json", rules)
    assert not images.is_sent("gateway/__pycache__/core.cpython-313.pyc", rules)
    assert not images.is_sent(".venv/bin/python", rules)


@pytest.mark.parametrize("name", ["build", "exporter", "gateway", "load", "triton"])
def test_locks_are_fresh(name):
    """Each has what pyproject.toml asks for, in the versions of constraints.txt; else run k8s/images/lock.py."""
    lock = images.load_lock()
    pins = lock.pins()
    assert images.locked(name) == {package: pins[package] for package in lock.packages(lock.LOCKS[name])}


def test_every_lock_is_installed_by_digest():
    """And without dependencies of its own; only torch and TensorRT's bindings come without a digest."""
    for stage in images.stages():
        for command in images.commands(stage):
            if " pip install " in command and "/wheels/" not in command:
                assert "--no-deps" in command
                free = command.endswith(" torch") or "tensorrt-cu13-bindings==" in command
                assert free != ("--require-hashes" in command)


def test_the_gateway_has_no_torch():
    """Nor a compiler or a package manager, which the last stage's base does not have."""
    assert not {"torch", "onnx", "onnxruntime", "pip", "setuptools"} & images.locked("gateway").keys()
    base, _ = images.stages()["gateway"]
    assert "distroless" in base
    assert not images.of("gateway", "RUN")


def test_the_gateway_fits_its_budget(gateway):
    """350 MB unpacked: the base, and the packages with their bytecode."""
    library = Path(str(gateway).removesuffix(".eagleeye"))
    packages = sum(path.stat().st_size for path in library.rglob("*") if path.is_file())
    assert packages + BASE_BYTES < BUDGET_BYTES


def test_the_gateway_starts_with_what_its_image_has(gateway):
    """Every module of it, traces included, and every format of images."""
    done = images.run(gateway, "gateway", "--help")
    assert done.returncode == 0, done.stderr
    done = images.python(
        gateway,
        "import gateway.tracing_otel, eagleeye.client; from PIL import Image; Image.init(); "
        "print(sorted({'BMP', 'JPEG', 'PNG', 'WEBP'} & Image.OPEN.keys()))",
    )
    assert done.stdout.split() == ["['BMP',", "'JPEG',", "'PNG',", "'WEBP']"], done.stderr


def test_the_triton_image_can_ensure_engines(triton):
    """With all that a build needs before TensorRT itself."""
    assert images.run(triton, "engine", "ensure", "--help").returncode == 0
    done = images.python(triton, "import export.tensorrt_support, export.plan_options")
    assert done.returncode == 0, done.stderr


def test_the_triton_image_asks_its_library_for_the_version(triton):
    """The command of the Dockerfile finds the library, or says that there is none."""
    (command,) = (each for each in images.commands("triton") if each.startswith("version="))
    code = re.search(r"-c '([^']+)'", command)[1]
    shutil.copy(images.IMAGES / "tensorrt.py", str(triton).removesuffix(".eagleeye"))
    done = images.python(triton, code)
    assert done.stdout or "TensorRT is not installed here" in done.stderr


def test_the_bindings_count_as_tensorrt(tmp_path):
    """They come without the package that would bring libraries along."""
    (tmp_path / "tensorrt_bindings.py").write_text("__version__ = '11.3.0.99'\n")
    shutil.copy(images.IMAGES / "tensorrt.py", tmp_path)
    command = [sys.executable, "-c", "import tensorrt; print(tensorrt.__version__)"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "11.3.0.99"


def test_the_exporter_exports(wheel, tmp_path):
    """The command, the search for INT8 layers and the images for it; torch is the one package that is not locked."""
    launcher = images.install(tmp_path / "library", wheel, {**images.locked("exporter"), "torch": ""})
    code = "import export.int8, export.sensitivity, gateway.image, gateway.resize; "
    done = images.python(launcher, code + "from export.__main__ import export as it; it(['--help'])")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "library" / "export" / "checkpoints" / "deeppcb.labels.txt").is_file()
    shutil.rmtree(tmp_path / "library")


def test_triton_starts_the_same_way_by_itself():
    """What the image does without being told is what the manifests tell it."""
    pod = container(objects(K8S / "overlays" / "cpu"), "triton", "triton")
    assert json.loads(images.of("triton", "CMD")[0]) == pod["args"]
    assert json.loads(images.of("triton", "ENTRYPOINT")[0])[0].endswith(f"/{pod['command'][0]}")


def programs(variants):
    """(image, words) of each command that pods run, probes included, once each."""
    found = set()
    for each in [*all_objects(variants), yaml.safe_load((K8S / "plain" / "model-load.yaml").read_text())]:
        if each["kind"] in {"Deployment", "Job"}:
            for it in containers(each["spec"]["template"]["spec"]):
                probes = [it.get(kind, {}) for kind in ("startupProbe", "readinessProbe", "livenessProbe")]
                found.add((image_name(it), (*it["command"], *it.get("args", []))))
                found |= {(image_name(it), (*probe["exec"]["command"],)) for probe in probes if "exec" in probe}
    return sorted(found)


def test_images_have_what_pods_run(variants):
    """Every program in a manifest is one that its image is known to have."""
    found = {}
    for image, (program, *words) in programs(variants):
        found.setdefault(image, set()).add(program)
        if program == "sh":
            tools = re.findall(r"(?:^|[|;(]|&&)\s*([a-z][a-z0-9]+) ", " ".join(words[1:]), re.MULTILINE)
            assert set(tools) <= TOOLS_OF_BUSYBOX | {"cd", "echo", "exit"}
    assert found == TOOLS


def test_images_have_the_commands_that_pods_run(variants, gateway, triton):
    """Ours, with all that they import, and every option."""
    launchers = {"gateway": gateway, "triton": triton}
    ours = [(image, words) for image, (program, *words) in programs(variants) if program == "eagleeye"]
    names = {(image, *itertools.takewhile(lambda word: not word.startswith("-"), words[:2])) for image, words in ours}
    helps = {name: images.run(launchers[name[0]], *name[1:], "--help") for name in names}
    for image, words in ours:
        (done,) = (done for name, done in helps.items() if (image, *words)[: len(name)] == name)
        assert done.returncode == 0, done.stderr
        assert all(word in done.stdout for word in words if word.startswith("--"))


def fake(folder, name, script):
    """A program that writes down how it was called and then does as the script says."""
    path = folder / name
    path.write_text(f'#!/bin/bash\necho "{name} $*" >> "{folder}/calls"\n{script}\n')
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path):
    """A machine with Docker, cosign and kustomize, which only write down what they are asked."""
    digests = tmp_path / "digests"
    fake(
        tmp_path,
        "docker",
        f"""case "$*" in
  *metadata-file*) for each; do
      [[ $each != *.json ]] || echo '{{"containerimage.digest": "sha256:{"a" * 64}"}}' > "$each"
    done ;;
  *'json .SBOM'*) echo '{{"SPDX": {{"spdxVersion": "SPDX-2.3"}}}}' ;;
  *Manifest.Digest*) echo sha256:{"b" * 64} ;;
  export*) head -c "${{SIZE:-1}}" /dev/zero ;;
esac""",
    )
    fake(tmp_path, "cosign", "")
    fake(tmp_path, "kustomize", "")

    def build(*arguments, script=BUILD, **variables):
        environment = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "DIGESTS": str(digests),
            "VERSION": "v1",
            **variables,
        }
        done = subprocess.run([script, *arguments], env=environment, capture_output=True, text=True, check=False)
        calls = tmp_path / "calls"
        return done, calls.read_text().splitlines() if calls.exists() else []

    return build


@pytest.fixture
def repository(tmp_path):
    """A model repository with one model."""
    (tmp_path / "repository" / "m").mkdir(parents=True)
    (tmp_path / "repository" / "m" / "config.pbtxt").touch()
    return str(tmp_path / "repository")


def test_a_release_is_signed_by_digest(machine, repository):
    """Each image that was pushed, with SBOM and provenance; and each signature is verified as the policy would."""
    done, calls = machine("push", MODEL_REPOSITORY=repository, REGISTRY="r.example/e")
    assert done.returncode == 0, done.stderr
    assert [re.search(r"--target (\w+)", call)[1] for call in calls] == list(TARGETS)
    assert all("--sbom=true --provenance=mode=max" in call and "rewrite-timestamp=true" in call for call in calls)
    assert f"--build-context repository={repository}" in calls[-1]
    references = [f"r.example/e/{image}@sha256:{'a' * 64}" for image in TARGETS]
    _, calls = machine("sign", REGISTRY="r.example/e")
    assert [call for call in calls if call.startswith("cosign")] == [f"cosign sign --yes {each}" for each in references]
    done, calls = machine("verify", REGISTRY="r.example/e")
    assert done.returncode == 0, done.stderr
    (policy,) = objects(K8S / "overlays" / "image-policy")
    (identity,) = policy["spec"]["attestors"][0]["cosign"]["keyless"]["identities"]
    expected = f"--certificate-identity {identity['subject']} --certificate-oidc-issuer {identity['issuer']}"
    assert [f"cosign verify {expected} {each}" for each in references] == [
        call for call in calls if call.startswith("cosign verify")
    ]


def test_digests_are_named_where_pods_read_them(machine, repository):
    """The command for it names each image that the component knows, by the name that it has there."""
    machine("push", MODEL_REPOSITORY=repository)
    _, calls = machine("use")
    named = {
        re.search(r"(eagleeye/[\w-]+)=", call)[1] for call in calls if call.startswith("kustomize edit set image ")
    }
    component = yaml.safe_load((K8S / "components" / "images" / "kustomization.yaml").read_text())
    assert named == {each["name"] for each in component["images"]} - {"eagleeye/gateway-canary"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["sign"], "nothing was pushed"),
        (["gatway"], "there is no image gatway; there are: gateway triton exporter load models"),
        (["models"], "there is no model in"),
    ],
)
def test_what_can_not_be_built_or_signed_is_refused(machine, tmp_path, arguments, message):
    """In one line, and with nothing done."""
    done, calls = machine(*arguments, MODEL_REPOSITORY=str(tmp_path / "nothing"))
    assert done.returncode == 1
    assert message in done.stderr
    assert not calls


@pytest.mark.parametrize("size, code", [(BUDGET_BYTES, 0), (BUDGET_BYTES + 1, 1)])
def test_the_budget_is_kept_in_ci(machine, size, code):
    """The image is weighed unpacked, by the workflow, and one byte too many fails it."""
    done, _ = machine("size", SIZE=str(size))
    assert done.returncode == code
    steps = yaml.safe_load((WORKFLOWS / "images.yml").read_text())["jobs"]["build"]["steps"]
    assert "k8s/images/build size" in [step.get("run") for step in steps]


def test_base_images_get_their_digests(machine, tmp_path):
    """Every tag, the second time as well; stages and the empty one stay as they are."""
    folder = tmp_path / "k8s" / "images"
    folder.mkdir(parents=True)
    for path in (BUILD, images.DOCKERFILE):
        shutil.copy(path, folder)
    before = images.DOCKERFILE.read_text()
    for _ in range(2):
        done, _ = machine("pin", script=folder / "build")
        assert done.returncode == 0, done.stderr
        after = (folder / "Dockerfile").read_text()
        assert after.replace(f"@sha256:{'b' * 64}", "") == before
        assert after.count("@sha256:") == len(re.findall(r"^FROM \S+:\S+", before, re.MULTILINE))


def test_the_workflow_signs_as_the_policy_expects():
    """As this file on main; only where it releases may it write packages or get an identity."""
    (policy,) = objects(K8S / "overlays" / "image-policy")
    (identity,) = policy["spec"]["attestors"][0]["cosign"]["keyless"]["identities"]
    assert identity["subject"].endswith("/.github/workflows/images.yml@refs/heads/main")
    workflow = yaml.safe_load((WORKFLOWS / "images.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    release = workflow["jobs"]["release"]
    assert release["permissions"]["id-token"] == "write"
    assert "refs/heads/main" in release["if"]
    runs = " ".join(step.get("run", "") for step in release["steps"])
    assert runs.index("build push") < runs.index("build sign") < runs.index("build verify")


def test_placeholders_are_listed():
    """The README names every file in which an address of ours stands for one of yours."""
    listed = set(re.findall(r"^\| `([^`]+)` \|", (K8S / "README.md").read_text(), re.MULTILINE))
    command = [
        "git",
        "grep",
        "--untracked",
        "-lE",
        r"registry\.example\.com|github\.com/example/",
        "--",
        ":!tests",
        ":!*.md",
    ]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split()
    assert set(found) <= listed
    assert all((REPOSITORY / path).is_file() for path in listed if path.startswith(("k8s/", ".github/")))
