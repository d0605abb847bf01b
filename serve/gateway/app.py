"""The gateway: one ASGI app that answers the OpenAI and the Anthropic wire.

A request meets, in this order: the route table below, `auth`, `wire` (is it well formed), `answers` (was it
asked before, by its Idempotency-Key), and then an `exchange`. Plain ASGI rather than a framework: the
layers of one cost more than all of this, and most answers here are bytes already.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope, Send

from raymill.cluster import logs
from raymill.policies.errors import Invalid, Unavailable
from raymill.registry import trace_context
from raymill.registry.tables.base import new_id
from raymill.serve.gateway import compare, feedback, names
from raymill.serve.gateway.answers import Answers
from raymill.serve.gateway.auth import authenticate
from raymill.serve.gateway.edge import AsgiSink, ClientGone, cancelled_with_client, read_body
from raymill.serve.gateway.exchange import Exchange, Parts
from raymill.serve.gateway.record import Came
from raymill.serve.gateway.snapshot import Caller, Refresher, Snapshot, SnapshotSource
from raymill.serve.gateway.stream import JSON_HEADERS
from raymill.serve.gateway.wire import MAX_BODY_BYTES, Operation, Refused, encode, error_body, parse
from raymill.serve.gateway.wires.usage import estimate_prompt_tokens

log = logging.getLogger(__name__)

INFERENCE: dict[str, Operation] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
}
MODELS = "/v1/models"
COUNT_TOKENS = "/v1/messages/count_tokens"
COMPARE = "/v1/compare"
FEEDBACK = "/v1/feedback"
POSTS = frozenset({*INFERENCE, COUNT_TOKENS, COMPARE, FEEDBACK})

ANTHROPIC = b"anthropic-version"
"""The header that every client of Anthropic's sends."""

PASSED = (b"anthropic-beta", b"openai-beta")
"""Headers that go on to an upstream of the same wire; all others end here."""

