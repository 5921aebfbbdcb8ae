"""The life of plans: built once for each kind of GPU, served only where they fit, and ONNX in all other cases."""

import ctypes
import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from eagleeye.cli import main
from export.engine import EngineOptions, bring, ensure, models
from export.errors import RepositoryError
from export.plan_config import PLAN_PARAMETERS, keeping_plan, plan_file_name
from export.repository import find_published, loading, publish, serve
from export.tensorrt import Machine, PlanSettings
from tests.export.fake_tensorrt import FakeCuda, FakeTensorRT
from tests.export.test_repository import config_for
from tests.export.test_tensorrt import tiny_graph

L4 = Machine("10.15.1", "NVIDIA L4", "8.9")
ROOT = Path(__file__).resolve().parents[2]
PLAN = b"plan of " + tiny_graph()[:16]


@pytest.fixture
def trt(monkeypatch):
    """The fake package, installed."""
    fake = FakeTensorRT()
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    return fake


@pytest.fixture
def repository(tmp_path):
    """One with the model `detector`, as an export leaves it."""
    publish(tmp_path / "models", config_for(tiny_graph()), tiny_graph())
    return tmp_path / "models"


@pytest.fixture
def options(tmp_path):
    return EngineOptions(tmp_path / "engines", stale_seconds=1.0)


def load(repository, *versions):
    """Let the config name the versions to load, as `eagleeye model load` does."""
    published = find_published(repository, "detector")
    serve(published, loading(published.config, versions))


def serves(repository, name="detector"):
    """What Triton would load by the config: the backend, and the file's content."""
    published = find_published(repository, name)
    file_name = published.config.default_model_filename or "model.onnx"
    return published.config.backend, (published.model_file.parent / file_name).read_bytes()


