"""The commands that ask a gateway about itself: what it serves, and whether it works."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import click

from eagleeye.connection import Connection, NothingDone, connection_options, say, split

if TYPE_CHECKING:
    from eagleeye import Health, ModelInfo

HEADER: Final = ("NAME", "VERSIONS", "INPUT", "SCORE", "IOU", "CLASSES")
POLL_SECONDS: Final = 0.5
NOT_READY: Final = 1
_JSON: Final = click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")


@click.command()
@connection_options(timeout_seconds=10.0)
@_JSON
def models(*, as_json: bool, **values: Any) -> None:
    """Show which models a gateway serves: versions, input size, default thresholds and classes.

    Exit codes: 0 all is well, 2 the gateway cannot be asked.
    """
    from eagleeye import EagleEyeError  # noqa: PLC0415 (NumPy, which help does not need)

    try:
        with split(values).client(max_attempts=1) as client:
            served = client.models()
    except EagleEyeError as error:
        raise NothingDone(str(error)) from error
    if as_json:
        say(json.dumps([asdict(model) for model in served], indent=1))
    else:
        echo_table([HEADER, *map(_row, served)])


def _row(model: ModelInfo) -> tuple[str, ...]:
    width, height = model.input_wh
    thresholds = f"{model.score_threshold:g}", f"{model.iou_threshold:g}"
    return model.name, ", ".join(model.versions), f"{width} x {height}", *thresholds, ", ".join(model.labels)


def echo_table(rows: list[tuple[str, ...]]) -> None:
    """Writes rows with their columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@click.command()
@connection_options(timeout_seconds=5.0)
@click.option(
    "--wait",
    "wait_seconds",
    default=0.0,
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Ask again until the gateway is ready, for so long at most; also while there is none.",
)
@_JSON
def health(*, wait_seconds: float, as_json: bool, **values: Any) -> None:
    """Show whether a gateway lives and is ready: it serves a model and is not shutting down.

    Exit codes: 0 ready, 1 not ready, 2 cannot be reached.
    """
    connection = split(values)
    answer = _ask(connection, time.monotonic() + wait_seconds)
    if as_json:
        say(json.dumps({"url": connection.url, **asdict(answer)}))
    else:
        state = "ready" if answer.ready else "live, not ready" if answer.live else "not live"
        say(f"{connection.url}: {state}")
    if not answer.ready:
        click.get_current_context().exit(NOT_READY)


def _ask(connection: Connection, until: float) -> Health:
    """The gateway's health, the last one known when time is up.

    Raises:
        NothingDone: it could not be reached to the end.
    """
    from eagleeye import EagleEyeError  # noqa: PLC0415 (NumPy, which help does not need)

    with connection.client(max_attempts=1) as client:
        while True:
            left = until - time.monotonic()
            try:
                answer = client.health()
                if answer.ready or left <= 0:
                    return answer
            except EagleEyeError as error:
                if left <= 0:
                    raise NothingDone(str(error)) from error
            time.sleep(max(0.0, min(POLL_SECONDS, left)))
