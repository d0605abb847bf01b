"""The gateway: one ASGI app that answers the OpenAI wire.

A request meets, in this order: the route, `auth`, `wire` (is it well formed), the snapshot (which version
is meant), `upstream` (the engine), `stream` (the answer). Plain ASGI rather than a framework: the layers
of one cost more than all of this, and every answer here is bytes already.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any, cast

from starlette.types import Receive, Scope, Send

from raymill.policies.errors import Unavailable
from raymill.serve.gateway.auth import authenticate
from raymill.serve.gateway.snapshot import Refresher, Served, Snapshot, SnapshotSource
from raymill.serve.gateway.stream import RawHeaders, send_stream
from raymill.serve.gateway.upstream import Upstream
from raymill.serve.gateway.wire import MAX_BODY_BYTES, Operation, Refused, error_body, parse
from raymill.serve.llm.answer import Failure, encode

logger = logging.getLogger(__name__)

GENERATE: dict[str, Operation] = {"/v1/chat/completions": "chat", "/v1/completions": "completions"}
MODELS = "/v1/models"


class Gateway:
    """Stateless but for its snapshot: any replica may answer.

    Args:
        behind_serve: Ray Serve already cancels a request whose client is gone and sets x-request-id.
            Without it the gateway does both.
    """

    def __init__(
        self,
        source: SnapshotSource,
        upstream: Upstream,
        *,
        behind_serve: bool = False,
        max_body_bytes: int = MAX_BODY_BYTES,
        poll_s: float = 1.0,
    ) -> None:
        self._refresher = Refresher(source, poll_s=poll_s)
        self._upstream = upstream
        self._behind_serve = behind_serve
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            raise RuntimeError(f"the gateway speaks HTTP, not {scope['type']}")

    def check_health(self) -> None:
        """Raises when the gateway works by a snapshot that nothing refreshes any more."""
        self._refresher.check()

    async def start(self) -> None:
        """Load the first snapshot; the second call does nothing.

        Raises:
            Unavailable: the source is away, so nobody could be let in.
        """
        await self._refresher.start()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await self.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._refresher.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        sent_id = headers.get(b"x-request-id", b"").decode("latin-1")[:128]
        request_id = sent_id or uuid.uuid4().hex
        extra: RawHeaders = [] if self._behind_serve else [(b"x-request-id", request_id.encode("latin-1"))]
        try:
            await self._route(scope, headers, receive, send, extra, request_id)
        except Refused as refused:
            named = [(name.encode(), value.encode()) for name, value in refused.headers.items()]
            await _send(send, refused.status, error_body(refused, request_id), extra + named)
        except Unavailable as error:
            away = Refused(503, "engine_unavailable", str(error))
            await _send(send, 503, error_body(away, request_id), [*extra, (b"retry-after", b"1")])

    async def _route(
        self,
        scope: Scope,
        headers: dict[bytes, bytes],
        receive: Receive,
        send: Send,
        extra: RawHeaders,
        request_id: str,
    ) -> None:
        path, method = scope["path"], scope["method"]
        operation = GENERATE.get(path)
        if operation is None and path != MODELS and not path.startswith(MODELS + "/"):
            raise Refused(404, "unknown_route", f"{method} {path} does not exist: see /api/v1/openapi.json")
        expected = "POST" if operation else "GET"
        if method != expected:
            refused = Refused(405, "method_not_allowed", f"{method} {path} is not possible: use {expected}")
            refused.headers = {"allow": expected}
            raise refused
        # Keys and models of one request come from one snapshot, whatever the refresher does meanwhile.
        snapshot = self._refresher.current
        authenticate(headers.get(b"authorization"), snapshot)
        if operation is None:
            name = path.removeprefix(MODELS).removeprefix("/")
            listed = _model(name, _served(snapshot, name)) if name else _listing(snapshot)
            await _send(send, 200, encode(listed), extra)
            return
        raw = await self._read(headers, receive)
        body = parse(raw, operation)
        served = _served(snapshot, str(body["model"]))
        body["model"] = served.exact_name
        call = self._stream if body.get("stream") else self._plain
        work = call(served, operation, body, send, extra, request_id)
        if self._behind_serve:
            await work
        else:
            await _until_disconnect(work, receive)

    async def _plain(
        self, served: Served, operation: Operation, body: Any, send: Send, extra: RawHeaders, _: str
    ) -> None:
        reply = await self._upstream.whole(served, operation, body)
        if isinstance(reply, Failure):
            raise Refused.by_engine(reply)
        await _send(send, 200, reply, extra)

    async def _stream(
        self, served: Served, operation: Operation, body: Any, send: Send, extra: RawHeaders, request_id: str
    ) -> None:
        pieces = self._upstream.pieces(served, operation, body)
        # Closing at once, rather than when the garbage collector comes, is what cancels the engine's work.
        async with aclosing(cast(Any, pieces)):
            await send_stream(pieces, send, extra, request_id)

    async def _read(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        limit = self._max_body_bytes
        announced = headers.get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > limit:
            raise _too_large(limit)
        parts: list[bytes] = []
        size_bytes = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise asyncio.CancelledError("the client went away while it sent its request")
            part = message.get("body", b"")
            size_bytes += len(part)
            if size_bytes > limit:
                raise _too_large(limit)
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)


def _served(snapshot: Snapshot, name: str) -> Served:
    served = snapshot.models.get(name)
    if served is None:
        listed = ", ".join(sorted(snapshot.models)) or "nothing yet: promote a version first"
        raise Refused(
            404, "model_not_found", f"model {name!r} is not served; served: {listed}", param="model"
        )
    return served


def _too_large(limit_bytes: int) -> Refused:
    return Refused(413, "body_too_large", f"the body is over {limit_bytes} bytes: send less at once")


def _model(name: str, served: Served) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": served.created,
        "owned_by": "raymill",
        "served_version": served.exact_name,
    }


def _listing(snapshot: Snapshot) -> dict[str, object]:
    return {"object": "list", "data": [_model(name, served) for name, served in snapshot.models.items()]}


async def _send(send: Send, status: int, body: bytes, extra: RawHeaders) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *extra,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _until_disconnect(work: Coroutine[Any, Any, None], receive: Callable[[], Any]) -> None:
    """Run `work`, and cancel it when the client goes away."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        else:
            await task
    finally:
        gone.cancel()
        task.cancel()


async def _disconnected(receive: Callable[[], Any]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