def fingerprint(directory):
    """Every file with its time of change and content."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in directory.rglob("*") if path.is_file()}


def test_built_and_served(trt, repository, options):
    """The first time a plan is built, cached and served, and the parameters tell all about it."""
    steps = []

    ensured = ensure(repository, "detector", options, steps.append, L4)

    (cached,) = options.engines.glob("*/plan.json")
    assert ensured.outcome == "built"
    assert serves(repository) == ("tensorrt", PLAN)
    assert {name: ensured.model.parameter(name) for name in PLAN_PARAMETERS} == {
        "plan_key": cached.parent.name,
        "plan_sha256": hashlib.sha256(PLAN).hexdigest(),
        "plan_batch_sizes": "1/8/8",
        "plan_workspace_mebibytes": "4096",
        "plan_optimization_level": "3",
        "tensorrt_version": "10.15.1",
        "gpu_name": "NVIDIA L4",
        "compute_capability": "8.9",
    }
    assert json.loads(cached.read_text())["machine"] == dataclasses.asdict(L4)
    assert steps[0] == "building the plan for NVIDIA L4 (8.9), TensorRT 10.15.1; this takes minutes"
    assert ensured.model.parameter("labels") == '["open", "short"]'
    assert trt.builds == 1


def test_again_changes_nothing(trt, repository, options):
    """What is right already is not touched: Triton would load it anew."""
    ensure(repository, "detector", options, machine=L4)
    before = fingerprint(repository)

    assert ensure(repository, "detector", options, machine=L4).outcome == "unchanged"
    assert fingerprint(repository) == before
    assert trt.builds == 1


def test_another_pod_takes_it_from_the_cache(trt, repository, options, tmp_path):
    """A repository of another machine of the same kind gets the plan without a build, even if none is allowed."""
    shutil.copytree(repository, tmp_path / "other")
    ensure(repository, "detector", options, machine=L4)

    ensured = ensure(tmp_path / "other", "detector", dataclasses.replace(options, may_build=False), machine=L4)

    assert ensured.outcome == "cached"
    assert serves(tmp_path / "other") == ("tensorrt", PLAN)
    assert trt.builds == 1


@pytest.mark.parametrize(
    "machine, settings",
    [
        (dataclasses.replace(L4, tensorrt_version="10.15.2"), PlanSettings()),
        (dataclasses.replace(L4, compute_capability="9.0"), PlanSettings()),
        (dataclasses.replace(L4, gpu_name="NVIDIA L40"), PlanSettings()),
        (L4, PlanSettings(best_batch=4)),
        (L4, PlanSettings(workspace_mebibytes=1)),
        (L4, PlanSettings(optimization_level=5)),
    ],
    ids=["version", "capability", "gpu", "profile", "workspace", "level"],
)
def test_each_part_of_the_key_decides(trt, repository, options, machine, settings):
    """A plan for another TensorRT, GPU, profile or other flags is another plan; where it lacks, ONNX serves at once."""
    ensure(repository, "detector", options, machine=L4)
    waiting = dataclasses.replace(options, plan=settings, may_build=False)

    ensured = ensure(repository, "detector", waiting, machine=machine)

    assert ensured.outcome == "onnx"
    assert f"no plan for {machine.gpu_name} ({machine.compute_capability})" in ensured.reason
    assert serves(repository) == ("onnxruntime", tiny_graph())
    assert find_published(repository, "detector").config == config_for(tiny_graph())

    assert (
        ensure(repository, "detector", dataclasses.replace(options, plan=settings), machine=machine).outcome == "built"
    )
    assert trt.builds == 2


def test_onnx_serves_while_a_plan_is_built(trt, repository, options):
    """From the moment on that a plan no longer fits, it is not served, however long the new one takes."""
    ensure(repository, "detector", options, machine=L4)
    meanwhile = []
    trt.on_build = lambda: meanwhile.append(serves(repository)[0])

    newer = dataclasses.replace(L4, tensorrt_version="10.16.0")
    assert ensure(repository, "detector", options, machine=newer).outcome == "built"
    assert (meanwhile, serves(repository)[0]) == (["onnxruntime"], "tensorrt")


def test_largest_batch_is_part_of_the_key(trt, repository, options, tmp_path):
    """So is the model's largest batch, which ends the profile."""
    publish(tmp_path / "larger", config_for(tiny_graph(), max_batch_size=16), tiny_graph())
    ensure(repository, "detector", options, machine=L4)

    assert ensure(tmp_path / "larger", "detector", options, machine=L4).outcome == "built"
    assert trt.builds == 2


def test_new_version_serves_onnx_until_its_plan_is_there(trt, repository, options):
    """An export of other weights is served as ONNX, and never by the plan of the old ones."""
    ensure(repository, "detector", options, machine=L4)
    other = tiny_graph(batch="images")
    publish(repository, config_for(other), other)
    load(repository, 2)

    assert serves(repository) == ("onnxruntime", other)
    assert ensure(repository, "detector", options, machine=L4).outcome == "built"
    assert find_published(repository, "detector").version == 2
    assert serves(repository)[0] == "tensorrt"
    assert trt.builds == 2


@pytest.mark.usefixtures("trt")
def test_only_the_last_two_plans_stay(repository, options):
    """The plan that served before may still be loading; those before it are removed."""
    for level in (0, 1, 2, 0, 1, 2):  # first they are built, then all are cached
        ensure(repository, "detector", dataclasses.replace(options, plan=PlanSettings(None, 1, level)), machine=L4)

    kept = sorted(path.name for path in (repository / "detector" / "1").glob("*.plan"))
    assert len(list(options.engines.glob("*/plan.json"))) == 3
    assert len(kept) == 2
    assert find_published(repository, "detector").config.default_model_filename in kept


