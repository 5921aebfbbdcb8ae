"""Writes `plain/rules.yaml`, the groups of the PrometheusRule as a file that Prometheus itself reads."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parent
SOURCE: Final = FOLDER.parent / "components" / "monitoring" / "rules.yaml"
TARGET: Final = FOLDER / "rules.yaml"
_HEADER: Final = "# Made from components/monitoring/rules.yaml by extract_rules.py: change it there.\n"


def extract(source: str) -> str:
    """What stands under `spec:` of the PrometheusRule `source`, comments and all."""
    _, _, spec = source.partition("\nspec:\n")
    return _HEADER + textwrap.dedent(spec)


if __name__ == "__main__":
    TARGET.write_text(extract(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
