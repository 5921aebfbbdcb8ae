"""From an official DAMO-YOLO checkpoint to a verified model in a Triton repository."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime would report to Microsoft by default
