"""`eagleeye detect`: reads the options, opens everything, and says how it ended."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any, Final

import click

from eagleeye.connection import NothingDone, connection_options, split
from eagleeye.detect.inputs import STDIN, InputError, Sources, find_sources
from eagleeye.detect.outputs import SUFFIXES, Format

ON_STDOUT: Final = (Format.JSONL, Format.CSV)
NEEDS_OPENCV: Final = (Format.IMAGES, Format.VIDEO)

EPILOG: Final = """\
\b
Formats:
  jsonl   one JSON object a line for each image, as `POST /v1/detect` answers, with its "input"; also for those
          that failed, with "error"
  csv     one row for each detection; an image without any has one row that says 0
  coco    one COCO file: images, categories, and annotations with a score; category ids are class ids, from 0
  images  a folder of pictures with the detections drawn on them; a frame is VIDEO/000017.jpg
  video   one video as a new one with the detections drawn on it: .mp4, .mov and .mkv as MPEG-4 part 2, .avi as
          Motion JPEG, .webm as VP8, which browsers play. Frame rate and times are kept; sound is not

Frames are sent as JPEG of quality 95, one after the other; a grpc:// address gets them as one stream.

An interrupted run goes on with --resume: jsonl, csv, coco and images do not ask again about what is there, and ask
again about what failed; a video begins anew. What belongs to it is noted beside the output in .NAME.run. A run with
another model, threshold or --classes is refused; another --url is told.

\b
Exit codes:
  0    all images are done
  1    some failed, each told in a line on standard error, or the run had to stop
  2    nothing could be done: wrong usage, no gateway, no inputs
  130  interrupted (Ctrl-C); what was done is written

\b
Examples:
  eagleeye detect board.jpg
  eagleeye detect photos/ 'archive/**/*.png' --output found.jsonl
  eagleeye detect photos/ --format images --output annotated/
  eagleeye detect drive.mp4 --url grpc://127.0.0.1:8081 --output drive.found.mp4
  find . -newer last -name '*.jpg' | eagleeye detect --paths-from - --output found.csv --resume
"""


class _Command(click.Command):
    """A command whose epilog keeps its lines."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 (click's signature)
        """Writes the epilog without indenting it."""
        formatter.write_paragraph()
        formatter.write_text(self.epilog or "")


@click.command(cls=_Command, epilog=EPILOG, context_settings={"max_content_width": 120})
@click.argument("paths", metavar="PATH...", nargs=-1)
@click.option(
    "--paths-from",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="File with further paths, one a line; - is standard input.",
)
@connection_options(timeout_seconds=30.0)
@click.option("--model", help="Model to ask.  [default: the gateway's only one]")
@click.option("--version", type=click.IntRange(1), help="Version of the model.  [default: the rollout's choice]")
@click.option("--score-threshold", type=click.FloatRange(0, 1), help="Detections score more.  [default: the model's]")
@click.option(
    "--iou-threshold",
    type=click.FloatRange(0, 1),
    help="Of two boxes of a class that overlap more, the better one stays.  [default: the model's]",
)
@click.option("--max-detections", type=click.IntRange(1, 1000), help="Most detections of an image.  [default: 500]")
@click.option("--classes", help="Only these: labels or ids, separated by commas.  [default: all]")
@click.option("--agnostic-nms", is_flag=True, help="Let boxes of different classes suppress one another, too.")
@click.option(
    "--priority",
    type=click.Choice(["high", "normal", "low"]),
    help="How urgent it is where requests must wait; a key says how much is allowed.  [default: normal]",
)
@click.option(
    "--every", default=1, show_default=True, type=click.IntRange(1), metavar="N", help="Of a video, each N-th frame."
)
@click.option("--concurrency", default=8, show_default=True, type=click.IntRange(1, 256), help="Requests at a time.")
@click.option("--output", type=click.Path(path_type=Path), help="File or folder to write.  [default: standard output]")
@click.option(
    "--format",
    "form",
    type=click.Choice([form.value for form in Format]),
    help="See below.  [default: by the suffix of --output: .csv, .json (coco), .mp4 and so on; else jsonl]",
)
@click.option("--resume", is_flag=True, help="Go on with an output that was begun; begin it if there is none.")
@click.option("--overwrite", is_flag=True, help="Replace an output that exists.")
def detect(
    *,
    paths: tuple[str, ...],
    paths_from: str | None,
    every: int,
    concurrency: int,
    output: Path | None,
    form: Format | None,
    resume: bool,
    overwrite: bool,
    **values: Any,
) -> None:
    """Ask a gateway what is on images and videos, and write down what it finds.

    PATH is an image (JPEG, PNG, WebP, BMP), a video, a folder (all images below it, by name, but hidden ones), a quoted
    pattern such as 'a/**/*.png', or - for one image on standard input.
    """
    connection = split(values)
    query = {name: None if value == "" else value for name, value in values.items()}
    chosen = Format(form) if form else SUFFIXES.get(output.suffix.lower(), Format.JSONL) if output else Format.JSONL
    _check_usage(paths, paths_from, chosen, output, resume=resume, overwrite=overwrite)
    sources = _sources(paths, paths_from, output if chosen is Format.IMAGES else None)
    _check_packages(chosen, sources)
    from eagleeye.client.query import Query  # noqa: PLC0415 (NumPy and more, which help does not need)
    from eagleeye.detect.session import Plan, carry_out  # noqa: PLC0415
    from eagleeye.detect.target import Wanted  # noqa: PLC0415

    try:
        Query(**query)
    except ValueError as error:  # such as not a number, which click takes for one in any range
        raise NothingDone(str(error)) from error
    fps = _output_fps(sources, every) if chosen is Format.VIDEO else None
    wanted = Wanted(chosen, output, resume=resume, overwrite=overwrite, fps=fps)
    sys.exit(carry_out(Plan(connection, sources, wanted, query, every, concurrency)))


