"""The repository's pages -> a site that needs no other host.

The pages lie in the site as they do in the repository, so that each link between them holds in both. Where a page says
`<!-- generated: NAME -->`, the site has what the code says, in place of that line and of the next one, which is there
for readers of the file.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from docs.generate import commands, python, rest, settings

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY: Final = Path(__file__).resolve().parents[2]

_PLACES: Final = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "README.md",
    "docs",
    "export/checkpoints",
    "k8s",
    "loadtest",
)
_SHOWN: Final = frozenset({".css", ".jpg", ".json", ".md", ".png", ".svg"})

_GENERATED: Final[dict[str, Callable[[], str]]] = {
    "commands": commands.markdown,
    "python": python.markdown,
    "rest": rest.markdown,
    "settings": settings.markdown,
}
_LINK: Final = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:]+)\)")
_MARK: Final = re.compile(r"^<!-- generated: (\w+) -->\n.*$", re.MULTILINE)


def build(target: Path) -> bool:
    """Build the site into a folder, which is replaced; whether all links and anchors between pages hold.

    Raises:
        KeyError: a page asks for what nothing generates.
    """
    with tempfile.TemporaryDirectory(prefix="eagleeye-docs-") as folder:
        work = Path(folder)
        _collect(work / "pages")
        shutil.copy(REPOSITORY / "docs" / "site.toml", work / "zensical.toml")
        program = Path(sys.executable).parent / "zensical"
        if subprocess.run([program, "build", "--strict"], cwd=work, check=False).returncode:  # noqa: S603 (it is our own)
            return False
        shutil.rmtree(target, ignore_errors=True)
        shutil.move(work / "site", target)
    return True


def _collect(pages: Path) -> None:
    for place in _PLACES:
        source = REPOSITORY / place
        files = [source] if source.is_file() else [each for each in source.rglob("*") if each.suffix in _SHOWN]
        for file in files:
            copy = pages / file.relative_to(REPOSITORY)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == ".md":
                copy.write_text(_without_code(_filled(file.read_text()), file.parent))
            else:
                shutil.copy(file, copy)


def _filled(page: str) -> str:
    return _MARK.sub(lambda mark: _GENERATED[mark[1]](), page)


def _without_code(page: str, folder: Path) -> str:
    """The page with links only to what the site has: one to a file of code, or to a folder, becomes its text."""

    def keep(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        return link[1] if target.exists() and target.suffix not in _SHOWN and target.name not in _PLACES else link[0]

    return _LINK.sub(keep, page)
