"""`eagleeye up`: the whole platform on one machine, in the foreground."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

import export as export_package
from eagleeye.options import (
    SettingsCommand,
    arguments,
    environment_name,
    options,
    refuse_unknown_environment,
    setting,
    without_settings,
)
from gateway.settings import ADDRESSES, TIMES, TRITON, ServingSettings, Settings, refuse_open_doors
from triton_runtime.environment import TritonEnvironment, UnsupportedMachine
from triton_runtime.process import Child, running
from triton_runtime.server import HOST, Ports, TritonServer, is_serving, why_no_model_loads
from triton_runtime.standin import Standin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from triton_runtime.environment import Installation

_STANDIN_GROUP: Final = "Stand-in for GPUs"
_LAST_PORT: Final = 65535
_PORT: Final = click.IntRange(1, _LAST_PORT)
_SECONDS: Final = click.FloatRange(min=0, min_open=True)
_FOLDER: Final = click.Path(file_okay=False, path_type=Path)
_MILLISECONDS: Final = click.FloatRange(min=0, max=60_000)
_MOST_TRITONS: Final = 64  # each takes some 65 MB and 70 threads
_STANDIN: Final = Standin()
_PORT_STEP: Final = 10
"""Between the ports of one Triton and those of the next."""
_CHECKPOINTS: Final = Path(export_package.__file__).parent / "checkpoints"
_SHIPPED_MODEL: Final = "damoyolo_ns_deeppcb"
_POLL_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class UpSettings(ServingSettings):
    """What `eagleeye up` can be told: all that the gateway can, and what there is to say of Triton."""

    http_port: int = setting(8080, _PORT, "TCP port of the gateway's REST face.", group=ADDRESSES)
    grpc_port: int = setting(8081, _PORT, "TCP port of the gateway's gRPC face.", group=ADDRESSES)
    admin_port: int | None = setting(
        None,
        _PORT,
        "TCP port for the gateway's /healthz, /readyz and /metrics, which its REST face then lacks, and /v1/triton.",
        group=ADDRESSES,
    )
    drain_seconds: float = setting(
        0.0,
        click.FloatRange(min=0),
        "Time on shutdown in which requests are still taken, in seconds; no balancer is here that has to notice.",
        group=TIMES,
    )
    triton_http_port: int = setting(8000, _PORT, "TCP port of the first Triton's HTTP service.", group=TRITON)
    triton_grpc_port: int = setting(8001, _PORT, "TCP port of its gRPC service.", group=TRITON)
    triton_metrics_port: int = setting(8002, _PORT, "TCP port of its metrics.", group=TRITON)
    tritons: int = setting(
        1,
        click.IntRange(1, _MOST_TRITONS),
        f"Number of Tritons, each with ports that are {_PORT_STEP} higher than those of the one before.",
        group=TRITON,
    )
    standin: bool = setting(
        False,
        click.BOOL,
        "Serve a model that has a GPU's timing and invented answers, instead of the repository's.",
        group=_STANDIN_GROUP,
    )
    standin_base_ms: float = setting(
        _STANDIN.base_ms,
        _MILLISECONDS,
        "Time that the stand-in takes for each batch, in milliseconds.",
        group=_STANDIN_GROUP,
    )
    standin_per_image_ms: float = setting(
        _STANDIN.per_image_ms,
        _MILLISECONDS,
        "Time that it takes for each image of a batch on top, in milliseconds.",
        group=_STANDIN_GROUP,
    )
    standin_size: int = setting(
        _STANDIN.size, click.IntRange(16, 4096), "Side of its square input, in pixels.", group=_STANDIN_GROUP
    )
    model_repository: Path = setting(
        Path("model_repository"), _FOLDER, "Folder of the models; an empty one gets the shipped model.", group=TRITON
    )
    triton_env: Path = setting(
        Path(".venv-triton"), _FOLDER, "Virtual environment that holds nvidia-pytriton.", group=TRITON
    )
    ready_timeout_seconds: float = setting(
        120.0, _SECONDS, "Longest time for everything to be ready, in seconds.", group=TIMES
    )
    state_directory: Path = setting(
        Path(".eagleeye"), _FOLDER, "Folder for Triton's log and other files of this run.", group=TRITON
    )


@click.command(cls=SettingsCommand, context_settings={"max_content_width": 120})
@options(UpSettings)
def up(**values: Any) -> None:
    """Export the shipped model, start one or more real Tritons and a gateway, and say when they are ready.

    Runs in the foreground until SIGINT (Ctrl-C) or SIGTERM, then stops all. What was exported before is not exported
    again. Every option can also be set by its environment variable.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # while a tool runs, which then goes too
    refuse_unknown_environment(UpSettings)
    settings = UpSettings(**values)
    refuse_open_doors(settings)
    if settings.tls_client_ca is not None and settings.admin_port is None:
        raise click.ClickException(
            "--tls-client-ca needs --admin-port: that is where `eagleeye up` asks whether the gateway is ready"
        )
    environment = TritonEnvironment(settings.triton_env)
    try:
        environment.check()
        _check_ports(settings)
        with _sole_user(settings.state_directory):
            installation = environment.install(settings.state_directory)
            repository = _repository(settings)
            picture = _draw_sample(settings.state_directory)
            asyncio.run(_run(_tritons(installation, repository, settings), _gateway(settings), settings, picture))
    except UnsupportedMachine as error:
        raise click.ClickException(str(error)) from error


