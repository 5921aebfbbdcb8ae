"""Blocks of commands and code in the pages, each with what the page says about running it."""

import re
from dataclasses import dataclass

from tests.conftest import REPOSITORY

PAGES = ("README.md", *sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "docs").glob("*.md")))

PROSE = {"json", "text", "yaml"}
"""Languages of blocks that nobody runs."""
NOT_RUN = re.compile(r"<!-- not run: (\S.*) -->")
RUN_BY = re.compile(r"<!-- run by (\S+) -->")
NONE_RUN = re.compile(r"^<!-- no block of this page is run: (\S.*) -->$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """`language` is empty for an indented block, which holds commands of a shell. `remark` is the comment before it."""

    page: str
    line: int
    language: str
    text: str
    remark: str

    @property
    def is_run(self):
        """Whether it runs as it stands, for no remark says otherwise."""
        return self.language not in PROSE and not self.remark


def blocks(page):
    """The blocks of a page, in their order."""
    text = (REPOSITORY / page).read_text()
    of_page = NONE_RUN.search(text)
    found, lines, number = [], text.split("\n"), 0
    while number < len(lines):
        start, remark = number, of_page[0] if of_page else _remark(lines, number)
        if opening := re.fullmatch(r"```(\w*)", lines[number]):
            end = lines.index("```", number + 1)
            found.append(Block(page, start + 1, opening[1] or "?", "\n".join(lines[number + 1 : end]), remark))
            number = end
        elif lines[number].startswith("    ") and (number == 0 or not lines[number - 1]):
            while number < len(lines) and (lines[number].startswith("    ") or not lines[number]):
                number += 1
            inner = "\n".join(line[4:] for line in lines[start:number])
            found.append(Block(page, start + 1, "", inner.rstrip("\n"), remark))
            continue
        number += 1
    return found


def _remark(lines, number):
    """The comment before a line, if nothing but an empty line is between."""
    before = [line for line in lines[max(0, number - 2) : number] if line]
    return before[-1] if before and before[-1].startswith("<!-- ") and before[-1].endswith(" -->") else ""
