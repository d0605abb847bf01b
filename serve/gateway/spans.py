"""One OpenTelemetry span for each request, with the gen_ai names of its semantic conventions (1.37).

On only where OTEL_EXPORTER_OTLP_ENDPOINT (or _TRACES_ENDPOINT) is set; the other OTEL_* variables hold as
everywhere. A caller's `traceparent` becomes the parent, and upstreams get the span's own, so that a provider
of ours, and an engine, shows up below it. No prompt and no answer is in a span.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from raymill.cluster import tracing
from raymill.registry import trace_context
from raymill.serve.gateway.wire import Ask, Operation

if TYPE_CHECKING:
    from raymill.serve.gateway.spool import UsageRecord

OPERATIONS: dict[Operation, str] = {
    "chat": "chat",
    "messages": "chat",
    "responses": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
}
WELL_KNOWN = {
    "gemini": "gcp.gemini",
    "azure-openai": "azure.ai.openai",
    "mistral": "mistral_ai",
    "xai": "x_ai",
}


class Span(Protocol):
    def end(self, record: UsageRecord) -> None: ...


class Spans:
    """Begins spans and hands finished ones to the exporter, in batches on a thread of its own."""

    def __init__(self, provider: Any) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("raymill.gateway")
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Spans | None:
        """None when nobody collects them."""
        return cls(tracing.provider_of("gateway", environment)) if tracing.wanted(environment) else None

    def begin(self, ask: Ask, traceparent: str | None) -> Span:
        """A span for `ask`; from now on its calls carry it upstream."""
        from opentelemetry.trace import SpanKind

        parent = self._propagator.extract({"traceparent": traceparent}) if traceparent else None
        operation = OPERATIONS[ask.operation]
        span = self._tracer.start_span(
            f"{operation} {ask.model}",
            context=parent,
            kind=SpanKind.SERVER,
            attributes={"gen_ai.operation.name": operation, "gen_ai.request.model": ask.model},
        )
        handed_on = tracing.traceparent_of(span)
        trace_context.carry(handed_on)
        ask.passed += f"traceparent: {handed_on}\r\n".encode()
        return _Open(span)

    def close(self) -> None:
        """Export what is left."""
        self._provider.shutdown()


class _Open:
    def __init__(self, span: Any) -> None:
        self._span = span

    def end(self, record: UsageRecord) -> None:
        from opentelemetry.trace import Status, StatusCode

        span = self._span
        span.set_attributes(
            {
                "gen_ai.provider.name": WELL_KNOWN.get(record.provider, record.provider),
                "gen_ai.response.model": record.model,
                "gen_ai.usage.input_tokens": record.prompt_tokens,
                "gen_ai.usage.output_tokens": record.completion_tokens,
                "http.response.status_code": record.status,
                "raymill.request_id": record.request_id,
                "raymill.route": record.route,
                "raymill.outcome": record.outcome,
                "raymill.attempts": record.attempts,
                "raymill.cost_micro_usd": record.cost_micro_usd,
                "raymill.overhead_ms": record.overhead_ms,
            }
        )
        if record.first_token_ms is not None:
            span.set_attribute("gen_ai.server.time_to_first_token", record.first_token_ms / 1000)
        if record.outcome not in {"ok", "cached"}:
            span.set_attribute("error.type", record.outcome if record.status < 400 else str(record.status))
            span.set_status(Status(StatusCode.ERROR))
        span.end()
