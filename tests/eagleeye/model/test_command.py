"""`eagleeye model` on a repository, a rollout file and Tritons that load what the repository names."""

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from click.testing import CliRunner

from eagleeye.files import exclusive
from eagleeye.model import command
from eagleeye.model.command import model
from eagleeye.model.gateways import Gateways
from export.repository import CONFIG_FILE, FACTS_FILE, as_text, find_published, loading, publish, replace_config
from gateway.rollout import ModelRollout, Rollout, Shadow, read_rollout, write_rollout
from tests.eagleeye.model.fake_fleet import Triton, serving
from tests.export.test_repository import description, model_config

NAME = "ns"
UP = "is as it was before everywhere"


class OnDisk:
    """What the fake Tritons read: the real config."""

    def __init__(self, repository):
        self.repository = repository

    @property
    def versions(self):
        return set(find_published(self.repository, NAME).loaded)


@pytest.fixture
def repository(tmp_path):
    """Three versions, of which the first is loaded."""
    for number, precision in enumerate(("fp32", "fp16", "int8"), start=1):
        content = bytes(1024 * number)
        facts = description(name=NAME, precision=precision, map50_95=0.58 if number == 1 else None)
        publish(tmp_path / "models", model_config(facts, hashlib.sha256(content).hexdigest()), content)
    return tmp_path / "models"


@pytest.fixture
def rollout_file(tmp_path):
    return tmp_path / "rollout.json"


@pytest.fixture
def run(repository, rollout_file):
    """Runs a subcommand with that repository; with `file`, with the rollout file too."""

    def run(*words, file=False):
        options = ["--repository", repository, *(["--rollout-file", rollout_file] if file else [])]
        return CliRunner().invoke(model, [str(word) for word in (*words, *options)])

    return run


@contextlib.contextmanager
def background(*tritons):
    """Their `--triton-url`, while they serve from a thread."""
    loop, ready, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    addresses = []

    async def serve():
        async with serving(*tritons) as found:
            addresses.extend(found)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait()
    try:
        yield ",".join(addresses)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@pytest.fixture
def tritons(repository):
    return [Triton(OnDisk(repository), 1) for _ in range(3)]


@pytest.fixture
def live(tritons):
    with background(*tritons) as url:
        yield url


def loaded(repository):
    return find_published(repository, NAME).loaded


def weights(file):
    return read_rollout(file).of(NAME).weights


# --------------------------------------------------------------------------------------------------------------- look


def test_list_is_a_table(run, repository, rollout_file):
    """One line for each version: size, facts, whether it is loaded, and its share."""
    write_rollout(rollout_file, Rollout({NAME: ModelRollout({1: 19, 2: 1}, {1: 100}, Shadow(3, 10))}))
    digests = [find_published(repository, NAME).facts(version)["model_sha256"][:12] for version in (1, 2, 3)]

    done = run("list", file=True)

    assert done.exit_code == 0, done.output
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["NAME", "VERSION", "SIZE", "PRECISION", "MAP", "SHA256", "LOADED", "SERVES"],
        ["ns", "1", "0.00", "MiB", "fp32", "0.5800", digests[0], "yes", "95", "%,", "previous"],
        ["ns", "2", "0.00", "MiB", "fp16", "-", digests[1], "no", "5", "%"],
        ["ns", "3", "0.00", "MiB", "int8", "-", digests[2], "no", "0", "%,", "shadow", "10", "%"],
    ]


def test_list_has_what_every_triton_serves(run, tritons, live, unused_tcp_port):
    """One that is silent is named below, and does not keep the others from being shown."""
    tritons[0].ready = {1, 2}

    done = run("list", "--triton-url", f"{live},127.0.0.1:{unused_tcp_port}")

    lines = done.stdout.splitlines()
    assert [line.partition(" no ")[2] or line.partition(" yes ")[2] for line in lines[1:4]] == [
        "    by default  3 of 3 ready",
        "     -           1 of 3 ready",
        "     -           0 of 3 ready",
    ]
    assert lines[4].startswith(f"127.0.0.1:{unused_tcp_port} is unavailable")


