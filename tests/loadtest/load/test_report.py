"""Judgements, pages and what a deployment says of itself."""

import base64
import hashlib
import html.parser
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import urllib3

from loadtest.load.ledger import Ledger, Outcome
from loadtest.load.load_table import as_markdown, profiles
from loadtest.load.profile import Profile
from loadtest.load.report import html as as_html
from loadtest.load.report import markdown, write
from loadtest.load.run import result
from loadtest.load.watch import Watched, Watcher, ask_prometheus, count, total
from loadtest.verdict import Verdict

PROFILE = {
    "title": "A <b>bold</b> title | with a bar",
    "load": "open",
    "stages": [{"name": "calm", "seconds": 3, "per_second": 9}, {"name": "storm", "seconds": 3, "per_second": 9}],
    "cameras": {"count": 1},
}
WATCHED = Watched({"tritons": [(0.5, 2), (4.5, 3)]}, {"batch_size": "no source", "gpu_percent": "no GPU"})


def outcomes(storm=Verdict.OK):
    """Nine a second for six seconds: 50 ms each, but 400 in the storm."""
    for n in range(54):
        verdict, seconds = (Verdict.OK, 0.05) if n < 27 else (storm, 0.4)
        yield Outcome("http", n / 9, n / 9 + 0.002, n / 9 + seconds, verdict, "" if verdict is Verdict.OK else "broken")


def made(*objectives, noted=None, problems=(), **changes):
    profile = Profile.parse({**PROFILE, **changes, "slo": list(objectives)})
    ledger = Ledger(profile.seconds, profile.stage_at)
    for outcome in outcomes() if noted is None else noted:
        ledger.note(outcome)
    ledger.note_staleness(1.0, "camera", 0.3)
    facts = {"url": "http://x", "model": "m", "generators": 1, "begin": "now"}
    return {**facts, **result(profile, ledger, WATCHED, list(problems), 10.0)}


def test_objectives_set_the_exit_code_and_say_by_how_much():
    """0 where all are met; 1 where one is not, with a line for each."""
    calm = {"figure": "p99_ms", "at_most": 100, "stage": "calm"}
    assert made(calm)["exit_code"] == 0
    missed = made(
        calm,
        {"figure": "p99_ms", "at_most": 100},
        {"figure": "goodput_of_capacity", "at_least": 0.95, "stage": "storm"},
    )
    assert missed["exit_code"] == 1
    assert [each["text"] for each in missed["objectives"]] == [
        "p99_ms (stage 'calm') 50 ms, wanted at most 100 ms",
        "p99_ms 398 ms, wanted at most 100 ms: missed by 298 ms (298%)",
        "goodput_of_capacity (stage 'storm') 0.8, wanted at least 0.95: missed by 0.15 (16%)",
    ]


def test_errors_count_against_objectives():
    """Answers to another image are errors, and no goodput."""
    wrong = made(
        {"figure": "error_share", "at_most": 0},
        {"figure": "goodput_share", "at_least": 0.4, "users": "http"},
        noted=outcomes(Verdict.WRONG),
    )
    assert [each["text"] for each in wrong["objectives"]] == [
        "error_share 0.5, wanted at most 0: missed by 0.5",
        "goodput_share (http) 0.5, wanted at least 0.4",
    ]
    assert wrong["reasons"] == {"broken": 27}


def test_what_was_not_measured_is_not_met():
    """A run without images proves nothing, and one of whose generators nothing was heard is not even valid."""
    nothing = made({"figure": "p99_ms", "at_most": 100, "users": "http"}, noted=())
    assert (nothing["exit_code"], nothing["problems"]) == (3, ["no generator has told what it did"])
    assert nothing["objectives"][0]["text"] == (
        "p99_ms (http) n/a, wanted at most 100 ms: missed, for nothing was measured"
    )


def test_a_run_is_invalid_if_the_generator_lagged():
    """Whatever the objectives say; and if a worker was lost."""
    late = [Outcome("http", n / 9, n / 9 + 0.2, n / 9 + 0.3, Verdict.OK) for n in range(54)]
    lagged = made({"figure": "p99_ms", "at_most": 1}, noted=late, max_lag_ms=100)
    assert lagged["exit_code"] == 3
    (problem,) = lagged["problems"]
    assert re.fullmatch(r"the generator lagged: p99 \d+ ms, and the profile allows 100 ms; add --workers", problem)
    assert made(noted=late, max_lag_ms=300)["exit_code"] == 0
    assert made(problems=["a worker was lost"])["exit_code"] == 3


class Page(html.parser.HTMLParser):
    """Tags, and what they load."""

    def __init__(self):
        super().__init__()
        self.tags, self.loaded, self.inline = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in {"src", "href"}]
        self.inline += [name for name, _ in attrs if name == "style" or name.startswith("on")]


def test_the_page_loads_and_runs_nothing():
    """One file: no scripts, no styles in attributes, the picture within. Its policy allows just that; text is text."""
    text = as_html(made(), "<svg/>")
    page = Page()
    page.feed(text)
    assert page.loaded == [f"data:image/svg+xml;base64,{base64.b64encode(b'<svg/>').decode()}"]
    assert not page.inline
    assert not {"script", "b", "link"} & set(page.tags)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'" in text


