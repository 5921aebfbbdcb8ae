"""Readiness of a Triton with a GPU: every model was loaded, and GPU memory is not nearly used up.

Runs in NVIDIA's image, with nothing but its Python. Where Triton does not report GPU memory (MIG, some consumer cards),
that half of the check passes: alerts, not this probe, tell of missing metrics.
"""

from __future__ import annotations

import os
import re
import sys
import urllib.request

MOST_MEMORY = 0.95  # of the GPU's: what is left on 16 GB, 0.8 GB, is about a full batch's scratch memory
_TIMEOUT_SECONDS = 2  # each; the probe's own limit is 5 s
_SAMPLE = re.compile(r'^nv_gpu_memory_(used|total)_bytes\{gpu_uuid="([^"]*)"\} (\S+)$', re.MULTILINE)


def why_not_ready(http_port: int, metrics_port: int) -> str:
    """The reason in words; empty where there is none."""
    try:
        _get(http_port, "/v2/health/ready")
        page = _get(metrics_port, "/metrics")
    except OSError as error:
        return f"Triton is not ready: {error}"
    fullest = max(_used_shares(page), default=0.0)
    return f"{fullest:.1%} of the GPU's memory is used, {MOST_MEMORY:.0%} is allowed" if fullest >= MOST_MEMORY else ""


def _used_shares(page: str) -> list[float]:
    used: dict[str, float] = {}
    total: dict[str, float] = {}
    for kind, gpu, value in _SAMPLE.findall(page):
        (used if kind == "used" else total)[gpu] = float(value)
    return [used[gpu] / total[gpu] for gpu in used if total.get(gpu)]


def _get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=_TIMEOUT_SECONDS) as response:
        return str(response.read().decode())


if __name__ == "__main__":
    sys.exit(why_not_ready(int(os.environ.get("HTTP_PORT", "8000")), int(os.environ.get("METRICS_PORT", "8002"))) or 0)
