"""Benchmarks and load: speed is measured here, as ratios within one run, and never asserted by a test."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime would report to Microsoft by default
