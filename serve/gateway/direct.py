"""Hands requests to the gateway, and to the control plane, without Ray Serve's own wrapping of each of them.

In HAProxy mode a replica runs uvicorn itself, but Serve 2.60 puts two tasks, a queue, a middleware and its
metrics around every request: half of what a trivial one costs (docs/architecture.md). The one function
that wraps the server's app is replaced here, in the replicas of these two only; health checks and everything
else still go to Serve. What Serve then does not see (requests in flight, their latency) the gateway counts
itself; the control plane's transactions take care of themselves. Uvicorn's middleware for the client's address,
which nobody here asks for, is left out as well. Goes when Serve lets an ASGI app have its server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import uvicorn.config
from ray.serve._private import http_util
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http import auto, httptools_impl

from raymill.serve.gateway.cycle import FewTimersProtocol, OneWriteCycle

REQUEST_ID = b"x-request-id"
HEALTH = "/-/healthz"

_apply_middlewares = http_util._apply_middlewares


def answer_directly(
    app: ASGIApp, prefix: str | tuple[str, ...], not_ready: Callable[[], str | None] = lambda: None
) -> None:
    """A server that is started from now on in this process gives requests under `prefix` to `app`.

    Args:
        not_ready: why no more requests should come, or None. HAProxy then asks the other replicas.
    """

    def apply(serve_app: ASGIApp, middlewares: list[Any]) -> ASGIApp:
        wrapped = _apply_middlewares(serve_app, middlewares)

        async def front(scope: Scope, receive: Receive, send: Send) -> None:
            path = scope.get("path", "")
            if scope["type"] == "http" and path.startswith(prefix):
                await app(scope, receive, send)
            elif path == HEALTH and (reason := not_ready()) is not None:
                await send({"type": "http.response.start", "status": 503, "headers": []})
                await send({"type": "http.response.body", "body": reason.encode()})
            else:
                await wrapped(scope, receive, send)

        return front

    def as_it_is(app: ASGIApp, **_: object) -> ASGIApp:
        return app

    http_util._apply_middlewares = apply
    httptools_impl.RequestResponseCycle = OneWriteCycle  # type: ignore[misc]
    auto.AutoHTTPProtocol = FewTimersProtocol
    uvicorn.config.ProxyHeadersMiddleware = as_it_is  # type: ignore[attr-defined,assignment]


def through_serve(gateway: ASGIApp) -> ASGIApp:
    """The gateway for requests that still come by way of Serve: HAProxy sends them to Serve's own proxy while no
    replica is up. Serve adds the request's id itself."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [header for header in message["headers"] if header[0] != REQUEST_ID]
                message = {**message, "headers": kept}
            await send(message)

        await gateway(scope, receive, without_id)

    return wrapped
