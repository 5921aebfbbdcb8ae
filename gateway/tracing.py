"""Distributed traces by OpenTelemetry: one span per request and per stage, handed on to Triton.

Off until `configure` is called, and every function here is next to free until then; the packages are an optional extra.
As with logs, the configuration belongs to the process: what does the work need not know whether anybody watches.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

_OFF: Final[AbstractContextManager[None]] = nullcontext()


class TracingUnavailable(Exception):
    """Traces were asked for, and the packages that make them are not installed."""


class _Tracer(Protocol):
    def request(self, name: str, headers: Mapping[str, str]) -> AbstractContextManager[object]: ...

    def stage(self, name: str) -> AbstractContextManager[object]: ...

    def headers(self) -> dict[str, str]: ...

    def shutdown(self) -> None: ...


_tracer: _Tracer | None = None


def configure(endpoint: str) -> None:
    """Send traces to an OTLP collector at `endpoint`, such as http://collector:4318 (HTTP with protobuf).

    Raises:
        TracingUnavailable: the extra `tracing` is not installed.
    """
    global _tracer  # noqa: PLW0603 (the process's configuration, see above)
    try:
        from gateway.tracing_otel import OpenTelemetryTracer  # noqa: PLC0415 (an optional extra)
    except ModuleNotFoundError as error:
        raise TracingUnavailable(
            "traces need the packages of the extra `tracing`: pip install 'eagleeye[gateway,tracing]'"
        ) from error
    _tracer = OpenTelemetryTracer(endpoint)


def shutdown() -> None:
    """Send what is left, and be off again."""
    global _tracer  # noqa: PLW0603
    if _tracer is not None:
        _tracer.shutdown()
        _tracer = None


def request(name: str, headers: Mapping[str, str]) -> AbstractContextManager[object]:
    """A span around one request; it continues the caller's trace if the headers have a W3C `traceparent`."""
    return _OFF if _tracer is None else _tracer.request(name, headers)


def stage(name: str) -> AbstractContextManager[object]:
    """A span around one stage of the request that runs in the current context."""
    return _OFF if _tracer is None else _tracer.stage(name)


def headers() -> dict[str, str]:
    """The headers that let the next service continue the current trace."""
    return {} if _tracer is None else _tracer.headers()
