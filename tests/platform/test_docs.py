"""Blocks of README and docs/ without a remark run as they stand, but for the addresses, against the live platform."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, blocks

SECONDS = 120
RUN = {page: [block for block in blocks(page) if block.is_run] for page in PAGES}


@pytest.fixture
def workplace(tmp_path, board):
    """What a reader has beside the repository: the sample, and a curl that minds errors."""
    (tmp_path / ".eagleeye").mkdir()
    (tmp_path / ".eagleeye" / "board.jpg").write_bytes(board)
    (tmp_path / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")
    return tmp_path


@pytest.fixture
def run(platform, workplace):
    """Runs a block; returns what it wrote to standard output."""
    platform.wait_until_ready()
    commands = Path(sys.executable).parent
    places = {
        "127.0.0.1:8080": platform.url.removeprefix("http://"),
        "127.0.0.1:8081": f"127.0.0.1:{platform.ports['grpc']}",
        ".venv/bin/": f"{commands}/",
    }
    environment = {**os.environ, "CURL_HOME": str(workplace), "EAGLEEYE_URL": platform.url}

    async def run(block):
        text = block.text
        for written, real in places.items():
            text = text.replace(written, real)
        program = (
            [sys.executable, "-c", text] if block.language == "python" else ["bash", "-euo", "pipefail", "-c", text]
        )
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *program, cwd=workplace, env=environment, stdout=pipe, stderr=pipe
        )
        async with asyncio.timeout(SECONDS):
            output, errors = await process.communicate()
        assert process.returncode == 0, f"{block.page}:{block.line}: {errors.decode()}{output.decode(errors='replace')}"
        return output

    return run


@pytest.mark.parametrize("page", [page for page in PAGES if RUN[page]])
async def test_the_blocks_of_a_page_work(run, page):
    """In their order, in one folder; each says or writes something."""
    outputs = [await run(block) for block in RUN[page]]
    assert sum(map(len, outputs)) > 0