@pytest.mark.parametrize("damage", ["plan", "record", "list", "missing"])
def test_damaged_cache_is_built_anew(trt, repository, options, damage):
    """A cached plan that is not what its record says is never served."""
    ensure(repository, "detector", options, machine=L4)
    (entry,) = (path.parent for path in options.engines.glob("*/plan.json"))
    {
        "plan": lambda: (entry / "model.plan").write_bytes(b"truncated"),
        "record": lambda: (entry / "plan.json").write_text("{"),
        "list": lambda: (entry / "plan.json").write_text("[]"),
        "missing": (entry / "model.plan").unlink,
    }[damage]()
    shutil.rmtree(repository)
    publish(repository, config_for(tiny_graph()), tiny_graph())

    assert ensure(repository, "detector", options, machine=L4).outcome == "built"
    assert serves(repository) == ("tensorrt", PLAN)
    assert trt.builds == 2


@pytest.mark.usefixtures("trt")
def test_damaged_plan_in_the_repository_is_mended(repository, options):
    """A plan that was changed in the repository comes from the cache again."""
    ensured = ensure(repository, "detector", options, machine=L4)
    plan = ensured.model.model_file.with_name(ensured.model.config.default_model_filename)
    plan.write_bytes(b"truncated")

    assert ensure(repository, "detector", options, machine=L4).outcome == "cached"
    assert plan.read_bytes() == PLAN


@pytest.mark.parametrize(
    "fail, reason",
    [
        (lambda trt: setattr(trt, "build_error", "out of memory"), "could not build the plan: out of memory"),
        (lambda trt: setattr(trt, "parser_errors", ["bad node"]), "cannot read the graph: bad node"),
    ],
)
def test_failed_builds_leave_onnx(trt, repository, options, fail, reason):
    """A build that fails leaves ONNX serving, nothing in the cache, and no lock behind."""
    fail(trt)

    ensured = ensure(repository, "detector", options, machine=L4)

    assert ensured.outcome == "onnx"
    assert reason in ensured.reason
    assert serves(repository)[0] == "onnxruntime"
    assert list(options.engines.iterdir()) == []


def test_unsupported_graph_is_not_even_tried(trt, tmp_path, options):
    """What the documentation rules out is told before minutes are spent."""
    graph = tiny_graph().replace(b"Flatten", b"NonZero")
    publish(tmp_path / "models", config_for(graph), graph)

    ensured = ensure(tmp_path / "models", "detector", options, machine=L4)

    assert "NonZero flat: there is no such operator" in ensured.reason
    assert trt.calls == []


def test_unusable_cache_leaves_onnx(trt, repository):
    """A cache that cannot be written is no reason not to serve."""
    ensured = ensure(repository, "detector", EngineOptions(Path("/proc/engines")), machine=L4)

    assert (ensured.outcome, trt.builds) == ("onnx", 0)
    assert "cannot use the cache /proc/engines" in ensured.reason


def test_timing_cache_is_passed_on(trt, repository, options):
    """What a build measured helps the next one on the same kind of GPU, and no other."""
    for machine, level in ((L4, 1), (L4, 2), (dataclasses.replace(L4, gpu_name="T4"), 1)):
        settings = PlanSettings(optimization_level=level)
        ensure(repository, "detector", dataclasses.replace(options, plan=settings), machine=machine)

    assert [call[1] for call in trt.calls if call[0] == "set_timing_cache"] == [b"", b"+", b""]


def test_two_at_once_build_once(trt, tmp_path, options):
    """Of two pods that start at the same moment one builds; the other serves ONNX without waiting."""
    started, finish = threading.Event(), threading.Event()
    trt.on_build = lambda: (started.set(), finish.wait(30))
    for name in ("a", "b"):
        publish(tmp_path / name, config_for(tiny_graph()), tiny_graph())
    results = []
    builder = threading.Thread(
        target=lambda: results.append(ensure(tmp_path / "a", "detector", options, machine=L4)), daemon=True
    )
    builder.start()
    assert started.wait(30)

    second = ensure(tmp_path / "b", "detector", options, machine=L4)
    finish.set()
    builder.join()

    assert second.outcome == "onnx"
    assert re.search(rf"is being built by \S+ \(process {os.getpid()}", second.reason)
    assert (results[0].outcome, trt.builds) == ("built", 1)
    assert ensure(tmp_path / "b", "detector", options, machine=L4).outcome == "cached"


