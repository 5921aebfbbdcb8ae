"""Serves ONNX models on the CPU."""
