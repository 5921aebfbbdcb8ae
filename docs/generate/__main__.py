"""Builds the documentation site: `make docs`."""

from __future__ import annotations

from pathlib import Path

import click

from docs.generate.site import build


@click.command()
@click.argument("target", type=click.Path(file_okay=False, path_type=Path), default=Path("site"))
def main(target: Path) -> None:
    """Build the documentation into the folder TARGET, which is replaced."""
    if not build(target):
        raise click.ClickException("the pages have faults, see above; nothing was replaced")
    click.echo(f"{target / 'index.html'} is made")


if __name__ == "__main__":
    main()
