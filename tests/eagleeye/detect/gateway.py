"""A real gateway as a process of its own, which a test may kill, in front of a Triton that does as it is told."""

import contextlib
import math
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
from google.protobuf import text_format
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.grpc.model_config_pb2 import ModelConfig

from tests.conftest import REPOSITORY
from tests.platform.conftest import free_ports

CONFIG = """
name: "toy"
input { name: "images" data_type: TYPE_UINT8 dims: [ 32, 64, 3 ] }
output { name: "boxes" data_type: TYPE_FP32 dims: [ 2, 4 ] }
output { name: "scores" data_type: TYPE_FP32 dims: [ 2 ] }
output { name: "class_ids" data_type: TYPE_INT32 dims: [ 2 ] }
parameters { key: "labels" value { string_value: '["cat", "dog", "bird"]' } }
parameters { key: "score_threshold" value { string_value: "0.5" } }
"""
READY_SECONDS = 60


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Serves `toy`: a cat as wide as the image is bright, and a less certain dog in the right half.

    Attributes:
        seconds_per_image: how long each takes.
        seen: the brightness of each image that was asked about.
        ready: whether there is a model.
        most: while it has seen more images than these, it holds all answers back: no run gets to its end by itself.
        pause: cleared, it holds all answers back.
    """

    def __init__(self):
        self.pause = threading.Event()
        self.reset()

    def reset(self):
        """Be fast and ready, and begin to count."""
        self.seconds_per_image = 0.0
        self.most = math.inf
        self.seen = set()
        self.ready = True
        self.pause.set()

    def ServerLive(self, request, context):  # noqa: N802 (the service's names)
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request, context):  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelReady(self, request, context):  # noqa: N802
        return service_pb2.ModelReadyResponse(ready=self.ready)

    def RepositoryIndex(self, request, context):  # noqa: N802
        model = service_pb2.RepositoryIndexResponse.ModelIndex(name="toy", version="3", state="READY")
        return service_pb2.RepositoryIndexResponse(models=[model] * self.ready)

    def ModelConfig(self, request, context):  # noqa: N802
        return service_pb2.ModelConfigResponse(config=text_format.Parse(CONFIG, ModelConfig()))

    def ModelInfer(self, request, context):  # noqa: N802
        brightness = float(np.frombuffer(request.raw_input_contents[0], np.uint8).mean())
        self.seen.add(brightness)
        self.pause.wait()
        while len(self.seen) > self.most:
            time.sleep(0.005)
        time.sleep(self.seconds_per_image)
        outputs = {
            "boxes": ("FP32", np.array([[[0, 0, cat_width(brightness), 32], [32, 0, 64, 32]]], np.float32)),
            "scores": ("FP32", np.array([[0.9, 0.6]], np.float32)),
            "class_ids": ("INT32", np.array([[0, 1]], np.int32)),
        }
        return service_pb2.ModelInferResponse(
            model_name="toy",
            model_version="3",
            outputs=[
                service_pb2.ModelInferResponse.InferOutputTensor(name=name, datatype=datatype, shape=array.shape)
                for name, (datatype, array) in outputs.items()
            ],
            raw_output_contents=[array.tobytes() for _, array in outputs.values()],
        )


def cat_width(brightness):
    """The right edge of the cat in pixels of the 64 x 32 input, from the mean of all pixels."""
    return 4 + brightness / 255 * 60


@contextlib.contextmanager
def serving(triton):
    """A gRPC server for the fake; yields its port."""
    server = grpc.server(ThreadPoolExecutor(32))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        triton.reset()
        server.stop(None)


class Gateway:
    """`eagleeye gateway` as a child process."""

    def __init__(self, folder, triton_port, *options):
        self.http_port, self.grpc_port = free_ports(2)
        self.log = folder / f"gateway-{self.http_port}.log"
        self._command = [sys.executable, "-m", "eagleeye", "gateway", "--triton-url", f"127.0.0.1:{triton_port}"]
        self._command += ["--http-port", str(self.http_port), "--grpc-port", str(self.grpc_port), *map(str, options)]
        self._command += ["--drain-seconds", "0", "--grace-seconds", "1", "--max-image-pixels", "1000000"]
        self.process = None

    @property
    def http(self):
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def grpc(self):
        return f"grpc://127.0.0.1:{self.grpc_port}"

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=REPOSITORY)
        deadline = time.monotonic() + READY_SECONDS
        while not self._is_ready():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        return self

    def _is_ready(self):
        try:
            with urllib.request.urlopen(f"{self.http}/readyz", timeout=10) as response:
                return response.status == 200
        except (urllib.error.HTTPError, OSError):
            return False

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
