"""`eagleeye load`: load tests with Locust, from a laptop or a cluster."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from eagleeye.connection import NothingDone, connection_options, say, split
from eagleeye.options import environment_name
from loadtest.load.plan import Identity
from loadtest.load.profile import CAPACITY_P99_MS, OURS, is_of_capacity, read, resolve
from loadtest.load.slo import BROKEN, INVALID, MET
from loadtest.load.table import BadProfile

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtest.profile import Step

Command = TypeVar("Command", bound="Callable[..., Any]")

_FOLDER: Final = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
_POSITIVE: Final = click.FloatRange(min=0, min_open=True)
_SETTINGS: Final = {"max_content_width": 120, "show_default": True}
_CODES: Final = (
    f"{MET} all objectives are met, {BROKEN} some are not, 2 nothing could be measured, "
    f"{INVALID} the run is not valid: the generator lagged, or lost a worker."
)


class _Interruptible(click.Group):
    """Ctrl-C must not end with the exit code of a missed objective."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            raise NothingDone("stopped before its end, without a report") from stopped


@click.group(cls=_Interruptible)
def load() -> None:
    """Load tests: open or closed, over HTTP, gRPC and streams, with answers that are checked."""


def _target_options(command: Command) -> Command:
    """Where to, with what, by how many, and where the deployment tells about itself."""
    options = (
        connection_options(timeout_seconds=10.0),
        click.option(
            "--grpc-url",
            envvar=environment_name("grpc_url"),
            show_envvar=True,
            help="Address of its gRPC face, for callers that use it; by default port 8081 of the same host.",
        ),
        click.option("--model", help="Model to ask; by default the only one."),
        click.option("--images", type=_FOLDER, help="Folder of pictures to send instead of the profile's."),
        click.option(
            "--expected",
            type=_FILE,
            help="Their right answers, as `eagleeye detect --format jsonl` has written them. By default the first "
            "answer to each picture is right, or what the GPU stand-in must say.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(0, 64),
            default=0,
            help="Processes on this machine that send, beside one that leads them; 0: one process does all.",
        ),
        click.option(
            "--metrics-url", help="Where the gateway's metrics are, if not at /metrics of --url: on its admin port."
        ),
        click.option(
            "--triton-metrics-url",
            "triton_metrics_urls",
            multiple=True,
            help="Metrics of a Triton, such as http://127.0.0.1:8002/metrics; once for each.",
        ),
        click.option(
            "--prometheus-url",
            envvar=environment_name("prometheus_url"),
            show_envvar=True,
            help="A Prometheus that watches the deployment, asked in place of these.",
        ),
        click.option(
            "--output",
            type=click.Path(file_okay=False, path_type=Path),
            default=Path(".eagleeye/load"),
            help="Folder for report.html, report.md, load.svg and result.json.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


_capacity = click.option(
    "--capacity",
    type=_POSITIVE,
    help="Images per second that the deployment answers in time; by default it is measured where it is needed.",
)
_capacity_from = click.option(
    "--capacity-from", type=_FILE, help="profile.json of `eagleeye profile`, which has measured the capacity."
)
_p99_ms = click.option(
    "--p99-ms",
    type=_POSITIVE,
    help="In time is, where the capacity is measured: 99 % within so many ms. By default what the profile says, or "
    f"{CAPACITY_P99_MS:g}.",
)
_step_seconds = click.option(
    "--step-seconds", type=_POSITIVE, default=8.0, help="Time of each step of that measurement, in seconds."
)


@load.command(
    context_settings=_SETTINGS,
    help=f"""Run a PROFILE: one of ours by name, or a TOML file.

    `eagleeye load profiles` lists ours; loadtest/README.md has the fields of a file.

    Exit codes: {_CODES}""",
)
@click.argument("profile")
@_target_options
@_capacity
@_capacity_from
@_p99_ms
@_step_seconds
@click.option("--level", type=_POSITIVE, default=1.0, help="Multiplies users and rates of all stages.")
@click.option("--speed", type=_POSITIVE, default=1.0, help="Divides the lengths of all stages.")
@click.option(
    "--await-workers",
    type=click.IntRange(0, 1000),
    default=0,
    help="Workers of other machines (`load worker`) to wait for.",
)
@click.option("--bind-host", default="*", help="Address where they find this process.")
@click.option("--bind-port", type=click.IntRange(1, 65535), default=5557, help="And the port.")
@click.option("--print-result", is_flag=True, help="Print result.json, too: one line, the last.")
@click.pass_context
def run(
    context: click.Context,
    /,
    profile: str,
    *,
    capacity: float | None,
    capacity_from: Path | None,
    p99_ms: float | None,
    step_seconds: float,
    level: float,
    speed: float,
    await_workers: int,
    bind_host: str,
    bind_port: int,
    print_result: bool,
    **values: Any,
) -> None:
    """Run a profile; the help is in the decorator."""
    from loadtest.load.bench import Bench, parse  # noqa: PLC0415 (an extra, which help does not need)
    from loadtest.load.run import Workforce  # noqa: PLC0415
    from loadtest.load.target import Target  # noqa: PLC0415

    target = Target.split(values)
    is_given = context.get_parameter_source("timeout_seconds") is not click.core.ParameterSource.DEFAULT
    data = _data(profile, target.connection.timeout_seconds if is_given else None)
    parsed = parse(resolve(data, capacity_per_second=1.0))
    bench = Bench(target, parsed)
    if is_of_capacity(data):
        capacity = capacity or _read_capacity(capacity_from)
        capacity = capacity or bench.climb(p99_ms or parsed.capacity_p99_ms, step_seconds).images_per_second
    workforce = Workforce(own=target.workers, awaited=await_workers, host=bind_host, port=bind_port)
    result = bench.run(resolve(data, capacity_per_second=capacity, level=level, speed=speed), workforce, capacity)
    _save(result, target.output)
    if print_result:
        say(json.dumps(result))
    sys.exit(result["exit_code"])


@load.command(
    context_settings=_SETTINGS,
    help=f"""Measure a deployment idle, at half of its peak, and at its peak.

    The peak is the number of callers that get the most images per second answered within --p99-ms. Idle is one image a
    second. It prints a table of GPU utilisation, mean latency, throughput and Triton pods.

    Exit codes: {_CODES}""",
)
@_target_options
@_capacity_from
@_p99_ms
@_step_seconds
@click.option("--seconds", type=_POSITIVE, default=30.0, help="Time of each of the three measurements, in seconds.")
def table(
    *, capacity_from: Path | None, p99_ms: float | None, step_seconds: float, seconds: float, **values: Any
) -> None:
    """Measure three loads; the help is in the decorator."""
    from loadtest.load.bench import Bench, parse  # noqa: PLC0415 (an extra, which help does not need)
    from loadtest.load.load_table import as_markdown, profiles  # noqa: PLC0415 (an extra, which help does not need)
    from loadtest.load.run import Workforce  # noqa: PLC0415
    from loadtest.load.target import Target  # noqa: PLC0415

    target = Target.split(values)
    bench = Bench(target, parse(profiles(1.0, 1, seconds)["peak"]))
    peak = _read_step(capacity_from) or bench.climb(p99_ms or CAPACITY_P99_MS, step_seconds)
    workforce = Workforce(own=target.workers)
    results = {}
    for name, data in profiles(peak.images_per_second, peak.callers, seconds).items():
        results[name] = bench.run(data, workforce, peak.images_per_second)
        _write(results[name], target.output / name)
    text = as_markdown(results)
    target.output.mkdir(parents=True, exist_ok=True)
    (target.output / "table.md").write_text(text, encoding="utf-8")
    say(text)
    say(f"wrote table.md, and a report of each load, in {target.output}")
    sys.exit(max(result["exit_code"] for result in results.values()))


@load.command(context_settings=_SETTINGS)
@connection_options(timeout_seconds=10.0)
@click.option("--master-host", default="127.0.0.1", help="Where `load run --await-workers` runs.")
@click.option("--master-port", type=click.IntRange(1, 65535), default=5557, help="Its --bind-port.")
def worker(*, master_host: str, master_port: int, **values: Any) -> None:
    """Send what a `load run` on another machine asks for, until it is over.

    That one says what to send and where to: --url and --timeout-seconds count there. Key and certificates are given to
    each worker.
    """
    from loadtest.load.run import work  # noqa: PLC0415 (an extra, which help does not need)

    sys.exit(work(Identity.of(split(values)), master_host, master_port))


@load.command(context_settings=_SETTINGS)
@click.argument("result", type=click.File(encoding="utf-8"))
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".eagleeye/load"),
    help="Folder for report.html, report.md, load.svg and result.json.",
)
def report(result: Any, output: Path) -> None:
    """Make the pages of a RESULT anew: a result.json, or the output of `load run --print-result`; - reads stdin."""
    lines = [line for line in result.read().splitlines() if line.startswith("{")]
    try:
        found = json.loads(lines[-1])
        _write(found, output)
    except (IndexError, ValueError, KeyError, TypeError) as error:
        raise NothingDone(f"{result.name} is no result of `eagleeye load run`") from error
    say(f"wrote report.html and report.md in {output}")