def test_show_and_json_have_everything(run, live):
    """Files with their sizes, facts, and the state on each Triton."""
    shown = json.loads(run("show", NAME, "--json", "--triton-url", live).stdout)
    (listed,) = json.loads(run("list", "--json", "--triton-url", live).stdout)["models"]
    text = run("show", NAME, "--triton-url", live).stdout

    assert listed == {key: value for key, value in shown.items() if key != "silent"}
    first, *_, third = shown["versions"]
    assert (first["version"], first["is_loaded"], first["percent"]) == (1, True, None)
    assert third["files"]["model.onnx"] == 3072
    assert third["facts"]["precision"] == "int8"
    assert set(first["tritons"].values()) == {"READY"}
    assert set(third["tritons"].values()) == {"ABSENT"}
    assert "model.onnx" in text
    assert "3,072 bytes" in text


@pytest.mark.parametrize(
    "words, said",
    [
        (("show", "nobody"), "has no model nobody; there are: ns"),
        (("load", NAME, "7"), "ns has no version 7; there are: 1, 2, 3"),
        (("unload", NAME, "7"), "ns has no version 7; there are: 1, 2, 3"),
        (
            ("unload", NAME, "1"),
            "version 1 is all that ns loads, and Triton does not start on a model that loads nothing",
        ),
        (("unload", NAME), "every Triton loads the models of its repository: name those that run with --triton-url"),
        (("promote", NAME, "2"), "version 2 is not ready on the Tritons of"),
        (("promote", NAME, "1", "--percent", "5"), "version 1 serves alone"),
        (("rollback", NAME), "there is nothing to roll ns back to"),
        (("shadow", NAME, "2"), "version 2 is not ready on the Tritons of"),
    ],
)
def test_what_cannot_be_is_one_line(run, repository, words, said):
    """And changes nothing."""
    before = (repository / NAME / CONFIG_FILE).read_bytes()

    done = run(*words, file=words[0] in {"promote", "rollback", "shadow"})

    assert done.exit_code == 1
    (line,) = done.output.splitlines()
    assert line.startswith("Error: ")
    assert said in line
    assert (repository / NAME / CONFIG_FILE).read_bytes() == before


def test_no_repository_is_told(tmp_path):
    """An empty table would look as if all was well."""
    done = CliRunner().invoke(model, ["list", "--repository", str(tmp_path / "nothing")])

    assert (done.exit_code, done.output) == (1, f"Error: there is no model repository {tmp_path / 'nothing'}\n")


# --------------------------------------------------------------------------------------------------- load and unload


def test_the_repository_alone(run, repository):
    """Versions are added and taken away; the rest of the config stays, and it is told that no Triton knows."""
    before = find_published(repository, NAME).config

    done = run("load", NAME)
    assert (done.exit_code, done.stdout) == (0, "ns: loaded are versions 1, 3\n")
    assert "only the repository was changed" in done.stderr
    assert run("load", NAME, "2", "--only").exit_code == 0
    assert loaded(repository) == (2,)
    assert run("load", NAME, "1", "3").exit_code == 0
    assert run("unload", NAME, "2", "3").exit_code == 0

    assert find_published(repository, NAME).config == before


def test_load_and_unload_reach_every_triton(run, repository, tritons, live):
    """And the repository says the same."""
    assert run("load", NAME, "2", "--triton-url", live).exit_code == 0
    assert [triton.ready for triton in tritons] == [{1, 2}] * 3
    assert loaded(repository) == (1, 2)

    assert run("unload", NAME, "1", "--triton-url", live).exit_code == 0
    assert [triton.ready for triton in tritons] == [{2}] * 3
    assert loaded(repository) == (2,)

    done = run("unload", NAME, "--triton-url", live)
    assert "a Triton that starts loads it again" in done.stdout
    assert [triton.ready for triton in tritons] == [set()] * 3


def test_what_is_loaded_already_is_not_written_again(run, repository, tritons, live):
    """A repository that can't be written to is no reason to fail then; Tritons are told all the same."""
    config = repository / NAME / CONFIG_FILE
    before = config.stat().st_mtime_ns
    tritons[1].ready = set()

    alone = run("load", NAME, "1")
    everywhere = run("load", NAME, "1", "--triton-url", live)

    assert (alone.exit_code, everywhere.exit_code) == (0, 0)
    assert "the repository has it so already: a Triton that runs is told" in alone.stderr
    assert [triton.ready for triton in tritons] == [{1}] * 3
    assert config.stat().st_mtime_ns == before


