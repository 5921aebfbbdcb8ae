"""The side of `gateway.tracing` that needs OpenTelemetry; imported only when traces are on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager


class OpenTelemetryTracer:
    """Makes spans, and sends them in the background to the OTLP collector at `endpoint`."""

    def __init__(self, endpoint: str) -> None:
        self._provider = TracerProvider(resource=Resource.create({SERVICE_NAME: "eagleeye-gateway"}))
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("eagleeye")
        self._propagator = TraceContextTextMapPropagator()

    def request(self, name: str, headers: Mapping[str, str]) -> AbstractContextManager[object]:
        """A server's span; a `traceparent` that is not well-formed starts a trace of its own."""
        caller = self._propagator.extract(headers)
        return self._tracer.start_as_current_span(name, context=caller, kind=SpanKind.SERVER)

    def stage(self, name: str) -> AbstractContextManager[object]:
        """A span inside the current one."""
        return self._tracer.start_as_current_span(name)

    def headers(self) -> dict[str, str]:
        """The current span as W3C headers."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier

    def shutdown(self) -> None:
        """Send the spans that are still here."""
        self._provider.shutdown()