@load.command(context_settings=_SETTINGS)
def profiles() -> None:
    """List our profiles."""
    from loadtest.load.bench import parse  # noqa: PLC0415 (an extra, which help does not need)

    for path in sorted(OURS.glob("*.toml")):
        found = parse(resolve(read(path.stem), capacity_per_second=1.0))
        say(f"{path.stem:<10}{found.seconds:>6g} s  {found.title}")


def _data(profile: str, timeout_seconds: float | None) -> dict[str, Any]:
    """The data of a profile, with the timeout that the command line names."""
    try:
        data = read(profile)
    except BadProfile as error:
        raise NothingDone(str(error)) from error
    return data if timeout_seconds is None else {**data, "timeout_seconds": timeout_seconds}


def _read_capacity(file: Path | None) -> float | None:
    step = _read_step(file)
    return step.images_per_second if step else None


def _read_step(file: Path | None) -> Step | None:
    from loadtest.profile import Step  # noqa: PLC0415 (asyncio, which help does not need)

    if file is None:
        return None
    try:
        return Step(**json.loads(file.read_text(encoding="utf-8"))["capacity"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NothingDone(f"{file} is no profile.json of `eagleeye profile`") from error


def _save(result: dict[str, Any], output: Path) -> None:
    """Write the report, and print the short of it."""
    from loadtest.load.report import verdict  # noqa: PLC0415 (an extra, which help does not need)

    _write(result, output)
    row = result["figures"][0]
    rate = f"{row['per_second'] or 0:.1f}/s right and in time"
    say(f"{row['due']:,} images due, {rate}; p50 {_ms(row, 'p50_ms')}, p99 {_ms(row, 'p99_ms')}")
    for text in result["problems"]:
        say(f"INVALID  {text}")
    for each in result["objectives"]:
        say(f"{'met' if each['is_met'] else 'MISSED':<8} {each['text']}")
    say(f"{verdict(result)} Wrote report.html, report.md, load.svg and result.json in {output}")


def _ms(row: dict[str, Any], name: str) -> str:
    return "n/a" if row[name] is None else f"{row[name]:.1f} ms"


def _write(result: dict[str, Any], output: Path) -> None:
    from loadtest.load.report import write  # noqa: PLC0415 (matplotlib, which help does not need)

    try:
        write(result, output)
    except OSError as error:
        raise NothingDone(f"cannot write the report: {error}") from error
