"""What runs inside pods besides the servers: Triton's readiness with a GPU, and the copy of the models."""

import hashlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.k8s.conftest import K8S, container, environment, objects, of_kind

READY = K8S / "components" / "gpu" / "ready.py"
MEMORY_PAGE = """\
# HELP nv_gpu_memory_total_bytes GPU total memory, in bytes
# TYPE nv_gpu_memory_total_bytes gauge
nv_gpu_memory_total_bytes{{gpu_uuid="GPU-ba9b7bf7-9d92-3a0e-8e4e-1df49dc5e1a9"}} 15843721216.000000
# HELP nv_gpu_memory_used_bytes GPU used memory, in bytes
# TYPE nv_gpu_memory_used_bytes gauge
nv_gpu_memory_used_bytes{{gpu_uuid="GPU-ba9b7bf7-9d92-3a0e-8e4e-1df49dc5e1a9"}} {used:.6f}
nv_inference_request_success{{model="m",version="1"}} 7
"""
TOTAL_BYTES = 15843721216


@pytest.fixture
def triton():
    """A server with Triton's two pages; a test sets what they say."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(self.server.ready_status if self.path == "/v2/health/ready" else 200)
            self.end_headers()
            self.wfile.write(self.server.page.encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.ready_status, server.page = 200, ""
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def probe(port):
    """Exit status and words of the readiness probe, as the kubelet runs it."""
    ports = {"HTTP_PORT": str(port), "METRICS_PORT": str(port)}
    done = subprocess.run(
        [sys.executable, READY], env=os.environ | ports, capture_output=True, text=True, check=False, timeout=20
    )
    return done.returncode, done.stderr.strip()


@pytest.mark.parametrize(
    "share, status, said",
    [
        (0.5, 0, ""),
        (0.949, 0, ""),
        (0.95, 1, "95.0% of the GPU's memory is used, 95% is allowed"),
        (1.0, 1, "100.0% of the GPU's memory is used, 95% is allowed"),
    ],
)
def test_a_pod_near_the_end_of_gpu_memory_is_not_ready(triton, share, status, said):
    """From 95 % on; the reason goes to the pod's events."""
    triton.page = MEMORY_PAGE.format(used=share * TOTAL_BYTES)
    assert probe(triton.server_port) == (status, said)


def test_a_triton_that_reports_no_memory_is_ready(triton):
    """MIG and consumer cards: an alert tells, and requests are served."""
    triton.page = 'nv_inference_request_success{model="m",version="1"} 7\n'
    assert probe(triton.server_port) == (0, "")


def test_a_triton_that_is_not_ready_says_so(triton):
    """Whatever its memory."""
    triton.ready_status = 400
    assert probe(triton.server_port) == (1, "Triton is not ready: HTTP Error 400: Bad Request")


def test_a_triton_that_is_not_there_is_not_ready(triton):
    """One line, no traceback."""
    triton.shutdown()
    triton.server_close()
    status, said = probe(triton.server_port)
    assert status == 1
    assert said.startswith("Triton is not ready: ")
    assert "\n" not in said


def test_the_script_is_what_the_probe_runs():
    """The ConfigMap has it under the path that the probe names."""
    rendered = objects(K8S / "overlays" / "gpu")
    (script,) = (each for each in of_kind(rendered, "ConfigMap") if each["metadata"]["name"].startswith("triton-ready"))
    assert script["data"] == {"ready.py": READY.read_text()}
    mounts = {each["mountPath"] for each in container(rendered, "triton", "triton")["volumeMounts"]}
    assert "/opt/eagleeye" in mounts


@pytest.fixture
def copy(tmp_path):
    """Runs the init container's script as rendered, from a folder of models into another."""
    models = container(objects(K8S / "overlays" / "gpu"), "triton", "models")
    assert environment(models) == {"SOURCE": "/models", "TARGET": "/target"}
    source, target = tmp_path / "models", tmp_path / "target"
    (source / "m" / "1").mkdir(parents=True)
    (source / "m" / "config.pbtxt").write_text("name: 'm'")
    (source / "m" / "1" / "model.onnx").write_bytes(b"graph")
    target.mkdir()
    write_sums(source)

    def run():
        folders = {"SOURCE": str(source), "TARGET": str(target)}
        command = [*models["command"], *models["args"]]
        done = subprocess.run(command, env=os.environ | folders, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    run.source, run.target = source, target
    return run


def write_sums(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  ./{path.relative_to(folder)}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(lines))


def test_models_arrive_as_they_were(copy):
    """Every file is there, and is what it was."""
    status, said = copy()
    assert status == 0, said
    assert (copy.target / "m" / "1" / "model.onnx").read_bytes() == b"graph"


def test_a_container_that_starts_again_copies_again(copy):
    """The volume outlives the container."""
    assert [copy()[0], copy()[0]] == [0, 0]


def test_a_changed_model_stops_the_pod(copy):
    """And the log names the file."""
    (copy.source / "m" / "1" / "model.onnx").write_bytes(b"other")
    status, said = copy()
    assert status != 0
    assert "model.onnx: FAILED" in said


def test_a_file_that_nobody_listed_stops_the_pod(copy):
    """What is served is what was listed, and nothing more."""
    (copy.source / "m" / "1" / "extra.bin").write_bytes(b"?")
    status, said = copy()
    assert (status, "a file is not listed in SHA256SUMS" in said) == (1, True)


def test_an_image_without_models_stops_the_pod(copy):
    """Triton would be ready with nothing to serve."""
    (copy.source / "m" / "config.pbtxt").unlink()
    write_sums(copy.source)
    assert copy()[0] != 0
    (copy.source / "SHA256SUMS").unlink()
    assert copy()[0] != 0
