"""OpenTelemetry spans of every part, exported by OTLP over HTTP.

On only where OTEL_EXPORTER_OTLP_ENDPOINT (or _TRACES_ENDPOINT) is set; the other OTEL_* variables hold as everywhere. The
packages come with Ray and are imported only then. Each process exports in batches on a thread of its own.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any, Literal

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
FLUSH_MS = 5_000

Kind = Literal["server", "consumer"]


def wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether somebody collects spans."""
    return any(environment.get(name) for name in ENDPOINTS)


def provider_of(part: str, environment: Mapping[str, str] = os.environ) -> Any:
    """A `TracerProvider` that exports, named `raymill-<part>` unless OTEL_SERVICE_NAME says otherwise."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = environment.get("OTEL_SERVICE_NAME", f"raymill-{part}")
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class Tracer:
    """Begins spans of one part."""

    def __init__(self, part: str) -> None:
        self._provider = provider_of(part)
        self._tracer = self._provider.get_tracer(f"raymill.{part}")

    def begin(self, name: str, kind: Kind, parent: str | None, **attributes: str | int) -> OpenSpan:
        """A span below `parent`, a traceparent; None: the first of a trace. Attributes get the prefix `raymill.`."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator().extract({"traceparent": parent}) if parent else None
        kinds = {"server": SpanKind.SERVER, "consumer": SpanKind.CONSUMER}
        named = {f"raymill.{key}": value for key, value in attributes.items()}
        return OpenSpan(self._tracer.start_span(name, context=context, kind=kinds[kind], attributes=named))

    def flush(self) -> None:
        """Export what has ended."""
        self._provider.force_flush(FLUSH_MS)


class OpenSpan:
    """One that has begun."""

    def __init__(self, span: Any) -> None:
        self._span = span
        self.traceparent = traceparent_of(span)

    def end(self, *, error: str | None = None, name: str | None = None, **attributes: str | int) -> None:
        """
        Args:
            error: the class of what went wrong.
            name: a better one than it was begun with.
        """
        from opentelemetry.trace import Status, StatusCode

        if name is not None:
            self._span.update_name(name)
        self._span.set_attributes({f"raymill.{key}": value for key, value in attributes.items()})
        if error is not None:
            self._span.set_attribute("error.type", error)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


def traceparent_of(span: Any) -> str:
    """What is handed on to whoever works for an OpenTelemetry span."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


@functools.lru_cache
def tracer(part: str) -> Tracer | None:
    """This process's, made once; None: nobody collects spans."""
    return Tracer(part) if wanted() else None


def flush() -> None:
    """Export what has ended in this process, before it ends without a word."""
    if wanted() and (of_jobs := tracer("job")) is not None:
        of_jobs.flush()