def _sources(paths: tuple[str, ...], paths_from: str | None, results: Path | None) -> Sources:
    try:
        with click.open_file(paths_from or os.devnull, encoding="utf-8", errors="surrogateescape") as lines:
            return find_sources(paths, filter(None, (line.rstrip("\r\n") for line in lines)), results)
    except InputError as error:
        raise NothingDone(str(error)) from error
    except OSError as error:
        raise NothingDone(f"cannot read {paths_from}: {error.strerror}") from error


def _check_usage(
    paths: tuple[str, ...],
    paths_from: str | None,
    form: Format,
    output: Path | None,
    *,
    resume: bool,
    overwrite: bool,
) -> None:
    """Finds options that do not fit one another.

    Raises:
        click.UsageError: they do not.
    """
    if not paths and paths_from is None:
        raise click.UsageError("name an image, a folder or a video, or - for an image on standard input")
    if [*paths, paths_from].count(STDIN) > 1:
        raise click.UsageError("standard input can be read only once")
    if STDIN in paths and (sys.stdin is None or sys.stdin.isatty()):
        raise click.UsageError("- reads an image from standard input, and nothing is piped in")
    if output is None and form not in ON_STDOUT:
        raise click.UsageError(f"--format {form} needs --output; only jsonl and csv go to standard output")
    if output is None and (resume or overwrite):
        raise click.UsageError("--resume and --overwrite are for an --output")
    if resume and overwrite:
        raise click.UsageError("--resume keeps what --overwrite replaces; give one of them")
    if resume and form is Format.VIDEO:
        raise click.UsageError("a video begins anew; give --overwrite instead of --resume")
    if form is Format.VIDEO and output and SUFFIXES.get(output.suffix.lower()) is not Format.VIDEO:
        known = ", ".join(suffix for suffix, each in SUFFIXES.items() if each is Format.VIDEO)
        raise click.UsageError(f"a video ends in one of {known}, not in {output.suffix or 'nothing'!r}")


def _check_packages(form: Format, sources: Sources) -> None:
    """Finds what is not installed before anything is sent."""
    needs = {"tqdm"} if sys.stderr.isatty() else set()
    if form in NEEDS_OPENCV or any(source.is_video for source in sources.files):
        needs |= {"cv2"}
    lacking = sorted(name for name in needs if importlib.util.find_spec(name) is None)
    if lacking:
        raise NothingDone(f"this needs the Python package {lacking[0]!r}: pip install 'eagleeye[detect]'")


def _output_fps(sources: Sources, every: int) -> float:
    """The frame rate of the new video."""
    from eagleeye.detect.video import read_fps  # noqa: PLC0415 (OpenCV, which other formats do not need)

    if len(sources.files) != 1 or not sources.files[0].is_video:
        raise NothingDone("--format video makes one video of one video; --format images takes anything")
    assert sources.files[0].path is not None  # noqa: S101 (a video has a suffix, and so a path)
    return read_fps(sources.files[0].path) / every