@contextlib.contextmanager
def _sole_user(directory: Path) -> Iterator[None]:
    """Hold a folder for this run alone: another would replace files under the feet of a running Triton.

    Raises:
        click.ClickException: another run holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise click.ClickException(
                f"another `eagleeye up` uses the folder {directory}; name another with --state-directory "
                f"or {environment_name('state_directory')}"
            ) from None
        yield


class _Claim(NamedTuple):
    """A port that something will listen on: the field that names it, and by how much it is higher than named there."""

    port: int
    host: str
    field: str
    shift: int = 0

    @property
    def option(self) -> str:
        return f"--{self.field.replace('_', '-')}"

    def __str__(self) -> str:
        return f"{self.option} + {self.shift}" if self.shift else self.option


def _claims(settings: UpSettings) -> Iterator[_Claim]:
    """All ports of the gateway and of the Tritons."""
    yield _Claim(settings.http_port, settings.http_host, "http_port")
    yield _Claim(settings.grpc_port, settings.grpc_host, "grpc_port")
    if settings.admin_port is not None:
        yield _Claim(settings.admin_port, settings.admin_host, "admin_port")
    for number, ports in enumerate(_triton_ports(settings)):
        for service, port in ports._asdict().items():
            yield _Claim(port, HOST, f"triton_{service}_port", number * _PORT_STEP)


def _triton_ports(settings: UpSettings) -> list[Ports]:
    first = Ports(settings.triton_http_port, settings.triton_grpc_port, settings.triton_metrics_port)
    return [Ports(*(port + number * _PORT_STEP for port in first)) for number in range(settings.tritons)]


def _check_ports(settings: UpSettings) -> None:
    """Refuse ports that are taken, claimed twice or beyond the last, before anything is started.

    Raises:
        click.ClickException: one is; the message names the option that moves it.
    """
    claims = list(_claims(settings))
    owners: dict[int, _Claim] = {}
    for claim in claims:
        if claim.port > _LAST_PORT:
            raise click.ClickException(f"{claim} is port {claim.port}; {_LAST_PORT} is the last there is")
        if claim.port in owners:
            raise click.ClickException(
                f"{owners[claim.port]} and {claim} both name port {claim.port}; they must differ"
            )
        owners[claim.port] = claim
    for claim in claims:
        if reason := _why_unusable(claim):
            derived = f" ({claim})" if claim.shift else ""
            raise click.ClickException(
                f"port {claim.port}{derived} can't be used ({reason}); choose another with {claim.option} "
                f"or {environment_name(claim.field)}"
            )


def _why_unusable(claim: _Claim) -> str:
    with socket.socket(socket.AF_INET6 if ":" in claim.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((claim.host, claim.port))
        except OSError as error:
            return error.strerror or str(error)
    return ""


def _repository(settings: UpSettings) -> Path:
    """The model repository, with something in it to serve."""
    if settings.standin:
        repository = settings.state_directory / "standin"
        Standin(
            base_ms=settings.standin_base_ms, per_image_ms=settings.standin_per_image_ms, size=settings.standin_size
        ).write(repository)
        return repository
    _export_shipped_model(settings.model_repository)
    return settings.model_repository


def _export_shipped_model(repository: Path) -> None:
    """Export the shipped checkpoint into a repository that holds no other model. Done already: costs a moment."""
    others = {config.parent.name for config in repository.glob("*/config.pbtxt")} - {_SHIPPED_MODEL}
    if others:
        _say(f"serving {', '.join(sorted(others))} from {repository}")
        return
    checkpoint, labels = _CHECKPOINTS / "damoyolo_tinynasL18_Ns_deeppcb.pth", _CHECKPOINTS / "deeppcb.labels.txt"
    source = ("--variant", "Ns", "--checkpoint", checkpoint, "--labels", labels)
    before = _newest_version(repository / _SHIPPED_MODEL)
    _run_tool("eagleeye", "export", *source, "--name", _SHIPPED_MODEL, "--repository", repository)
    if 0 < before < _newest_version(repository / _SHIPPED_MODEL):  # the one before is damaged, or of another release
        flags = ("--only", "--force", "--repository", repository)
        _run_tool("eagleeye", "model", "load", _SHIPPED_MODEL, *flags)


def _newest_version(model: Path) -> int:
    """The highest number among a model's versions; 0 where there is none."""
    return max((int(version.name) for version in model.glob("[1-9]*") if version.name.isdecimal()), default=0)


def _draw_sample(directory: Path) -> Path:
    """A picture to try the shipped model on."""
    picture = directory / "board.jpg"
    if not picture.is_file():
        _run_tool("eagleeye", "sample", "--output", picture)
    return picture