def test_waiting_takes_what_the_other_built(trt, tmp_path, options):
    """With time to wait, the second one ends with the plan that the first one built."""
    started = threading.Event()
    trt.on_build = lambda: (started.set(), time.sleep(0.3))
    for name in ("a", "b"):
        publish(tmp_path / name, config_for(tiny_graph()), tiny_graph())
    builder = threading.Thread(target=ensure, args=(tmp_path / "a", "detector", options, print, L4), daemon=True)
    builder.start()
    assert started.wait(30)

    patient = dataclasses.replace(options, wait_seconds=30)
    second = ensure(tmp_path / "b", "detector", patient, machine=L4)
    builder.join()

    assert (second.outcome, trt.builds) == ("cached", 1)


@pytest.mark.usefixtures("trt")
def test_two_on_one_repository(repository, options):
    """Two processes that serve the same plan from the same repository at once both succeed."""
    ensure(repository, "detector", options, machine=L4)
    shutil.rmtree(repository)
    publish(repository, config_for(tiny_graph()), tiny_graph())
    barrier, outcomes = threading.Barrier(4), []

    def run():
        barrier.wait()
        outcomes.append(ensure(repository, "detector", options, machine=L4).outcome)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(outcomes) == 4
    assert set(outcomes) <= {"cached", "unchanged"}
    assert serves(repository) == ("tensorrt", PLAN)


def test_killed_builder_is_replaced(trt, repository, options):
    """A builder that was killed holds nobody up for longer than the lease lasts, and leaves nothing that is served."""
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from export.engine import EngineOptions, ensure\n"
        "from tests.export.fake_tensorrt import FakeTensorRT\n"
        "from tests.export.test_engine import L4\n"
        "sys.modules['tensorrt'] = fake = FakeTensorRT()\n"
        "fake.on_build = lambda: (print('building', flush=True), time.sleep(60))\n"
        "ensure(Path(sys.argv[1]), 'detector', EngineOptions(Path(sys.argv[2])), machine=L4)\n"
    )
    command = [sys.executable, "-c", code, repository, options.engines]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as builder:
        assert builder.stdout.readline() == b"building\n"
        builder.send_signal(signal.SIGKILL)
    assert serves(repository)[0] == "onnxruntime"

    ensured = ensure(repository, "detector", dataclasses.replace(options, wait_seconds=30), machine=L4)

    assert (ensured.outcome, trt.builds) == ("built", 1)
    assert list(options.engines.glob("*.lock*")) == []


def test_brought_from_a_shared_repository(trt, repository, options, tmp_path):
    """Machines of several kinds share a repository; each serves its own copy, under the same version number."""
    ensure(repository, "detector", options, machine=dataclasses.replace(L4, gpu_name="T4"))
    before = fingerprint(repository)

    bring(repository, tmp_path / "own", "detector")
    assert serves(tmp_path / "own") == ("onnxruntime", tiny_graph())
    ensure(tmp_path / "own", "detector", options, machine=L4)
    bring(repository, tmp_path / "own", "detector")

    assert serves(tmp_path / "own")[0] == "tensorrt"
    assert fingerprint(repository) == before
    assert trt.builds == 2


def test_new_version_is_brought(trt, repository, options, tmp_path):
    """A newer version of the shared repository comes with its number."""
    bring(repository, tmp_path / "own", "detector")
    ensure(tmp_path / "own", "detector", options, machine=L4)
    other = tiny_graph(batch="images")
    publish(repository, config_for(other), other)
    load(repository, 2)

    bring(repository, tmp_path / "own", "detector")

    assert find_published(tmp_path / "own", "detector").loaded == (2,)
    assert serves(tmp_path / "own") == ("onnxruntime", other)
    assert trt.builds == 1


