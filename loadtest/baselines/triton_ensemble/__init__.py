"""Triton alone: an ensemble of a Python model that decodes and resizes, the detector, and a Python model for the rest.

This is how Triton's own tutorials serve images without a server in front. The Python models need NumPy 1, as what
Triton's stubs were built against: with NumPy 2 they can't read texts. So they have an environment of their own
(`packages.txt`, in `.venv-ensemble`), which Triton takes for these two by their configs. There is no NumPy 1 for Python
3.13. Images as tensors of bytes would do without it, but have different lengths, so that Triton would not batch them:
8 % fewer images per second, at 32 at a time.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import gateway
from gateway.triton.contract import parse_model
from loadtest.bench.path import Interface, find_model

if TYPE_CHECKING:
    from triton_runtime.environment import Installation

ENSEMBLE: Final = "ensemble"
"""The model that callers ask: an encoded image in, a JSON text out."""
READY: Final = f"/v2/models/{ENSEMBLE}/ready"
_LENGTH_BYTES: Final = 4

_PREPROCESS: Final = """\
name: "preprocess"
backend: "python"
max_batch_size: {batch}
input [ {{ name: "image", data_type: TYPE_STRING, dims: [ 1 ] }} ]
output [
  {{ name: "images", data_type: TYPE_UINT8, dims: [ {height}, {width}, 3 ] }},
  {{ name: "source_wh", data_type: TYPE_INT32, dims: [ 2 ] }},
  {{ name: "scale_wh", data_type: TYPE_FP64, dims: [ 2 ] }}
]
instance_group [ {{ count: {processors}, kind: KIND_CPU }} ]
dynamic_batching {{ }}
parameters [
  {{ key: "EXECUTION_ENV_PATH", value: {{ string_value: "{environment}" }} }},
  {{ key: "resize", value: {{ string_value: "{resize}" }} }},
  {{ key: "scaled", value: {{ string_value: "{scaled}" }} }}
]
"""
_POSTPROCESS: Final = """\
name: "postprocess"
backend: "python"
max_batch_size: {batch}
input [
  {{ name: "boxes", data_type: TYPE_FP32, dims: [ {candidates}, 4 ] }},
  {{ name: "scores", data_type: TYPE_FP32, dims: [ {candidates} ] }},
  {{ name: "class_ids", data_type: TYPE_INT32, dims: [ {candidates} ] }},
  {{ name: "source_wh", data_type: TYPE_INT32, dims: [ 2 ] }},
  {{ name: "scale_wh", data_type: TYPE_FP64, dims: [ 2 ] }}
]
output [ {{ name: "answer", data_type: TYPE_STRING, dims: [ 1 ] }} ]
instance_group [ {{ count: 1, kind: KIND_CPU }} ]
dynamic_batching {{ }}
parameters [
  {{ key: "EXECUTION_ENV_PATH", value: {{ string_value: "{environment}" }} }},
  {{ key: "labels", value: {{ string_value: '{labels}' }} }},
  {{ key: "score_threshold", value: {{ string_value: "{score_threshold}" }} }},
  {{ key: "iou_threshold", value: {{ string_value: "{iou_threshold}" }} }}
]
"""
_ENSEMBLE: Final = """\
name: "{ensemble}"
platform: "ensemble"
max_batch_size: {batch}
input [ {{ name: "image", data_type: TYPE_STRING, dims: [ 1 ] }} ]
output [ {{ name: "answer", data_type: TYPE_STRING, dims: [ 1 ] }} ]
ensemble_scheduling {{ step [
  {{
    model_name: "preprocess", model_version: -1
    input_map {{ key: "image", value: "image" }}
    output_map {{ key: "images", value: "images" }}
    output_map {{ key: "source_wh", value: "source_wh" }}
    output_map {{ key: "scale_wh", value: "scale_wh" }}
  }},
  {{
    model_name: "{detector}", model_version: {version}
    input_map {{ key: "images", value: "images" }}
    output_map {{ key: "boxes", value: "boxes" }}
    output_map {{ key: "scores", value: "scores" }}
    output_map {{ key: "class_ids", value: "class_ids" }}
  }},
  {{
    model_name: "postprocess", model_version: -1
    input_map {{ key: "boxes", value: "boxes" }}
    input_map {{ key: "scores", value: "scores" }}
    input_map {{ key: "class_ids", value: "class_ids" }}
    input_map {{ key: "source_wh", value: "source_wh" }}
    input_map {{ key: "scale_wh", value: "scale_wh" }}
    output_map {{ key: "answer", value: "answer" }}
  }}
] }}
"""


def write(repository: Path, model: str, environment: Path, *, is_scaled: bool) -> None:
    """Put the ensemble and its two Python models beside a detector, of any backend, in a repository.

    Args:
        repository: where the detector lies.
        model: the detector's name.
        environment: virtual environment of the Python models.
        is_scaled: whether large JPEGs are decoded at a part of their size, as the gateway does by `--scaled-decoding`.

    Raises:
        click.ClickException: there is no such detector.
    """
    detector = find_model(repository, model)
    version = detector.loaded[-1]
    served = parse_model(detector.config, [version])
    values: dict[str, Any] = {
        "batch": max(1, detector.config.max_batch_size),
        "width": served.input_wh[0],
        "height": served.input_wh[1],
        "candidates": served.candidates,
        "resize": served.resize,
        "labels": json.dumps(served.labels),
        "score_threshold": served.score_threshold,
        "iou_threshold": served.iou_threshold,
        "processors": os.cpu_count() or 1,
        "environment": environment.absolute(),
        "scaled": int(is_scaled),
        "ensemble": ENSEMBLE,
        "detector": served.name,
        "version": version,
    }
    for name, config in (("preprocess", _PREPROCESS), ("postprocess", _POSTPROCESS), (ENSEMBLE, _ENSEMBLE)):
        folder = repository / name
        (folder / "1").mkdir(parents=True)
        (folder / "config.pbtxt").write_text(config.format(**values))
        if name != ENSEMBLE:
            shutil.copy(Path(__file__).with_name(f"{name}.py"), folder / "1" / "model.py")


def lend_gateway(installation: Installation) -> None:
    """Put the gateway's modules where Triton's Python models can import them."""
    own = Path(gateway.__file__).parent
    shutil.copytree(own, installation.backends / "python" / own.name, ignore=shutil.ignore_patterns("__pycache__"))


def _read(body: bytes) -> dict[str, Any]:
    """The text in Triton's answer to one image: it stands after Triton's own JSON and four bytes for its length."""
    _, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
    answer: dict[str, Any] = json.loads(body[end + _LENGTH_BYTES :])
    return answer


INFER: Final = Interface(f"/v2/models/{ENSEMBLE}/infer", {"Inference-Header-Content-Length": "0"}, _read)
"""Triton's own call with one BYTES element, an image, that is the whole body; so is the element of the answer."""
