"""The official model's recorded answers, and the weights they were recorded with."""

import functools
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from export.damoyolo import DamoYolo, ServedDetector
from export.onnx import export_onnx
from export.pipeline import ExportOptions, export_model
from export.variants import VARIANTS
from export.verify import sample_images

CHECKPOINTS = Path(__file__).resolve().parents[2] / "export" / "checkpoints"


@dataclass(frozen=True)
class Parity:
    """The fixtures of `damo-yolo/parity`; its README.md defines the weight rule and the image."""

    directory: Path

    def _json(self, name):
        return json.loads((self.directory / name).read_text())

    @functools.cached_property
    def bn_exponents(self):
        return self._json("bn_exponents.json")

    def keys(self, variant):
        """[key, shape, dtype] of the training-form state_dict, in order."""
        return self._json(f"{variant}.keys.json")

    def meta(self, variant):
        return self._json(f"{variant}.meta.json")

    def expected(self, variant):
        with np.load(self.directory / f"{variant}.expected.npz") as arrays:
            return dict(arrays)

    def image(self, variant):
        """The recorded input (S, S, 3) uint8 RGB."""
        size = VARIANTS[variant].input_size
        random = np.random.RandomState(0)
        squares = random.randint(0, 256, (size // 32, size // 32, 3)).repeat(32, axis=0).repeat(32, axis=1)
        noise = random.randint(0, 64, (size, size, 3))
        return (squares * 3 // 4 + noise).astype(np.uint8)

    def state_dict(self, variant):
        """The recorded weights."""
        return {key: torch.from_numpy(self.weight(variant, key, shape)) for key, shape, _ in self.keys(variant)}

    def weight(self, variant, key, shape):
        """One tensor by the weight rule."""
        module, _, leaf = key.rpartition(".")
        random = np.random.RandomState(zlib.crc32(key.encode()))
        if leaf == "num_batches_tracked":
            return np.array(0, np.int64)
        if leaf == "project":
            return np.arange(shape[0], dtype=np.float32)
        if leaf == "running_var":
            values = random.uniform(0.6, 1.4, shape) * 4.0 ** self.bn_exponents[variant][module]
        elif leaf == "weight" and len(shape) == 4:
            values = self._kernel(random.standard_normal(shape), in_head=module.startswith("head.gfl_"))
        else:
            scale, offset = self._scale_and_offset(variant, module, leaf)
            values = scale * np.asarray(random.standard_normal(shape)) + offset
        return np.asarray(values, np.float32)

    def _scale_and_offset(self, variant, module, leaf):
        if leaf == "running_mean":
            return 0.1 * 2.0 ** self.bn_exponents[variant][module], 0.0
        if leaf == "bias" and module.startswith("head."):
            return 0.5, -2.5 if module.startswith("head.gfl_cls") else 0.0
        return 0.1, 0.0 if leaf == "bias" else 1.0

    @staticmethod
    def _kernel(values, *, in_head):
        if values.shape[1] > 1:
            values = values - values.mean(axis=(1, 2, 3), keepdims=True)
        return values * np.sqrt((4 if in_head else 2) / values[0].size)

    def detector(self, variant):
        """The network with the recorded weights, in training form."""
        structure = VARIANTS[variant]
        detector = DamoYolo(structure, 80, (structure.input_size, structure.input_size))
        detector.load_state_dict(self.state_dict(variant))
        return detector


@pytest.fixture(scope="session")
def parity(shared_dir):
    """Recorded answers of the official model."""
    return Parity(shared_dir / "damo-yolo" / "parity")


@pytest.fixture(scope="session")
def shipped(tmp_path_factory):
    """Options that export the shipped checkpoint into an empty repository of their own."""
    return ExportOptions(
        variant="Ns",
        checkpoint=CHECKPOINTS / "damoyolo_tinynasL18_Ns_deeppcb.pth",
        labels=CHECKPOINTS / "deeppcb.labels.txt",
        name="deeppcb",
        repository=tmp_path_factory.mktemp("shipped") / "repository",
    )


@pytest.fixture(scope="session")
def exported(shipped):
    """Summary of the shipped checkpoint's export. Tests may read the repository, and not change it."""
    return export_model(shipped)


@pytest.fixture(scope="session")
def small_graph():
    """A served graph of the smallest variant at (64, 64), with random weights, in FP32."""
    torch.manual_seed(0)
    detector = DamoYolo(VARIANTS["Ns"], 3, (64, 64))
    with torch.no_grad():
        for parameter in detector.parameters():  # a new network has biases that are all alike
            parameter.add_(0.1 * torch.randn_like(parameter))
    return export_onnx(ServedDetector(detector.deploy(), 50))


@pytest.fixture(scope="session")
def calibration_folder(tmp_path_factory):
    """Six small PNG files that look different from one another."""
    folder = tmp_path_factory.mktemp("calibration")
    for number, pixels in enumerate(sample_images(6, (96, 96))):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder
