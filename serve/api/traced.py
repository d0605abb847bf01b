"""The control plane's spans: one for each request that changes something, or that says which trace it belongs to.

What a caller's `traceparent` says becomes the parent. Jobs that the request writes keep the span as theirs.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raymill.cluster.tracing import tracer
from raymill.registry import trace_context
from raymill.serve.api.context import READS


class Traced:
    """An application whose requests carry a trace."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trace_context.carry(Headers(scope=scope).get("traceparent"))
        parent = trace_context.current()
        spans = tracer("api")
        if spans is None or (parent is None and scope["method"] in READS):
            await self._app(scope, receive, send)
            return
        span = spans.begin(scope["method"], "server", parent, request_id=scope["state"]["request_id"])
        trace_context.carry(span.traceparent)
        status = 500

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            error = str(status) if status >= 500 else None
            span.end(name=f"{scope['method']} {route}", error=error, status=status)
