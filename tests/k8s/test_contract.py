"""A real Prometheus scrapes a real Triton and gateway: what the autoscalers ask for is there, idle and busy.

Scraping and rules are those of `k8s/plain`, at a faster pace; the pods' names, which Kubernetes would tell, are given.
DCGM's page is a recorded one, for there is no GPU here.
"""

import asyncio
import contextlib
import json
import math
import os
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import aiohttp
import pytest
import yaml
from click.testing import CliRunner

from loadtest.profile import profile
from tests.conftest import missing
from tests.k8s.conftest import K8S, objects, of_kind
from tests.k8s.test_rules import RECORDED, TRITONS, dashboards, extract_rules
from tests.platform.conftest import Platform, free_ports
from triton_runtime.standin import MODEL, encode_png, numbered_picture

PATIENCE_SECONDS = 60
CALLERS = 48  # 32 slots, two full batches, and 16 that wait in the gateway
NAMESPACE = "eagleeye"
DCGM_PAGE = b"""\
# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-1",pci_bus_id="00000000:00:1E.0",device="nvidia0",modelName="Tesla T4",\
Hostname="n1",container="triton",namespace="eagleeye",pod="triton-0"} 97
# HELP DCGM_FI_PROF_GR_ENGINE_ACTIVE Ratio of time the graphics engine is active.
# TYPE DCGM_FI_PROF_GR_ENGINE_ACTIVE gauge
DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu="0",UUID="GPU-1",pci_bus_id="00000000:00:1E.0",device="nvidia0",modelName="Tesla T4",\
Hostname="n1",container="triton",namespace="eagleeye",pod="triton-0"} 0.42
"""
QUIET_PANELS = {  # what does not happen in this test
    "Calls made again, and endpoints ejected", "GPU memory", "Replicas", "Autoscaler can't read its metrics",
    "Images in the shadow", "Boxes that a candidate agrees on", "Boxes on which they differ",
    "Candidate's score less the served one", "Overlap of boxes that agree (IoU)",
    "Inference of the same images, served and candidate",
}  # fmt: skip


class DcgmExporter(BaseHTTPRequestHandler):
    """Answers with the recorded page."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(DCGM_PAGE)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def dcgm_port():
    with ThreadingHTTPServer(("127.0.0.1", 0), DcgmExporter) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    """A gateway and a Triton that takes 200 ms for a full batch."""
    platform = Platform.start(
        tmp_path_factory.mktemp("contract"),
        EAGLEEYE_STANDIN="1",
        EAGLEEYE_STANDIN_BASE_MS="40",
        EAGLEEYE_STANDIN_PER_IMAGE_MS="10",
    )
    yield platform.wait_until_ready()
    platform.stop()


class Prometheus:
    """A Prometheus that runs."""

    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}"

    def query(self, query):
        """The values of an instant query."""
        address = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(address, timeout=10) as response:
            return [float(each["value"][1]) for each in json.load(response)["data"]["result"]]

    def until(self, condition):
        """Ask until it is so; its last answer."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition(answer := self.answers()):
            assert time.monotonic() < deadline, answer
            time.sleep(0.2)
        return answer

    def answers(self):
        """What each query of the autoscalers has for an answer."""
        return {query: self.query(query) for query in autoscaler_queries()}

    def is_up(self):
        with contextlib.suppress(OSError):
            return self.query("vector(1)") == [1]
        return False


def autoscaler_queries():
    for overlay in ("gpu", "scale-to-zero"):
        for each in of_kind(objects(K8S / "overlays" / overlay), "ScaledObject"):
            for trigger in each["spec"]["triggers"]:
                if trigger["type"] == "prometheus":
                    yield trigger["metadata"]["query"]


def told(job, port, pod, container, port_name):
    """A job whose pod is told, as Kubernetes would, instead of discovered."""
    meta = {
        "namespace": NAMESPACE,
        "pod_name": pod,
        "pod_container_name": container,
        "pod_container_port_name": port_name,
    }
    meta["pod_container_port_number"] = "9400"
    labels = {f"__meta_kubernetes_{key}": value for key, value in meta.items()}
    job.pop("kubernetes_sd_configs")
    return job | {
        "static_configs": [{"targets": [f"127.0.0.1:{port}"], "labels": labels}],
        "scrape_interval": "1s",
        "scrape_timeout": "1s",
    }


@pytest.fixture(scope="module")
def prometheus(platform, dcgm_port, tmp_path_factory):
    if shutil.which("prometheus") is None:
        missing("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((K8S / "plain" / "prometheus.yaml").read_text())
    gateway, triton, dcgm = config["scrape_configs"]
    config["scrape_configs"] = [
        told(gateway, platform.ports["http"], "gateway-0", "gateway", "admin"),
        told(triton, platform.ports["triton_metrics"], "triton-0", "triton", "metrics"),
        told(dcgm, dcgm_port, "dcgm-exporter-0", "exporter", "metrics"),
    ]
    rules = yaml.safe_load(extract_rules.TARGET.read_text())
    for group in rules["groups"]:
        group["interval"] = "1s"
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    (port,) = free_ports(1)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    server, deadline = Prometheus(port), time.monotonic() + PATIENCE_SECONDS
    try:
        while not server.is_up():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait(30)


def are_single_and_finite(answers):
    return all(len(values) == 1 and math.isfinite(values[0]) for values in answers.values())


@contextlib.asynccontextmanager
async def load(platform):
    """Callers without a pause."""
    stop = asyncio.Event()
    picture = encode_png(numbered_picture(7))

    async def call(session):
        while not stop.is_set():
            async with session.post("/v1/detect", data=picture) as response:
                assert response.status == 200

    async with aiohttp.ClientSession(platform.url) as session:
        callers = [asyncio.create_task(call(session)) for _ in range(CALLERS)]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*callers)