def test_a_failed_load_restores_the_config_to_the_byte(run, repository, tritons, live):
    """Comments of whoever wrote it included; the message names the Triton, and exit code 1 tells scripts."""
    config = repository / NAME / CONFIG_FILE
    config.write_text(f"# by hand\n{config.read_text()}")
    before = config.read_bytes()
    tritons[1].broken = {2}

    done = run("load", NAME, "2", "--triton-url", live)

    assert done.exit_code == 1
    error = done.stderr.splitlines()[-1]
    assert error.startswith(
        f"Error: {live.split(',')[1]} said: load failed for model 'ns': version 2 is at UNAVAILABLE"
    )
    assert error.endswith(UP)
    assert config.read_bytes() == before
    assert [triton.ready for triton in tritons] == [{1}] * 3


def test_a_version_without_its_file_is_not_even_tried(run, repository, tritons, live):
    """Triton would refuse it, or serve another one in silence."""
    (repository / NAME / "2" / "model.onnx").unlink()

    done = run("load", NAME, "2", "--triton-url", live)

    assert (done.exit_code, "version 2 has no file" in done.output) == (1, True)
    assert [triton.loads for triton in tritons] == [0, 0, 0]


def test_a_change_meanwhile_is_not_written_over(run, repository, tritons, live, monkeypatch):
    """What an export writes between reading and writing stays, and nobody is told to load."""

    def export_meanwhile(published, *_):
        config = find_published(repository, NAME).config
        config.max_batch_size = 3
        replace_config(published, config)

    monkeypatch.setattr(command, "_require_files", export_meanwhile)

    done = run("load", NAME, "2", "--triton-url", live)

    assert (done.exit_code, "was changed by somebody else just now; run this again" in done.output) == (1, True)
    assert find_published(repository, NAME).config.max_batch_size == 3
    assert [triton.loads for triton in tritons] == [0, 0, 0]


def test_a_model_without_a_readable_config_does_not_hide_the_others(run, repository):
    """It is named below the table, and in the JSON."""
    (repository / "broken").mkdir()
    (repository / "broken" / CONFIG_FILE).write_text("this is no config {")

    done, as_json = run("list"), json.loads(run("list", "--json").stdout)

    assert f"{repository}/broken has no readable config.pbtxt (1:1 : " in done.output.splitlines()[-1]
    assert [each["name"] for each in as_json["models"]] == [NAME]
    assert list(as_json["unreadable"]) == ["broken"]


@pytest.mark.parametrize("facts", ["[1]", "garbage", '{"map50_95": null}', '{"map50_95": "high"}'])
def test_damaged_facts_keep_nothing_from_being_shown(run, repository, facts):
    """A version of which nothing is known has none; a number that is none is not shown as one."""
    (repository / NAME / "1" / FACTS_FILE).write_text(facts)

    done = run("list")

    assert (done.exit_code, run("show", NAME).exit_code) == (0, 0)
    assert done.stdout.splitlines()[1].split()[4:] == ["-", "-", "-", "yes", "by", "default"]


def test_a_model_without_a_version_is_told_as_that(run, repository):
    """And not by a number that nobody has named."""
    (repository / "empty").mkdir()
    (repository / "empty" / CONFIG_FILE).touch()

    done = run("load", "empty")

    assert (done.exit_code, f"{repository}/empty has no version at all" in done.output) == (1, True)


def test_commands_at_a_time_change_a_model_one_after_the_other(repository, tritons, live):
    """Each begins with what the one before has left; neither takes the other's work for a Triton that goes astray."""
    options = ["--repository", str(repository), "--triton-url", live]
    with exclusive(repository / NAME):
        process = subprocess.Popen(
            [sys.executable, "-m", "eagleeye", "model", "load", NAME, "3", *options], stderr=subprocess.PIPE, text=True
        )
        assert "waiting for another command that changes what ns loads" in process.stderr.readline()
        published = find_published(repository, NAME)
        (repository / NAME / CONFIG_FILE).write_bytes(as_text(loading(published.config, [1, 2])))
    process.communicate(timeout=60)

    assert process.returncode == 0
    assert [triton.ready for triton in tritons] == [{1, 2, 3}] * 3


