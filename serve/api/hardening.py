"""What protects the control plane's callers and itself: headers for browsers, and a limit on bodies.

Pure ASGI. Routes that take files (`PUT /uploads/{id}`) have their own limit; nothing else needs a body of many megabytes.
"""

from __future__ import annotations

import json

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raymill.serve.api.access import PREFIX

HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    # An SVG that is opened by itself has styles of its own, and nothing else that a page could do.
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
}
HSTS = "max-age=31536000"
"""Only said where the request came by TLS: a proxy in front tells so."""

UPLOADS = f"{PREFIX}/uploads/"


class Hardened:
    """An application whose answers carry `HEADERS`, and whose bodies are within `limit_bytes`."""

    def __init__(self, app: ASGIApp, *, limit_bytes: int) -> None:
        self._app = app
        self._limit_bytes = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        by_tls = headers.get("x-forwarded-proto", scope.get("scheme")) == "https"

        async def send_hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    told.setdefault(name, value)
                told.setdefault("cache-control", "no-store")
                if by_tls:
                    told.setdefault("strict-transport-security", HSTS)
            await send(message)

        if scope["path"].startswith(UPLOADS):
            await self._app(scope, receive, send_hardened)
            return
        length = headers.get("content-length", "")
        if length.isdigit():  # the server reads no more than that
            too_large, again = int(length) > self._limit_bytes, receive
        elif "transfer-encoding" in headers:
            too_large, again = await self._read(receive)
        else:
            too_large, again = False, receive
        if too_large:
            await self._refuse(scope, send_hardened)
            return
        await self._app(scope, again, send_hardened)

    async def _read(self, receive: Receive) -> tuple[bool, Receive]:
        """Whether a body of unknown length is too large, and a `receive` that gives it again."""
        messages: list[Message] = []
        size_bytes = 0
        while True:
            message = await receive()
            messages.append(message)
            size_bytes += len(message.get("body", b""))
            if size_bytes > self._limit_bytes:
                return True, receive
            if message["type"] != "http.request" or not message.get("more_body", False):
                break
        left = iter(messages)

        async def again() -> Message:
            return next(left, None) or await receive()

        return False, again

    async def _refuse(self, scope: Scope, send: Send) -> None:
        error = {
            "type": "invalid_request_error",
            "code": "too_large",
            "message": f"the body is over {self._limit_bytes} bytes: send less, or raise RAYMILL_MAX_BODY_BYTES",
            "param": None,
            "request_id": scope["state"]["request_id"],
        }
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps({"error": error}).encode()})