def test_markdown_has_tables_and_says_what_is_missing():
    """Bars in names do not break a table."""
    text = markdown(made({"figure": "p99_ms", "at_most": 100}))
    assert "- p99_ms 398 ms, wanted at most 100 ms: missed by 298 ms (298%)" in text
    assert re.search(r"^\| stage storm \| 27 \| 8\.0 \| 400\.0 \|", text, re.MULTILINE)
    assert re.search(r"^\| storm \| 3\.0 \| n/a \| n/a \|$", text, re.MULTILINE)
    assert "- GPU busy %: n/a, no GPU" in text
    assert "![Rates and latencies over time](load.svg)" in text


def test_all_files_are_written(tmp_path):
    """And a result makes the same pages again."""
    found = made({"figure": "p99_ms", "at_most": 100})
    write(found, tmp_path / "new" / "folder")
    files = {path.name: path.read_text() for path in (tmp_path / "new" / "folder").iterdir()}
    assert set(files) == {"report.html", "report.md", "load.svg", "result.json"}
    for label in ("images/s", "latency, ms", "Tritons ready", "calm", "storm"):
        assert label in files["load.svg"]
    write(json.loads(files["result.json"]), tmp_path)
    assert (tmp_path / "report.html").read_text() == files["report.html"]


def test_the_load_table_has_a_row_for_each_load():
    """With units, and the reasons of what has no number."""
    loads = profiles(50.0, 8, 6.0)
    assert [Profile.parse(data).is_open for data in loads.values()] == [True, True, False]
    assert [data["stages"][0] for data in loads.values()] == [
        {"name": "load", "seconds": 6.0, "per_second": 1.0},
        {"name": "load", "seconds": 6.0, "per_second": 25.0},
        {"name": "load", "seconds": 6.0, "users": 8},
    ]
    one = made(stages=[{"name": "load", "seconds": 6, "per_second": 9}])
    text = as_markdown({"idle": one, "peak": one})
    assert re.search(r"^\| peak \| n/a \| 225\.0 ms \| 398\.2 ms \| 8\.5 images/s \| 2\.5 \|$", text, re.MULTILINE)
    assert "- GPU utilisation: n/a, no GPU" in text


METRICS = """# HELP x y
eagleeye_triton_endpoint_up{endpoint="a"} 1.0
eagleeye_triton_endpoint_up{endpoint="b"} 1.0
nv_gpu_utilization{gpu_uuid="1"} 0.5
nv_gpu_utilization{gpu_uuid="2"} 0.7
nv_inference_count{model="m"} %d
nv_inference_exec_count{model="m"} %d
"""


def test_metrics_are_summed_over_labels():
    """Names are whole names."""
    page = METRICS % (20, 5)
    assert total(page, "eagleeye_triton_endpoint_up") == 2
    assert total(page, "nv_inference") is None
    assert count(page, "nv_gpu_utilization") == 2


@pytest.fixture
def deployment():
    """Metrics whose batches have four images, and a Prometheus that knows the number of Tritons only."""
    scrapes = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/metrics":
                scrapes.append(1)
                body = METRICS % (4 * len(scrapes), len(scrapes))
            elif "endpoint_up" in self.path:
                values = [[1000.0, "2"], [1010.0, "NaN"], [1020.0, "4"]]
                body = json.dumps({"status": "success", "data": {"result": [{"metric": {}, "values": values}]}})
            else:
                body = json.dumps({"status": "success", "data": {"result": []}})
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_watcher_reads_what_the_deployment_says(deployment, monkeypatch):
    """Tritons, images per batch since the sample before, and the mean of GPUs."""
    monkeypatch.setattr("loadtest.load.watch._SECONDS", 0.02)
    seen = threading.Event()
    with (
        urllib3.PoolManager() as pool,
        Watcher(pool, f"{deployment}/metrics", [f"{deployment}/metrics"], {}) as watcher,
    ):
        seen.wait(0.3)
    watched = watcher.since(0.0, 1e12)
    assert not watched.missing
    assert {value for _, value in watched.series["tritons"]} == {2.0}
    assert {value for _, value in watched.series["gpu_percent"]} == {60.0}
    assert watched.mean("batch_size", 0.0, 1e12) == pytest.approx(4.0)


def test_a_watcher_says_why_there_is_nothing():
    """A source that was not given, and one that does not answer."""
    with urllib3.PoolManager() as pool, Watcher(pool, "http://127.0.0.1:9/metrics", [], {}) as watcher:
        watcher._sample()
    missing = watcher.since(0.0, 1e12).missing
    assert missing["tritons"] == "http://127.0.0.1:9/metrics does not answer (NewConnectionError)"
    assert missing["gpu_percent"] == "neither --prometheus-url nor --triton-metrics-url is given"


def test_prometheus_is_asked_for_the_time_of_the_run(deployment):
    """Values that are no numbers are left out, and what it does not have is named."""
    with urllib3.PoolManager() as pool:
        watched = ask_prometheus(pool, deployment, 1000.0, 30.0)
        away = ask_prometheus(pool, "http://127.0.0.1:9", 1000.0, 30.0)
    assert watched.series == {"tritons": [(0.0, 2.0), (20.0, 4.0)]}
    assert watched.missing["gpu_percent"].startswith("Prometheus has no samples of avg(100 * DCGM")
    assert away.missing["tritons"] == "Prometheus at http://127.0.0.1:9 gave no answer (NewConnectionError)"