def test_who_answers_is_decided_when_other_commands_are_through(run, repository, rollout_file):
    """What they have unloaded meanwhile gets no requests, and what was found ready is not unloaded in between."""
    run("load", NAME, "2")
    rollout = Rollout({NAME: ModelRollout({1: 100}, {2: 100})})
    write_rollout(rollout_file, rollout)
    options = ["--repository", str(repository), "--rollout-file", str(rollout_file)]
    with exclusive(repository / NAME):
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "eagleeye", "model", *words, *options], stderr=subprocess.PIPE, text=True
            )
            for words in (["promote", NAME, "2"], ["rollback", NAME], ["shadow", NAME, "2"])
        ]
        waiting = [process.stderr.readline() for process in processes]
        published = find_published(repository, NAME)
        (repository / NAME / CONFIG_FILE).write_bytes(as_text(loading(published.config, [1])))
    said = [process.communicate(timeout=60)[1] for process in processes]

    assert waiting == ["waiting for another command that changes what ns loads\n"] * 3
    assert [process.returncode for process in processes] == [1, 1, 1]
    assert all("version 2 is not ready on" in words for words in said)
    assert read_rollout(rollout_file) == rollout


def test_who_answers_is_decided_without_the_repository_as_well(rollout_file, tmp_path, live):
    """It may be on another machine than the rollout file."""
    options = ["--repository", tmp_path / "absent", "--triton-url", live, "--rollout-file", rollout_file]
    done = CliRunner().invoke(model, ["promote", NAME, "1", *map(str, options)])

    assert (done.exit_code, done.stdout) == (0, "ns: version 1 100 %\n")


def test_a_rollout_file_may_lie_in_the_models_folder(repository):
    """A command that has its lock does not wait for itself."""
    file = repository / NAME / "rollout.json"
    options = ["--repository", repository, "--rollout-file", file]
    process = subprocess.run(
        [sys.executable, "-m", "eagleeye", "model", "promote", NAME, "1", *options], timeout=60, check=False
    )

    assert (process.returncode, weights(file)) == (0, {1: 100})


@pytest.mark.parametrize("seconds", ["nan", "inf", "1e30", "0"])
def test_a_time_that_grpc_can_not_hold_is_refused(run, seconds):
    """It would be over at once."""
    assert run("load", NAME, "2", "--timeout-seconds", seconds).exit_code == 2


@pytest.mark.parametrize("name", ["", ".", "..", f"{NAME}/", f"../models/{NAME}"])
def test_a_path_is_no_name(run, repository, name):
    """Triton and the rollout file would not know it; and a repository is no model that is to be removed."""
    done = run("load", name, "2")

    assert (done.exit_code, done.output) == (1, f"Error: {repository} has no model {name}; there are: {NAME}\n")
    assert loaded(repository) == (1,)


def test_a_gateway_that_can_not_be_asked_stops_it_before_it_begins(run, rollout_file, unused_tcp_port):
    """No share is changed by a command that fails for a wrong --url."""
    done = run("promote", NAME, "1", "--url", f"http://127.0.0.1:{unused_tcp_port}", file=True)

    assert (done.exit_code, "cannot ask http://127.0.0.1:" in done.output) == (1, True)
    assert not rollout_file.exists()


def test_a_reader_that_leaves_does_not_stop_it_half_way(repository, tritons, live):
    """`eagleeye model load ... 2>&1 | head -1` loads everywhere."""
    options = ["--repository", str(repository), "--triton-url", live]
    reader, writer = os.pipe()
    os.close(reader)
    load = [sys.executable, "-m", "eagleeye", "model", "load", NAME, "2", *options]
    subprocess.run(load, stdout=subprocess.DEVNULL, stderr=writer, check=True, timeout=60)
    os.close(writer)

    assert [triton.ready for triton in tritons] == [{1, 2}] * 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_puts_everything_back(repository, tritons, live, number):
    """As long as it takes; the exit code tells that it was interrupted."""
    config, started = (repository / NAME / CONFIG_FILE).read_bytes(), threading.Event()
    tritons[2].hangs = True

    def on_load():
        tritons[2].hangs = tritons[2].loads == 1
        started.set()

    tritons[2].on_load = on_load
    options = ["--repository", str(repository), "--triton-url", live]
    process = subprocess.Popen(
        [sys.executable, "-m", "eagleeye", "model", "load", NAME, "2", *options], stderr=subprocess.PIPE, text=True
    )
    assert started.wait(60)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)

    assert process.returncode == 130
    assert said.splitlines()[-2:] == [f"{NAME} {UP}", "interrupted"]
    assert (repository / NAME / CONFIG_FILE).read_bytes() == config
    assert [triton.ready for triton in tritons] == [{1}] * 3