def _run_tool(*arguments: str | Path) -> None:
    """Run one of our own commands to its end, in a process of its own: it gives its memory back, torch's above all.

    Raises:
        click.ClickException: it failed; it has told the reason itself.
    """
    status = subprocess.run([sys.executable, "-m", *arguments], check=False).returncode  # noqa: S603 (our own words)
    if status:
        raise click.ClickException(f"`{' '.join(map(str, arguments[:2]))}` failed; the reason stands above")


def _tritons(installation: Installation, repository: Path, settings: UpSettings) -> list[TritonServer]:
    """The Tritons, numbered if there are several; each begins a new log and keeps its last one."""
    tritons = [
        TritonServer(
            installation,
            repository,
            ports,
            name=f"Triton {number}" if settings.tritons > 1 else "Triton",
            report=_say,
        )
        for number, ports in enumerate(_triton_ports(settings), start=1)
    ]
    for triton in tritons:
        if triton.log and triton.log.is_file():
            triton.log.replace(triton.log.with_suffix(".log.1"))
    return tritons


def _gateway(settings: UpSettings) -> Child:
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(ServingSettings)}
    urls = ",".join(f"{HOST}:{ports.grpc}" for ports in _triton_ports(settings))
    told = Settings(**values, triton_url=urls)
    return Child(
        name="the gateway",
        command=[sys.executable, "-m", "gateway", *arguments(told)],
        environment=without_settings(os.environ),
        log=None,
        stop_seconds=settings.drain_seconds + settings.grace_seconds + 5,
        report=_say,
    )


async def _run(tritons: list[TritonServer], gateway: Child, settings: UpSettings, picture: Path) -> None:
    """Run all until a signal; the gateway stops first, so that what it has accepted can still be answered."""
    main = asyncio.current_task()
    assert main is not None  # noqa: S101 (a coroutine always runs in a task)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, _cancel_once(main))
    with contextlib.suppress(asyncio.CancelledError):
        start = time.monotonic()
        base_url = _url(settings.http_host, settings.http_port, "https" if settings.tls_files else "http")
        probes_url = _url(settings.admin_host, settings.admin_port) if settings.admin_port else base_url
        tls = "--cacert CA.pem " if settings.tls_files else ""
        tls += "--cert CLIENT.pem --key CLIENT.key " if settings.tls_client_ca else ""
        key = '-H "X-API-Key: $KEY" ' if settings.keys_file else ""
        async with running(tritons), running([gateway]):
            _say(f"starting {'Triton' if len(tritons) == 1 else f'{len(tritons)} Tritons'} and the gateway")
            await _until_ready(probes_url, tritons, gateway, settings.ready_timeout_seconds)
            _say(
                f"ready after {time.monotonic() - start:.1f} s; gRPC on {settings.grpc_host}:{settings.grpc_port}. "
                "Try it from another terminal:\n"
            )
            click.echo(f"    curl {tls}{key}--data-binary @{picture} {base_url}/v1/detect\n")
            await asyncio.Event().wait()
    _say("stopped")


def _url(host: str, port: int, scheme: str = "http") -> str:
    """Where this machine reaches what listens at `host`, which may stand for all addresses."""
    host = {"0.0.0.0": HOST, "::": "::1"}.get(host, host)  # noqa: S104 (compared, not bound)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _cancel_once(task: asyncio.Task[Any]) -> Any:
    """A signal handler that starts an orderly stop; more signals don't cut it short, it is bounded anyway."""

    def cancel() -> None:
        if not task.cancelling():
            _say("stopping")
            task.cancel()

    return cancel


async def _until_ready(probes_url: str, tritons: list[TritonServer], gateway: Child, timeout_seconds: float) -> None:
    """Wait until every Triton serves a model, and the gateway is ready.

    Raises:
        click.ClickException: a child died on its first start, no model could be loaded, or time is up.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        models = await asyncio.gather(*(triton.models() for triton in tritons))
        waiting = [triton for triton, its in zip(tritons, models, strict=True) if not is_serving(its)]
        if not waiting and await asyncio.to_thread(_answers, f"{probes_url}/readyz"):
            return
        for child in (*tritons, gateway):
            if child.deaths:
                raise click.ClickException(f"{child.name} does not start; the reason stands above")
        for triton, its in zip(tritons, models, strict=True):
            if reasons := why_no_model_loads(its):
                raise click.ClickException(f"{triton.name} could not load any model: {reasons}")
        if time.monotonic() > deadline:
            raise click.ClickException(f"not ready after {timeout_seconds:g} s{(waiting or tritons)[0].tail()}")
        await asyncio.sleep(_POLL_SECONDS)


def _answers(url: str) -> bool:
    anyone = ssl._create_unverified_context()  # noqa: S323, SLF001 (a child of ours, on this machine: a probe, no secret)
    try:
        with urllib.request.urlopen(url, timeout=1, context=anyone) as response:  # noqa: S310 (our own address)
            return bool(response.status == 200)  # noqa: PLR2004 (HTTP's OK)
    except OSError:
        return False


def _say(line: str) -> None:
    click.secho(f"eagleeye: {line}", bold=True, err=True)