async def test_every_query_has_one_finite_answer_idle_and_busy(platform, prometheus):
    """A gateway that has never been asked, then one with more to do than its Triton can."""
    idle = await asyncio.to_thread(prometheus.until, are_single_and_finite)
    busy_gpu = idle.pop("eagleeye:gpu_busy_percent:sum1m")
    assert all(values == [0] for values in idle.values()), idle
    assert busy_gpu == [pytest.approx(42)]

    async with load(platform):
        busy = await asyncio.to_thread(
            prometheus.until, lambda answers: all(values and values[0] > 0 for values in answers.values())
        )
        assert are_single_and_finite(busy), busy
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await asyncio.to_thread(panels_without_data, prometheus) != QUIET_PANELS:
                await asyncio.sleep(0.2)
    names = await asyncio.to_thread(
        prometheus.query,
        'count(count by (__name__) ({__name__=~"nv_inference_.*", namespace="eagleeye", pod="triton-0"}))',
    )
    assert names[0] >= len([name for name in TRITONS if name.startswith("nv_inference_")])
    assert await asyncio.to_thread(prometheus.query, 'ALERTS{alertname=~"EagleEyeNo.*"}') == []


def panels_without_data(prometheus):
    """Titles of panels of which no query has an answer; none may be wrong."""
    empty = set()
    for dashboard in dashboards.DASHBOARDS:
        for panel in dashboard.panels:
            queries = [
                _chosen(query, namespace=NAMESPACE, pod="triton-0", model=MODEL, __rate_interval="10s")
                for query in panel.queries.values()
            ]
            if not any(prometheus.query(query) for query in queries):
                empty.add(panel.title)
    return empty


def _chosen(query, **variables):
    """The query with a dashboard's variables filled in."""
    for name, value in variables.items():
        query = query.replace(f"${name}", value)
    return query


def test_a_profile_is_a_patch_that_the_overlay_takes(platform, prometheus, tmp_path):
    """`eagleeye profile` measures the live service, kustomize applies what it writes, and Prometheus has an answer."""
    picture = tmp_path / "picture.png"
    picture.write_bytes(encode_png(numbered_picture(7)))
    command = ["--url", platform.url, "--image", picture, "--seconds", "0.5", "--p99-ms", "400", "--output", tmp_path]
    done = CliRunner().invoke(profile, list(map(str, command)))
    assert done.exit_code == 0, done.output
    up = os.path.relpath(K8S, tmp_path.resolve())
    lines = ["patches:", "- target: {kind: ScaledObject, name: triton}", "  path: demand.yaml"]
    (tmp_path / "kustomization.yaml").write_text("\n".join([f"resources: [{up}/overlays/gpu]", *lines]))
    scaled = of_kind(objects(tmp_path.resolve()), "ScaledObject")
    (triton,) = (each["spec"] for each in scaled if each["metadata"]["name"] == "triton")
    measured = json.loads((tmp_path / "profile.json").read_text())["capacity"]
    assert triton["triggers"][0]["name"] == "demand"
    assert triton["triggers"][0]["metadata"]["threshold"] == str(max(1, int(measured["callers"] * 0.8)))
    assert [each["name"] for each in triton["triggers"]] == ["demand", "pending", "queue-latency", "gpu-busy", "rate"]
    (rate,) = (each["metadata"] for each in triton["triggers"] if each["name"] == "rate")
    assert float(rate["threshold"]) == pytest.approx(measured["images_per_second"] * 0.65, abs=0.05)
    assert rate["query"] in RECORDED
    assert {**rate, "query": "", "threshold": ""} == {**triton["triggers"][0]["metadata"], "query": "", "threshold": ""}
    (value,) = prometheus.query(rate["query"])
    assert math.isfinite(value)


async def test_a_load_that_fails_does_not_make_a_pod_unready(platform):
    """It goes on serving what it has; with strict readiness it would be out of DNS for good, and so would all pods."""
    broken = platform.folder / "state" / "standin" / "broken"
    triton = f"http://127.0.0.1:{platform.ports['triton_http']}"
    async with aiohttp.ClientSession() as session:
        (broken / "1").mkdir(parents=True)
        (broken / "config.pbtxt").write_text('backend: "nothing"\nmax_batch_size: 1\n')
        async with session.post(f"{triton}/v2/repository/models/broken/load") as response:
            assert response.status == 400
        assert await status(session, f"{triton}/v2/health/ready") == 200
    shutil.rmtree(broken)


async def status(session, url):
    async with session.get(url) as response:
        return response.status