def test_a_plan_gives_way_to_onnx(run, repository):
    """It is that of one version, and the config names one file for all."""
    published = find_published(repository, NAME)
    published.config.backend = "tensorrt"
    published.config.default_model_filename = "model.abc.plan"
    replace_config(published, published.config)
    (repository / NAME / "1" / "model.abc.plan").touch()

    done = run("load", NAME, "2")

    config = find_published(repository, NAME).config
    assert "ONNX serves until `eagleeye engine ensure` has run again" in done.stderr
    assert (config.backend, config.default_model_filename) == ("onnxruntime", "")


def test_what_gets_requests_is_not_unloaded(run, repository, rollout_file):
    """Unless somebody insists; nor does `load --only` do so by the way."""
    run("load", NAME, "2")
    write_rollout(rollout_file, Rollout({NAME: ModelRollout({1: 95, 2: 5})}))
    for words in (("unload", NAME, "2"), ("load", NAME, "1", "--only")):
        done = run(*words, file=True)
        assert (done.exit_code, "version 2 gets 5 % of the requests" in done.output) == (1, True)
        assert loaded(repository) == (1, 2)

    assert run("unload", NAME, "2", "--force", file=True).exit_code == 0
    assert loaded(repository) == (1,)


def test_loading_does_not_change_who_answers(run, rollout_file, live):
    """With a rollout file, the version of before is written down first: by default the newest would answer."""
    assert run("load", NAME, "3", "--triton-url", live, file=True).exit_code == 0
    assert weights(rollout_file) == {1: 100}

    assert run("promote", NAME, "3", "--triton-url", live, file=True).exit_code == 0
    assert run("load", NAME, "2", "--triton-url", live, file=True).exit_code == 0
    assert weights(rollout_file) == {3: 100}


# -------------------------------------------------------------------------------------------------- promote, roll back


def test_a_canary_grows_and_is_rolled_back(run, rollout_file, live):
    """In steps, and back in one."""
    run("load", NAME, "2", "--triton-url", live)
    seen = []
    for words in (("2", "--percent", "5"), ("2", "--percent", "50"), ("2",)):
        done = run("promote", NAME, *words, "--triton-url", live, file=True)
        assert done.exit_code == 0, done.output
        seen.append((weights(rollout_file), done.stdout))
    assert seen == [
        ({1: 95, 2: 5}, "ns: version 1 95 %, version 2 5 %\n"),
        ({1: 50, 2: 50}, "ns: version 1 50 %, version 2 50 %\n"),
        ({2: 100}, "ns: version 2 100 %\n"),
    ]

    assert run("rollback", NAME, "--triton-url", live, file=True).stdout == "ns: version 1 100 %\n"
    assert weights(rollout_file) == {1: 100}


def test_a_rollback_needs_its_version_everywhere(run, rollout_file, tritons, live):
    """Who has unloaded the old version can't go back before it is loaded again."""
    run("load", NAME, "2", "--triton-url", live)
    run("promote", NAME, "2", "--triton-url", live, file=True)
    tritons[2].ready = {2}

    done = run("rollback", NAME, "--triton-url", live, file=True)

    assert (done.exit_code, f"version 1 is not ready on {live.split(',')[2]};" in done.output) == (1, True)
    assert weights(rollout_file) == {2: 100}


def test_a_broken_rollout_file_is_not_written_over(run, rollout_file):
    """It may hold what somebody wants to keep."""
    rollout_file.write_text("{")

    done = run("promote", NAME, "1", file=True)

    assert (done.exit_code, "is no valid JSON" in done.output) == (1, True)
    assert rollout_file.read_text() == "{"


def test_a_shadow_begins_and_ends(run, rollout_file):
    """It says nothing about who answers."""
    run("load", NAME, "2")
    assert run("shadow", NAME, "2", "--percent", "25", file=True).exit_code == 0
    assert read_rollout(rollout_file).of(NAME) == ModelRollout(shadow=Shadow(2, 25))

    assert run("shadow", NAME, "--off", file=True).exit_code == 0
    assert read_rollout(rollout_file) == Rollout()
    assert run("shadow", NAME, file=True).exit_code == 2


# --------------------------------------------------------------------------------------------------------------- prune


def test_prune_shows_and_deletes(run, repository, rollout_file):
    """What it would delete is what it deletes: nothing that is loaded, named by the rollout, or the newest."""
    for _ in range(2):
        publish(repository, find_published(repository, NAME).config, b"graph")
    write_rollout(rollout_file, Rollout({NAME: ModelRollout({1: 1}, {2: 1})}))

    assert run("prune", NAME, "--keep", "1", "--dry-run", file=True).stdout == "ns: would delete versions 3, 4\n"
    assert find_published(repository, NAME).versions == (1, 2, 3, 4, 5)
    assert run("prune", NAME, "--keep", "1", file=True).stdout == "ns: deleted versions 3, 4\n"
    assert find_published(repository, NAME).versions == (1, 2, 5)
    assert run("prune", NAME, "--keep", "1", file=True).stdout == "ns: nothing to delete\n"
    assert publish(repository, find_published(repository, NAME).config, b"graph").version == 6


# ------------------------------------------------------------------------------------------------------ shadow report


SPREAD = {"mean": 0.01, "quantiles": {"0.05": -0.02, "0.25": 0.0, "0.5": 0.01, "0.75": 0.02, "0.95": 0.05}}
COUNTS = {"agreed": 90, "relabelled": 4, "missing": 3, "extra": 3, "agreement": 0.9}
COMPARISON = {
    "model": NAME,
    "served_version": "1",
    "candidate_version": "2",
    "is_running": True,
    "since": "2026-01-02T03:04:05Z",
    "images": {"compared": 40, "dropped": 1, "unserved": 0, "failed": 0},
    "boxes": COUNTS,
    "labels": [{"label": "open", **COUNTS}, {"label": "short", **dict.fromkeys(COUNTS, 0), "agreement": None}],
    "relabelled": [{"served": "open", "candidate": "short", "boxes": 4}],
    "score_shift": SPREAD,
    "iou": SPREAD,
    "latency_ms": {"served": SPREAD, "candidate": SPREAD, "difference": SPREAD},
}
EMPTY = {
    **COMPARISON,
    "images": dict.fromkeys(COMPARISON["images"], 0),
    "boxes": {**dict.fromkeys(COUNTS, 0), "agreement": None},
    "labels": [],
    "relabelled": [],
    **dict.fromkeys(("score_shift", "iou", "latency_ms")),
}


@pytest.fixture
def report(monkeypatch):
    """Runs `shadow-report` on a gateway that has made these comparisons."""

    def report(*comparisons, words=()):
        monkeypatch.setattr(Gateways, "get", lambda *_: [{"comparisons": list(comparisons)}])
        return CliRunner().invoke(model, ["shadow-report", "--url", "http://gateway:8082", *map(str, words)])

    return report


def test_a_shadow_report_is_a_table(report):
    """What was compared, how scores and latency differ, and the boxes of each label."""
    lines = report(COMPARISON).stdout.splitlines()

    assert lines[:2] == ["http://gateway:8082", "ns: version 2 in the shadow of 1, since 2026-01-02T03:04:05Z"]
    assert "  agreement    90.00 % of the boxes" in lines
    assert "  latency      +0.01 ms in the middle, 90 % within -0.02 and +0.05 ms" in lines
    assert "  4 boxes of open are short for the candidate" in lines
    assert [line.split() for line in lines[-4:]] == [
        ["LABEL", "AGREED", "RELABELLED", "MISSING", "EXTRA", "AGREEMENT"],
        ["open", "90", "4", "3", "3", "90.00", "%"],
        ["short", "0", "0", "0", "0", "-"],
        ["all", "90", "4", "3", "3", "90.00", "%"],
    ]


def test_a_shadow_report_is_json(report):
    """As the gateway gives it, by address."""
    assert json.loads(report(COMPARISON, words=["--json"]).stdout) == {
        "http://gateway:8082": {"comparisons": [COMPARISON]}
    }


@pytest.mark.parametrize("comparisons", [[COMPARISON], [COMPARISON, EMPTY], [EMPTY]], ids=["one", "two", "empty"])
def test_a_shadow_report_is_a_picture(report, tmp_path, comparisons):
    """Also of a comparison that has just begun."""
    done = report(*comparisons, words=["--picture", tmp_path / "shadow.png"])

    assert done.exit_code == 0, done.output
    assert (tmp_path / "shadow.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_in_the_shadow_is_said(report, tmp_path):
    """And nothing is drawn."""
    done = report(words=["--picture", tmp_path / "shadow.png"])

    assert done.output == "http://gateway:8082: nothing has run in the shadow\n"
    assert not (tmp_path / "shadow.png").exists()