@pytest.mark.usefixtures("trt")
def test_a_version_that_is_not_loaded_is_not_brought(repository, options, tmp_path):
    """What counts is what the version policy names: an export alone changes nothing for the machines."""
    publish(repository, config_for(b"newer"), b"newer")

    bring(repository, tmp_path / "own", "detector")
    found = ensure(tmp_path / "own", "detector", options, machine=L4)

    assert (found.outcome, found.model.version) == ("built", 1)
    assert find_published(tmp_path / "own", "detector").versions == (1,)


def test_two_loaded_versions_are_brought_and_serve_onnx(trt, repository, options, tmp_path):
    """Beside a canary there is no plan, which is that of one version; the reason is told."""
    other = tiny_graph(batch="images")
    publish(repository, config_for(other), other)
    load(repository, 1, 2)

    bring(repository, tmp_path / "own", "detector")
    found = ensure(tmp_path / "own", "detector", options, machine=L4)

    assert (found.outcome, found.reason) == ("onnx", "versions 1, 2 are loaded, and a plan is that of one")
    assert find_published(tmp_path / "own", "detector").loaded == (1, 2)
    assert trt.builds == 0


def test_other_origin_is_not_overwritten(repository, tmp_path):
    """A version of the same number with another graph is not replaced silently."""
    other = tiny_graph(batch="images")
    publish(tmp_path / "own", config_for(other), other)

    with pytest.raises(RepositoryError, match="holds version 1 of another origin"):
        bring(repository, tmp_path / "own", "detector")


def test_models(repository):
    """All models with an ONNX file, and nothing else."""
    (repository / "empty").mkdir()
    (repository / "standin" / "1").mkdir(parents=True)

    assert models(repository) == ["detector"]


def test_re_export_keeps_the_plan(trt, repository, options):
    """A new config for the same graph goes on serving its plan; with another largest batch it does not."""
    served = ensure(repository, "detector", options, machine=L4).model.config

    kept = keeping_plan(served, config_for(tiny_graph(), instances=5))
    assert (kept.backend, kept.instance_group[0].count) == ("tensorrt", 5)
    assert kept.default_model_filename == plan_file_name(kept.parameters["plan_key"].string_value)
    assert keeping_plan(served, config_for(tiny_graph(), max_batch_size=4)).backend == "onnxruntime"
    assert keeping_plan(served, config_for(b"other")).backend == "onnxruntime"
    assert trt.builds == 1


def test_accelerator_in_the_config():
    """ONNX Runtime's own TensorRT: precision, one profile, and a cache of each graph's own."""
    config = config_for(tiny_graph(), tensorrt_accelerator="/engines/")

    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    digest = hashlib.sha256(tiny_graph()).hexdigest()
    assert (config.backend, accelerator.name) == ("onnxruntime", "tensorrt")
    assert dict(accelerator.parameters) == {
        "precision_mode": "FP32",
        "max_workspace_size_bytes": str(4 << 30),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": f"/engines/{digest[:16]}",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": "/engines/",
        "trt_profile_min_shapes": "images:1x64x64x3",
        "trt_profile_opt_shapes": "images:8x64x64x3",
        "trt_profile_max_shapes": "images:8x64x64x3",
    }


def test_accelerator_and_plans_exclude_each_other(trt, tmp_path, options):
    """One of both builds engines, not both: such a model is left as it is."""
    publish(tmp_path / "models", config_for(tiny_graph(), tensorrt_accelerator="/engines"), tiny_graph())
    before = fingerprint(tmp_path / "models")

    ensured = ensure(tmp_path / "models", "detector", options, machine=L4)

    assert (ensured.outcome, trt.calls) == ("onnx", [])
    assert "exported with --tensorrt-accelerator" in ensured.reason
    assert fingerprint(tmp_path / "models") == before


# ------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def gpu(trt, monkeypatch):
    """A machine with TensorRT and a GPU."""
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: FakeCuda(("NVIDIA L4", 8, 9)))
    return trt


