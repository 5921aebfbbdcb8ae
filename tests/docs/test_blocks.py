"""Each block of the pages is run by a test, or says why not."""

import re

import pytest

from tests.conftest import REPOSITORY
from tests.docs.blocks import NONE_RUN, NOT_RUN, PAGES, PROSE, RUN_BY, blocks

ALL = [block for page in PAGES for block in blocks(page)]


@pytest.mark.parametrize("block", ALL, ids=lambda block: f"{block.page}:{block.line}")
def test_it_is_run_or_says_why_not(block):
    """What has no remark is run by tests/platform/test_docs.py, a known language it has, and a remark says enough."""
    assert block.language in {"", "bash", "python", *PROSE}
    if block.language in PROSE or block.is_run:
        return
    if by := RUN_BY.fullmatch(block.remark):
        assert block.page.rpartition("/")[2] in (REPOSITORY / by[1]).read_text()
    else:
        assert NOT_RUN.fullmatch(block.remark) or NONE_RUN.fullmatch(block.remark)
        assert all((REPOSITORY / name).exists() for name in re.findall(r"tests/[\w/]+(?:\.py)?", block.remark))


def test_there_are_some_of_each_kind():
    """The pages are read as they are meant to be: else all of the above would be about nothing."""
    assert sum(block.is_run for block in ALL) >= 8
    assert sum(bool(RUN_BY.fullmatch(block.remark)) for block in ALL) >= 5
    assert sum(bool(NOT_RUN.fullmatch(block.remark)) for block in ALL) >= 10


def test_an_unmarked_block_is_found(tmp_path, monkeypatch):
    """Indented or fenced, with its lines and the remark before it, and empty lines within it."""
    (tmp_path / "page.md").write_text(
        "# P\n\n    one\n\n    two\n\ntext\n\n<!-- not run: x -->\n\n```python\nthree\n```\n"
    )
    monkeypatch.setattr("tests.docs.blocks.REPOSITORY", tmp_path)
    first, second = blocks("page.md")
    assert (first.text, first.language, first.is_run) == ("one\n\ntwo", "", True)
    assert (second.text, second.language, second.remark) == ("three", "python", "<!-- not run: x -->")
