"""The served model's interface, which every exported graph, its config and the gateway agree on (ARCHITECTURE 2.1)."""

from __future__ import annotations

from typing import Final

INPUT: Final = "images"
"""uint8 (N, H, W, 3), RGB, at the model's size."""

OUTPUTS: Final = ("boxes", "scores", "class_ids")
"""float32 (N, K, 4) x1 y1 x2 y2 in model pixels; float32 (N, K), descending; int32 (N, K)."""

OPSET: Final = 17
"""ONNX operator set. Nothing newer is needed, and Triton and TensorRT releases of several years read it."""

MAX_TOP_K: Final = 3840
"""The most that TensorRT's TopK can return."""
