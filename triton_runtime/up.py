"""`eagleeye up`: the whole platform on one machine, in the foreground."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

import export as export_package
from eagleeye.options import (
    arguments,
    environment_name,
    options,
    refuse_unknown_environment,
    setting,
    without_settings,
)
from gateway.settings import ServingSettings, Settings, refuse_open_doors
from triton_runtime.environment import TritonEnvironment, UnsupportedMachine
from triton_runtime.process import Child

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_PORT: Final = click.IntRange(1, 65535)
_SECONDS: Final = click.FloatRange(min=0, min_open=True)
_FOLDER: Final = click.Path(file_okay=False, path_type=Path)
_HOST: Final = "127.0.0.1"
_CHECKPOINTS: Final = Path(export_package.__file__).parent / "checkpoints"
_SHIPPED_MODEL: Final = "damoyolo_ns_deeppcb"
_TRITON_STOP_SECONDS: Final = 5
_POLL_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class UpSettings(ServingSettings):
    """What `eagleeye up` can be told: all that the gateway can, and what there is to say of Triton."""

    http_port: int = setting(8080, _PORT, "TCP port of the gateway's REST face.")
    grpc_port: int = setting(8081, _PORT, "TCP port of the gateway's gRPC face.")
    admin_port: int | None = setting(
        None, _PORT, "TCP port for the gateway's /healthz, /readyz and /metrics, which its REST face then lacks."
    )
    drain_seconds: float = setting(
        0.0,
        click.FloatRange(min=0),
        "Time on shutdown in which requests are still taken, in seconds; no balancer is here that has to notice.",
    )
    triton_http_port: int = setting(8000, _PORT, "TCP port of Triton's HTTP service.")
    triton_grpc_port: int = setting(8001, _PORT, "TCP port of Triton's gRPC service.")
    triton_metrics_port: int = setting(8002, _PORT, "TCP port of Triton's metrics.")
    model_repository: Path = setting(
        Path("model_repository"), _FOLDER, "Folder of the models; an empty one gets the shipped model."
    )
    triton_env: Path = setting(Path(".venv-triton"), _FOLDER, "Virtual environment that holds nvidia-pytriton.")
    ready_timeout_seconds: float = setting(120.0, _SECONDS, "Longest time for everything to be ready, in seconds.")
    state_directory: Path = setting(Path(".eagleeye"), _FOLDER, "Folder for Triton's log and other files of this run.")


@click.command(context_settings={"max_content_width": 120})
@options(UpSettings)
def up(**values: Any) -> None:
    """Export the shipped model, start a real Triton and the gateway, and say when they are ready.

    Runs in the foreground until SIGINT (Ctrl-C) or SIGTERM, then stops both. What was exported before is not exported
    again. Every option can also be set by its environment variable.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # while a tool runs, which then goes too
    refuse_unknown_environment(UpSettings)
    settings = UpSettings(**values)
    refuse_open_doors(settings)
    environment = TritonEnvironment(settings.triton_env.absolute())
    try:
        environment.check()
        _check_ports(settings)
        with _sole_user(settings.state_directory):
            triton = _triton(environment, settings)
            _export_shipped_model(settings.model_repository)
            picture = _draw_sample(settings.state_directory)
            asyncio.run(_run(triton, _gateway(settings), settings, picture))
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


def _check_ports(settings: UpSettings) -> None:
    """Refuse ports that are taken or named twice, before anything is started.

    Raises:
        click.ClickException: one is; the message names the option that moves it.
    """
    names = [name for name in UpSettings.__dataclass_fields__ if name.endswith("_port")]
    hosts = {"http_port": settings.http_host, "grpc_port": settings.grpc_host, "admin_port": settings.admin_host}
    owners: dict[int, str] = {}
    for name in names:
        port: int | None = getattr(settings, name)
        if port is None:
            continue
        option = f"--{name.replace('_', '-')}"
        if port in owners:
            raise click.ClickException(f"{owners[port]} and {option} both name port {port}; they must differ")
        owners[port] = option
        host = hosts.get(name, _HOST)
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise click.ClickException(
                    f"port {port} can't be used ({error.strerror}); choose another with {option} "
                    f"or {environment_name(name)}"
                ) from error


def _export_shipped_model(repository: Path) -> None:
    """Export the shipped checkpoint into a repository that holds no other model. Done already: costs a moment."""
    others = {config.parent.name for config in repository.glob("*/config.pbtxt")} - {_SHIPPED_MODEL}
    if others:
        _say(f"serving {', '.join(sorted(others))} from {repository}")
        return
    checkpoint, labels = _CHECKPOINTS / "damoyolo_tinynasL18_Ns_deeppcb.pth", _CHECKPOINTS / "deeppcb.labels.txt"
    source = ("--variant", "Ns", "--checkpoint", checkpoint, "--labels", labels)
    _run_tool("eagleeye", "export", *source, "--name", _SHIPPED_MODEL, "--repository", repository)


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


