"""A gateway on a real port, over an engine that does what a test scripts: our own seam, nothing patched."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from raymill.policies.errors import Unavailable
from raymill.serve.gateway.app import Gateway
from raymill.serve.gateway.snapshot import ApiKey, Served, Snapshot, StaticSource, digest_of
from raymill.serve.gateway.wire import Operation
from raymill.serve.llm.answer import Body, Failure, Reply, encode

KEY = "rm-0123456789abcdef"
HEAD = {"id": "chatcmpl-1", "created": 1, "model": "support-triage@3"}


def snapshot(*aliases: str) -> Snapshot:
    """One key and one served version with these aliases."""
    served = Served(name="support-triage", version=3, application="llm-support-triage-3", aliases=aliases)
    return Snapshot.of({digest_of(KEY): ApiKey(key_id="k1", user="ada")}, [served])


def chunk(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return encode(HEAD | {"object": "chat.completion.chunk", "choices": [choice]}) + b"\n"


class ScriptedEngine:
    """Echoes the last message, or does what the model's user asks for by a word."""

    def __init__(self) -> None:
        self.seen: list[Body] = []
        self.cancelled = threading.Event()
        self.started = threading.Event()

    async def whole(self, served: Served, operation: Operation, body: Body) -> Reply:
        self.seen.append(body)
        self.started.set()
        word = _word(operation, body)
        if word == "refuse":
            return Failure(
                400, "invalid_request", "max_tokens is over the limit: ask for fewer", "max_tokens"
            )
        if word == "away":
            raise Unavailable(f"{served.exact_name} does not answer right now: try again in a few seconds")
        if word == "hang":
            await self._hang()
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        if operation == "chat":
            choice = {"index": 0, "message": {"role": "assistant", "content": word}, "finish_reason": "stop"}
            return encode(HEAD | {"object": "chat.completion", "choices": [choice], "usage": usage})
        text = {"index": 0, "text": word, "logprobs": None, "finish_reason": "stop"}
        return encode(HEAD | {"object": "text_completion", "choices": [text], "usage": usage})

    async def pieces(self, served: Served, operation: Operation, body: Body) -> AsyncIterator[Reply]:
        self.seen.append(body)
        word = _word(operation, body)
        if word == "refuse":
            yield Failure(400, "invalid_request", "max_tokens is over the limit: ask for fewer", "max_tokens")
            return
        if word == "away":
            raise Unavailable(f"{served.exact_name} does not answer right now: try again in a few seconds")
        if word == "empty":
            return
        yield chunk("one ") + chunk("two ")
        self.started.set()
        if word == "break":
            raise Unavailable(f"{served.exact_name} does not answer right now: try again in a few seconds")
        if word == "fail":
            yield Failure(500, "engine_error", "the engine ran out of memory", None)
            return
        if word == "hang":
            await self._hang()
        yield chunk("three")
        options: Any = body.get("stream_options")
        if options and options.get("include_usage"):
            usage = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
            yield encode(HEAD | {"object": "chat.completion.chunk", "choices": [], "usage": usage}) + b"\n"

    async def _hang(self) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


def _word(operation: Operation, body: Body) -> str:
    if operation == "completions":
        return str(body["prompt"])
    messages: Any = body["messages"]
    return str(messages[-1]["content"])


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Run an ASGI app on a free port of this machine; gives its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, lifespan="on", log_level="warning", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    eventually(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listener.close()


@contextmanager
def gateway(
    engine: ScriptedEngine, source: StaticSource | None = None, *, max_body_bytes: int = 1000
) -> Iterator[str]:
    """The gateway over `engine`, with a small body limit."""
    source = source or StaticSource(snapshot("production"))
    with serving(Gateway(source, engine, max_body_bytes=max_body_bytes, poll_s=0.05)) as address:
        yield address


def eventually(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    """Wait until `condition` holds, and fail if it does not."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)