TakeFeedback = Callable[[uuid.UUID, feedback.FeedbackRequest], bytes]
"""Keeps an account's feedback and gives the answer's JSON; blocks. Raises Refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """One request at the edge."""

    path: str
    method: str
    headers: dict[bytes, bytes]
    receive: Receive
    sink: AsgiSink
    id: uuid.UUID
    request_id: str
    started: float

    def came(self, caller: Caller) -> Came:
        parent = self.headers.get(b"traceparent")
        return Came(
            caller=caller,
            id=self.id,
            request_id=self.request_id,
            started=self.started,
            traceparent=parent.decode("latin-1") if parent else None,
        )


class Gateway:
    """Stateless but for its snapshot, leases and cache: any replica may answer."""

    def __init__(
        self,
        source: SnapshotSource,
        parts: Parts,
        answers: Answers,
        *,
        take_feedback: TakeFeedback | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
        poll_s: float = 1.0,
    ) -> None:
        self.refresher = Refresher(source, poll_s=poll_s)
        self.parts = parts
        self._answers = answers
        self._take_feedback = take_feedback
        self._max_body_bytes = max_body_bytes
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            raise RuntimeError(f"the gateway speaks HTTP, not {scope['type']}")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await self.refresher.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.refresher.stop()
        self.parts.upstreams.http.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        own_id = new_id()
        request_id = _sent_id(headers) or own_id.hex
        logs.about(request_id=request_id)
        trace_context.carry(headers.get(b"traceparent", b"").decode("latin-1"))
        request = _Request(
            path=scope["path"],
            method=scope["method"],
            headers=headers,
            receive=receive,
            sink=AsgiSink(send, request_id, anthropic=ANTHROPIC in headers),
            id=own_id,
            request_id=request_id,
            started=time.perf_counter(),
        )
        self.in_flight += 1
        try:
            await self._route(request)
        except Refused as refused:
            await self._refuse(request, refused)
        except Invalid as error:
            await self._refuse(request, Refused(400, error.code, str(error), param=error.param))
        except Unavailable as error:
            await self._refuse(request, Refused(503, error.code, str(error), headers={"retry-after": "1"}))
        except ClientGone:
            return
        except RecursionError:  # deep enough to be read, too deep to be written again
            await self._refuse(
                request, Refused(400, "malformed_json", "the body is nested too deeply: send it flatter")
            )
        except Exception:  # broad: whatever it is, the client gets an answer in its own shape
            log.exception("request %s failed", request_id)
            message = "this is a fault of the gateway: its log tells more under this request_id"
            await self._refuse(request, Refused(500, "internal_error", message))
        finally:
            self.in_flight -= 1

    async def _route(self, request: _Request) -> None:
        path, method = request.path, request.method
        operation = INFERENCE.get(path)
        if operation is None and path not in POSTS and path != MODELS and not path.startswith(MODELS + "/"):
            raise Refused(404, "unknown_route", f"{method} {path} does not exist: see /api/v1/openapi.json")
        expected = "POST" if path in POSTS else "GET"
        if method != expected:
            raise Refused(
                405,
                "method_not_allowed",
                f"{method} {path} is not possible: use {expected}",
                headers={"allow": expected},
            )
        # Keys and routes of one request come from one snapshot, whatever the refresher does meanwhile.
        snapshot = self.refresher.current
        caller = authenticate(request.headers, snapshot)
        if expected == "GET":
            name = path.removeprefix(MODELS).removeprefix("/")
            anthropic = ANTHROPIC in request.headers
            shown = names.model(snapshot, name, anthropic) if name else names.listing(snapshot, anthropic)
            await _json(request.sink, shown)
            return
        raw = await read_body(request.headers, request.receive, self._max_body_bytes)
        if operation is not None:
            await self._infer(request, snapshot, caller, operation, raw)
        elif path == COUNT_TOKENS:
            ask = parse(raw, "messages", counting=True)
            preset = snapshot.presets.get(ask.model)
            if preset is not None:
                names.with_preset(ask, preset)
            names.find_route(snapshot, ask.model)
            await _json(request.sink, {"input_tokens": estimate_prompt_tokens(ask.body)})
        elif path == COMPARE:
            work = compare.run(self.parts, snapshot, request.came(caller), compare.parse(raw), request.sink)
            await cancelled_with_client(work, request.receive, request.sink, at_once=True)
        else:
            await _json(request.sink, await self._feedback(caller, raw))

    async def _infer(
        self, request: _Request, snapshot: Snapshot, caller: Caller, operation: Operation, raw: bytes
    ) -> None:
        headers = request.headers
        ask = parse(raw, operation)
        ask.passed = b"".join(name + b": " + headers[name] + b"\r\n" for name in PASSED if name in headers)
        exchange = Exchange(self.parts, snapshot, request.came(caller), ask)
        key = headers.get(b"idempotency-key")
        work: Awaitable[None]
        if key is None:
            work = exchange.run(request.sink)
        else:
            work = self._answers.once(
                caller.account_id, key.decode("latin-1"), operation, raw, exchange.run, request.sink
            )
        await cancelled_with_client(work, request.receive, request.sink, at_once=ask.stream)

    async def _feedback(self, caller: Caller, raw: bytes) -> bytes:
        request = feedback.parse(raw)
        if self._take_feedback is None:
            raise Refused(
                501, "feedback_unavailable", "this gateway has no registry: feedback cannot be kept"
            )
        return await asyncio.to_thread(self._take_feedback, caller.account_id, request)

    async def _refuse(self, request: _Request, refused: Refused) -> None:
        self.parts.recorder.metrics.refused(refused.code, refused.status)
        sink = request.sink
        if sink.started:  # a stream of ours that could not be ended well
            return
        anthropic = request.path == COUNT_TOKENS or ANTHROPIC in request.headers
        operation = INFERENCE.get(request.path) or ("messages" if anthropic else "chat")
        body = error_body(refused, request.request_id, operation)
        extra = [
            (name.encode(), value.encode("latin-1", "replace")) for name, value in refused.headers.items()
        ]
        await sink.start(refused.status, [*JSON_HEADERS, (b"content-length", b"%d" % len(body)), *extra])
        await sink.send(body, more=False)


def _sent_id(headers: dict[bytes, bytes]) -> str:
    """The client's own id of the request; empty when it sent none."""
    return headers.get(b"x-request-id", b"").decode("latin-1")[:128]


async def _json(sink: AsgiSink, value: Any) -> None:
    body = value if isinstance(value, bytes) else encode(value)
    await sink.start(200, [*JSON_HEADERS, (b"content-length", b"%d" % len(body))])
    await sink.send(body, more=False)