@pytest.fixture
def run(repository, options):
    """`eagleeye engine ensure`, in this process."""

    def run(*arguments):
        paths = ["--repository", repository, "--engines", options.engines]
        return CliRunner().invoke(main, ["engine", "ensure", *map(str, [*paths, *arguments])])

    return run


@pytest.mark.usefixtures("gpu")
def test_command(run):
    """Says what each model is served by; a second run finds all done."""
    first, second = run(), run()

    assert (first.exit_code, first.stdout) == (0, "detector version 1 serves a new plan\n")
    assert (second.exit_code, second.stdout) == (0, "detector version 1 serves its plan, as before\n")
    assert "detector: building the plan for NVIDIA L4 (8.9), TensorRT 10.15.1" in first.stderr


def test_command_without_gpu(run, repository, monkeypatch):
    """Without TensorRT, all is well for a pod (0), and not for a Job that is to make plans (3)."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    before = fingerprint(repository)

    pod, job = run(), run("--require-plan")

    assert (pod.exit_code, job.exit_code) == (0, 3)
    assert pod.stdout.startswith("detector version 1 serves ONNX: TensorRT is not installed here; build in NVIDIA's")
    assert fingerprint(repository) == before


@pytest.mark.usefixtures("gpu")
def test_command_for_init_containers(run, tmp_path, repository):
    """With --source and --no-build a pod's own repository is made from the shared one, at once."""
    done = run("--source", repository, "--repository", tmp_path / "own", "--no-build")

    assert done.exit_code == 0
    assert "serves ONNX: no plan for NVIDIA L4 (8.9), TensorRT 10.15.1 is cached" in done.stdout
    assert serves(tmp_path / "own")[0] == "onnxruntime"


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["--model", "nothing"], 1, "has no model nothing with an ONNX file"),
        (["--best-batch", "9"], 1, "tuned for batches of 9: the model takes 8 at most"),
        (["--repository", "/nowhere"], 1, "/nowhere holds no model with an ONNX file"),
        (["--source", "/nowhere"], 2, "does not exist"),
        (["--optimization-level", "6"], 2, "6 is not in the range"),
    ],
)
def test_command_errors(run, arguments, code, words):
    """One line, and the documented exit code."""
    done = run(*arguments)

    assert done.exit_code == code
    assert words in done.stderr
    assert "Traceback" not in done.output


def test_help_tells_exit_codes(run):
    """The help is where an operator looks for them."""
    text = " ".join(run("--help").stdout.split())

    assert "Exit codes: 0 every model can be served" in text
    assert "3 with --require-plan" in text


def test_export_as_tensorrt(gpu, shipped, tmp_path):
    """`eagleeye export --format tensorrt` ends with a plan of the exported graph that is served."""
    arguments = [
        "--variant", shipped.variant, "--checkpoint", shipped.checkpoint, "--labels", shipped.labels, "--size", 64,
        "--name", "boards", "--repository", tmp_path / "models", "--engines", tmp_path / "engines",
        "--format", "tensorrt", "--best-batch", 4,
    ]  # fmt: skip

    done = CliRunner().invoke(main, ["export", *map(str, arguments)])

    published = find_published(tmp_path / "models", "boards")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == "plan              built: NVIDIA L4, TensorRT 10.15.1, batches 1/4/16"
    assert (published.config.backend, published.parameter("gpu_name")) == ("tensorrt", "NVIDIA L4")
    assert gpu.builds == 1


def test_export_as_tensorrt_without_gpu(shipped, tmp_path, monkeypatch):
    """Without TensorRT that is told at once, and nothing is exported."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    arguments = [
        "--variant", shipped.variant, "--checkpoint", shipped.checkpoint, "--labels", shipped.labels,
        "--name", "boards", "--repository", tmp_path / "models", "--format", "tensorrt",
    ]  # fmt: skip

    done = CliRunner().invoke(main, ["export", *map(str, arguments)])

    assert done.exit_code == 1
    assert done.stderr.startswith("Error: TensorRT is not installed here; build in NVIDIA's container")
    assert list(tmp_path.iterdir()) == []
