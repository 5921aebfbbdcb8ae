"""A model is ready only when every instance has run every batch size that it may meet first."""

import re
import shutil
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.platform.conftest import MODEL, free_ports
from triton_runtime.environment import TritonEnvironment
from triton_runtime.process import running
from triton_runtime.server import Ports, TritonServer

BATCH_SIZES = [1, 2, 4, 8, 16]


async def test_ready_means_warm(platform, tmp_path):
    """Triton runs each sample in each instance of the Python-based backend too, and only then loads the model."""
    shutil.copytree(platform.folder / "models" / MODEL, tmp_path / "models" / MODEL)
    installation = TritonEnvironment(REPOSITORY / ".venv-triton").install(tmp_path)
    triton = TritonServer(installation, tmp_path / "models", Ports(*free_ports(3)), restarts_itself=False)
    triton.command = [*triton.command, "--log-verbose=1"]

    async with running([triton]):
        await triton.until_serving(120)
        log = Path(triton.log).read_text()

    before, loaded, _ = log.partition(f"successfully loaded '{MODEL}'")
    runs = re.findall(rf"instance {MODEL}_0_(\d+) is running warmup sample 'batch of (\d+)'", before)
    assert loaded
    assert sorted((int(instance), int(size)) for instance, size in runs) == [
        (instance, size) for instance in (0, 1) for size in BATCH_SIZES
    ]