def _triton(environment: TritonEnvironment, settings: UpSettings) -> Child:
    log = settings.state_directory / "triton.log"
    if log.is_file():
        log.replace(log.with_suffix(".log.1"))
    shared_memory_prefix = f"eagleeye_{os.getpid()}_"
    backends = environment.prepare(settings.state_directory.absolute())
    command: list[str | Path] = [
        environment.server,
        f"--model-repository={settings.model_repository.absolute()}",
        f"--backend-directory={backends}",
        f"--http-address={_HOST}",
        f"--http-port={settings.triton_http_port}",
        f"--grpc-address={_HOST}",
        f"--grpc-port={settings.triton_grpc_port}",
        f"--metrics-address={_HOST}",
        f"--metrics-port={settings.triton_metrics_port}",
        # a new version that `eagleeye export` publishes is served without a restart
        "--model-control-mode=poll",
        "--repository-poll-secs=2",
        f"--backend-config=python,shm-region-prefix-name={shared_memory_prefix}",
        "--exit-on-error=false",  # one broken model must not keep the others from being served
        f"--exit-timeout-secs={_TRITON_STOP_SECONDS}",
    ]
    return Child(
        name="Triton",
        command=command,
        environment=environment.variables(settings.state_directory.absolute()),
        log=log,
        stop_seconds=_TRITON_STOP_SECONDS + 5,
        report=_say,
        needs_helpers=True,  # a dead stub's share of the requests would fail until Triton is started anew
        shared_memory_prefix=shared_memory_prefix,
    )


def _gateway(settings: UpSettings) -> Child:
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(ServingSettings)}
    told = Settings(**values, triton_url=f"{_HOST}:{settings.triton_grpc_port}")
    return Child(
        name="the gateway",
        command=[sys.executable, "-m", "gateway", *arguments(told)],
        environment=without_settings(os.environ),
        log=None,
        stop_seconds=settings.drain_seconds + settings.grace_seconds + 5,
        report=_say,
    )


async def _run(triton: Child, gateway: Child, settings: UpSettings, picture: Path) -> None:
    """Run both until a signal; the gateway stops first, so that what it has accepted can still be answered."""
    running = asyncio.current_task()
    assert running is not None  # noqa: S101 (a coroutine always runs in a task)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, _cancel_once(running))
    with contextlib.suppress(asyncio.CancelledError):
        start = time.monotonic()
        base_url = _url(settings.http_host, settings.http_port)
        probes_url = _url(settings.admin_host, settings.admin_port) if settings.admin_port else base_url
        key = '-H "X-API-Key: $KEY" ' if settings.keys_file else ""
        async with _kept_running(triton), _kept_running(gateway):
            _say("starting Triton and the gateway")
            await _until_ready(probes_url, [triton, gateway], settings)
            _say(
                f"ready after {time.monotonic() - start:.1f} s; gRPC on {settings.grpc_host}:{settings.grpc_port}. "
                "Try it from another terminal:\n"
            )
            click.echo(f"    curl {key}--data-binary @{picture} {base_url}/v1/detect\n")
            await asyncio.Event().wait()
    _say("stopped")


def _url(host: str, port: int) -> str:
    """Where this machine reaches what listens at `host`, which may stand for all addresses."""
    host = {"0.0.0.0": _HOST, "::": "::1"}.get(host, host)  # noqa: S104 (compared, not bound)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _cancel_once(task: asyncio.Task[Any]) -> Any:
    """A signal handler that starts an orderly stop; more signals don't cut it short, it is bounded anyway."""

    def cancel() -> None:
        if not task.cancelling():
            _say("stopping")
            task.cancel()

    return cancel


@contextlib.asynccontextmanager
async def _kept_running(child: Child) -> AsyncIterator[None]:
    task = asyncio.create_task(child.run(), name=child.name)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _until_ready(probes_url: str, children: list[Child], settings: UpSettings) -> None:
    """Wait until the gateway is ready.

    Raises:
        click.ClickException: a child died on its first start, no model could be loaded, or time is up.
    """
    deadline = time.monotonic() + settings.ready_timeout_seconds
    while not await asyncio.to_thread(_answers, f"{probes_url}/readyz"):
        for child in children:
            if child.restarts:
                raise click.ClickException(f"{child.name} does not start; the reason stands above")
        reasons = await asyncio.to_thread(_why_no_model_loads, settings.triton_http_port)
        if reasons:
            raise click.ClickException(f"Triton could not load any model: {reasons}")
        if time.monotonic() > deadline:
            raise click.ClickException(f"not ready after {settings.ready_timeout_seconds:g} s{children[0].tail()}")
        await asyncio.sleep(_POLL_SECONDS)


def _why_no_model_loads(triton_http_port: int) -> str:
    """Triton's reasons once it has failed on every model; empty as long as there is hope."""
    index = urllib.request.Request(f"http://{_HOST}:{triton_http_port}/v2/repository/index", method="POST")
    try:
        with urllib.request.urlopen(index, timeout=1) as response:  # noqa: S310 (our own address)
            models = json.load(response)
    except OSError:
        return ""
    if not all(model.get("state") == "UNAVAILABLE" for model in models):
        return ""
    return "; ".join(f"{model['name']}: {' '.join(model.get('reason', 'no reason given').split())}" for model in models)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as response:  # noqa: S310 (our own address)
            return bool(response.status == 200)  # noqa: PLR2004 (HTTP's OK)
    except OSError:
        return False


def _say(line: str) -> None:
    click.secho(f"eagleeye: {line}", bold=True, err=True)
