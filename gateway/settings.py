"""Every setting of the gateway: one frozen object, built once from command-line flags and `EAGLEEYE_*` variables."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import click

from eagleeye.options import PORT, setting
from gateway.files import TlsFiles

ADDRESSES: Final = "Addresses and ports"
ACCESS: Final = "Keys, TLS and origins"
VERSIONS: Final = "Versions"
LIMITS: Final = "Limits"
TIMES: Final = "Times"
LOGS: Final = "Logs and traces"
TRITON: Final = "Triton"

_POSITIVE: Final = click.IntRange(min=1)
_FILE: Final = click.Path(dir_okay=False, path_type=Path)
_LAST_PORT: Final = 65535
_MOST_WORKERS: Final = 256  # each takes some 100 MB
_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#@]+")


class Seconds(click.FloatRange):
    """A time that ends: neither `inf` nor `nan`, with which a wait would have no end or no meaning."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Check it."""
        seconds: float = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value} is no number of seconds", param, ctx)
        return seconds


_SECONDS: Final = Seconds(min=0, min_open=True)


class Origins(click.ParamType[tuple[str, ...]]):
    """Origins as browsers write them, `scheme://host` with a port if it is not the usual one; or `*`."""

    name = "origins"

    def convert(
        self, value: str | tuple[str, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Read a comma-separated list."""
        if isinstance(value, tuple):
            return value
        origins = tuple(origin.strip().lower() for origin in value.split(",") if origin.strip())
        for origin in origins:
            if not _ORIGIN.fullmatch(origin) and origins != ("*",):
                self.fail(f"{origin!r} is no origin such as https://example.com; or give * alone for any", param, ctx)
        return origins


class DnsServer(click.ParamType[str]):
    """`address:port` of a DNS server, which can't be looked up by name; or nothing."""

    name = "address:port"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check it."""
        if value and not (_is_host_and_port(value) and _is_address(value.rpartition(":")[0])):
            self.fail(f"{value!r} is no address:port such as 10.96.0.10:53 or [fd00::a]:53", param, ctx)
        return value


class TritonUrl(click.ParamType[str]):
    """`host:port,host:port`, where an IPv6 address stands in brackets; or `dns://name:port`."""

    name = "addresses"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the list, and write it without blanks."""
        scheme, _, rest = value.strip().rpartition("://")
        addresses = [address.strip() for address in rest.split(",")]
        for address in filter(None, addresses):
            if not _is_host_and_port(address):
                reason = "is no host:port such as triton-0:8001, 10.0.0.7:8001 or [fd00::7]:8001"
                self.fail(f"{address!r} {reason}", param, ctx)
        if scheme not in {"", "dns"}:
            self.fail(f"{value!r} begins with {scheme}://; give host:port, or dns://name:port", param, ctx)
        if not all(addresses):
            self.fail("an address is missing; give host:port, several separated by commas", param, ctx)
        if len(set(addresses)) < len(addresses):
            self.fail(f"{value!r} names an address twice", param, ctx)
        if not scheme:
            return ",".join(addresses)
        if len(addresses) > 1 or _is_address(addresses[0].rpartition(":")[0]):
            self.fail(f"{value!r}: after dns:// goes one name and a port; addresses go without it", param, ctx)
        return f"dns://{addresses[0]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingSettings:
    """How to serve, wherever Triton is. Units are part of the names."""

    http_host: str = setting("127.0.0.1", click.STRING, "Address on which the REST face listens.", group=ADDRESSES)
    http_port: int = setting(8080, PORT, "TCP port of the REST face; 0 takes a free one.", group=ADDRESSES)
    grpc_host: str = setting("127.0.0.1", click.STRING, "Address on which the gRPC face listens.", group=ADDRESSES)
    grpc_port: int = setting(8081, PORT, "TCP port of the gRPC face; 0 takes a free one.", group=ADDRESSES)
    admin_host: str = setting("127.0.0.1", click.STRING, "Address of the admin port.", group=ADDRESSES)
    admin_port: int | None = setting(
        None,
        PORT,
        "TCP port for /healthz, /readyz, /metrics and /v1/shadow, which the REST face then lacks, and for /v1/triton, "
        "the state of each Triton; 0 takes a free one.",
        group=ADDRESSES,
    )
    workers: int = setting(
        1,
        click.IntRange(1, _MOST_WORKERS),
        "Processes that share both ports, for machines with many processors. More than one need --admin-port, which "
        "shows them as one; all they have together is what --max-connections, --max-held-images, --max-inflight, "
        "--max-inflight-bytes and --pixel-threads say.",
        group=ADDRESSES,
    )
    keys_file: Path | None = setting(
        None, _FILE, "File of keys, see `eagleeye key`; without, none is asked for.", group=ACCESS
    )
    insecure: bool = setting(False, click.BOOL, "Serve other machines without keys.", group=ACCESS)
    tls_certificate: Path | None = setting(
        None,
        _FILE,
        "Certificate (PEM, with its chain) that both faces show; without, they speak in plain text.",
        group=ACCESS,
    )
    tls_key: Path | None = setting(
        None, _FILE, "Private key of that certificate (PEM, without a passphrase).", group=ACCESS
    )
    tls_client_ca: Path | None = setting(
        None, _FILE, "Authorities (PEM) of whose certificates callers must show one (mutual TLS).", group=ACCESS
    )
    no_console: bool = setting(
        False,
        click.BOOL,
        "Serve no console: neither the page at / nor what it needs, /v1/live and /v1/stream.",
        group=ACCESS,
    )
    cors_origins: tuple[str, ...] = setting(
        (), Origins(), "Origins whose pages may call the REST face, separated by commas; * for any.", group=ACCESS
    )
    rollout_file: Path | None = setting(
        None,
        _FILE,
        "File that says which versions of a model answer in which shares, and which is tried in the shadow; without, "
        "the version that most Tritons have answers.",
        group=VERSIONS,
    )
    max_image_bytes: int = setting(20_000_000, _POSITIVE, "Most bytes of one encoded image.", group=LIMITS)
    max_body_bytes: int = setting(
        64_000_000, _POSITIVE, "Most bytes of one request's body with several images, or with base64.", group=LIMITS
    )
    max_image_pixels: int = setting(50_000_000, _POSITIVE, "Most pixels (width x height) of one image.", group=LIMITS)
    scaled_decoding: bool = setting(
        False,
        click.BOOL,
        "Decode JPEGs much larger than a model's input at 1/2, 1/4 or 1/8: less work, and detections that differ a "
        "little from those of the whole image.",
        group=LIMITS,
    )
    max_inflight: int | None = setting(
        None,
        _POSITIVE,
        "Most images of one model that are worked on at a time; further ones wait. By default two full batches for "
        "each Triton that serves it.",
        group=LIMITS,
    )
    max_inflight_bytes: int = setting(
        512_000_000,
        _POSITIVE,
        "Most bytes of requests that are not answered yet; more are refused with 503. One key, address or stream gets "
        "half at most.",
        group=LIMITS,
    )
    max_connections: int = setting(
        2000, _POSITIVE, "Most connections of the REST face, and most open calls of the gRPC face.", group=LIMITS
    )
    pixel_threads: int = setting(
        (os.cpu_count() or 1) + 1,  # one takes over while another waits for the interpreter between two images
        _POSITIVE,
        "Threads that decode and resize images; by default one more than processors.",
        group=LIMITS,
    )
    timeout_seconds: float = setting(10.0, _SECONDS, "Deadline of a request that names none, in seconds.", group=TIMES)
    upload_timeout_seconds: float = setting(
        30.0, _SECONDS, "Longest time for a request's body to arrive, in seconds.", group=TIMES
    )
    grpc_max_connection_age_seconds: float | None = setting(
        None,
        _SECONDS,
        "Age at which a gRPC connection takes no new calls, so that balancers of connections spread callers anew; "
        "open calls go on. In seconds; off without.",
        group=TIMES,
    )
    drain_seconds: float = setting(
        5.0,
        Seconds(min=0),
        "Time on shutdown in which /readyz is 503 and requests are still taken, for balancers to notice; in seconds.",
        group=TIMES,
    )
    grace_seconds: float = setting(10.0, _SECONDS, "Time that requests then get to finish, in seconds.", group=TIMES)
    otlp_endpoint: str = setting(
        "",
        click.STRING,
        "URL of an OTLP collector over HTTP, such as http://collector:4318; traces are off without.",
        group=LOGS,
    )
    log_format: str = setting(
        "auto",
        click.Choice(["auto", "json", "text"]),
        "Form of log lines; auto: text on a terminal, else JSON.",
        group=LOGS,
    )
    triton_shared_memory: int | None = setting(
        None,
        _POSITIVE,
        "MiB in /dev/shm, shared out to the workers, in which Tritons on this machine find their input instead of in "
        "messages; for Triton 24.09 or newer under the same user. Off without.",
        group=TRITON,
    )

    def __post_init__(self) -> None:
        """Check what no option can know by itself.

        Raises:
            click.ClickException: TLS is half set, workers lack an admin port, or a limit leaves no room for another;
                the message says what to do.
        """
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise click.ClickException("--tls-certificate and --tls-key go together: give both, or neither")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise click.ClickException("--tls-client-ca needs --tls-certificate and --tls-key")
        if self.workers > 1:
            self._check_shared_ports()
        if self.share(self.max_inflight_bytes) < 2 * max(self.max_body_bytes, self.max_image_bytes):
            shared = f", {self.share(self.max_inflight_bytes)} for each of --workers {self.workers}"
            raise click.ClickException(
                f"--max-inflight-bytes is {self.max_inflight_bytes}{shared if self.workers > 1 else ''}; it must be at "
                "least twice --max-body-bytes and --max-image-bytes, or the largest request would never be let in"
            )

    def _check_shared_ports(self) -> None:
        """Refuse what several workers can't share.

        Raises:
            click.ClickException: they lack an admin port, or would listen twice on one; the kernel would let them.
        """
        if self.admin_port is None:
            raise click.ClickException(
                f"--workers {self.workers} needs --admin-port: on the shared port, /metrics and /readyz would be those "
                "of one worker only"
            )
        ports = [port for port in (self.http_port, self.grpc_port, self.admin_port) if port]
        if len(set(ports)) < len(ports):
            raise click.ClickException("--http-port, --grpc-port and --admin-port must differ")

    def share(self, limit: int) -> int:
        """One worker's part of a limit of the whole gateway: rounded down, but at least 1 of what is not 0."""
        return min(limit, max(1, limit // self.workers))

    @property
    def tls_files(self) -> TlsFiles | None:
        """What both faces serve TLS from; None for plain text."""
        if self.tls_certificate is None or self.tls_key is None:
            return None
        return TlsFiles(self.tls_certificate, self.tls_key, self.tls_client_ca)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(ServingSettings):
    """What `eagleeye gateway` can be told."""

    triton_url: str = setting(
        "127.0.0.1:8001",
        TritonUrl(),
        "gRPC services of the Tritons: host:port, several separated by commas; or dns://name:port for every address "
        "that the name has in DNS, such as that of a headless Service.",
        group=TRITON,
    )
    dns_interval_seconds: float = setting(1.0, _SECONDS, "Time between two looks at DNS, in seconds.", group=TRITON)
    dns_server: str = setting(
        "", DnsServer(), "address:port of the DNS server; those of /etc/resolv.conf without.", group=TRITON
    )
    hedge_quantile: float | None = setting(
        None,
        click.FloatRange(0, 1, min_open=True, max_open=True),
        "An inference that takes longer than this quantile of the latest ones, such as 0.95, is asked of a second "
        "Triton, too, and the first answer counts; off without.",
        group=TRITON,
    )
    triton_metrics_port: int | None = setting(
        None,
        click.IntRange(1, _LAST_PORT),
        "TCP port of every Triton's metrics, usually 8002, of which the console shows how busy GPUs are; asked only "
        "while somebody watches, and not at all without.",
        group=TRITON,
    )
    max_held_images: int = setting(
        0,
        click.IntRange(min=0),
        "Most images that are held, until their deadline, while no Triton serves anything: for installations that "
        "scale to zero. The gateway is then ready without a Triton. With 0 they are refused at once.",
        group=TRITON,
    )


def refuse_open_doors(settings: ServingSettings) -> None:
    """Stop before a face that other machines reach would serve everyone, unless that is said to be wanted.

    With mutual TLS a face serves only those to whom the operator's authority gave a certificate, which is a key, too.

    Raises:
        click.ClickException: it would.
    """
    if settings.keys_file is not None or settings.tls_client_ca is not None or settings.insecure:
        return
    for option, host in (("--http-host", settings.http_host), ("--grpc-host", settings.grpc_host)):
        if not _is_loopback(host):
            raise click.ClickException(
                f"{option} {host!r} can be reached from other machines, and no key would be asked for: "
                "name a --keys-file (`eagleeye key add` makes one), ask for certificates with --tls-client-ca, or "
                "serve everyone with --insecure"
            )


def _is_host_and_port(text: str) -> bool:
    """Whether a text is a name or an address, a colon and a port; an IPv6 address must stand in brackets."""
    host, _, port = text.rpartition(":")
    is_host = _NAME.fullmatch(host) or (
        host.startswith("[") and host.endswith("]") and ":" in host and _is_address(host)
    )
    return bool(is_host) and port.isascii() and port.isdigit() and 0 < int(port) <= _LAST_PORT


def _is_address(text: str) -> bool:
    try:
        ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address; of names, `localhost` is the one that is sure to."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
