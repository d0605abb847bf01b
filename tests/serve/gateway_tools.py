"""A gateway on a real port, over an engine that does what a test scripts: our own seam, nothing patched."""

from __future__ import annotations

import asyncio
import json
import socket
import tempfile
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from tests.waiting import eventually

from raymill.policies.errors import Unavailable
from raymill.registry.provider_settings import ProviderSettings, presets
from raymill.serve.gateway.app import Gateway
from raymill.serve.gateway.build import assemble
from raymill.serve.gateway.catalog import Preset, Provider, ProviderSecret, Route, Served, Target, with_weight
from raymill.serve.gateway.config import RouteConfig
from raymill.serve.gateway.meters import Meters
from raymill.serve.gateway.money import Price
from raymill.serve.gateway.snapshot import Caller, Snapshot, SnapshotSource, StaticSource, digest_of
from raymill.serve.gateway.spool import Spool
from raymill.serve.gateway.stores import Stores
from raymill.serve.gateway.upstream import Waking
from raymill.serve.gateway.wire import Operation
from raymill.serve.llm.answer import Body, Failure, Reply, encode

KEY = "rm-0123456789abcdef"
ADA = Caller(account="ada", key_id=uuid.UUID(int=1), account_id=uuid.UUID(int=2))
HEAD = {"id": "chatcmpl-1", "created": 1, "model": "support-triage@3"}


def snapshot(*aliases: str) -> Snapshot:
    """One key and one served version with these aliases."""
    served = Served(name="support-triage", version=3, application="llm-support-triage-3", aliases=aliases)
    return Snapshot.of({digest_of(KEY): ADA}, [served])


def chunk(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return encode(HEAD | {"object": "chat.completion.chunk", "choices": [choice]}) + b"\n"


class ScriptedEngine:
    """Echoes the last message, or does what the model's user asks for by a word."""

    def __init__(self) -> None:
        self.seen: list[Body] = []
        self.cancelled = threading.Event()
        self.started = threading.Event()
        self.asleep: set[int] = set()
        """Versions that have no replica yet."""

    async def wake(self, served: Served, wake_s: float) -> None:
        if served.version in self.asleep:
            raise Waking(f"{served.exact_name} is being started, which takes longer than {wake_s:g} s")

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
        thread.join(timeout=60)
        listener.close()


@contextmanager
def gateway(
    engine: ScriptedEngine | None = None,
    source: StaticSource | None = None,
    *,
    max_body_bytes: int = 1000,
    stores: Stores | None = None,
) -> Iterator[str]:
    """The gateway over `engine`, with a small body limit."""
    with made(engine, source, max_body_bytes=max_body_bytes, stores=stores) as (app, address):
        assert app is not None
        yield address


@contextmanager
def made(
    engine: ScriptedEngine | None = None,
    source: SnapshotSource | None = None,
    *,
    max_body_bytes: int = 32 << 20,
    stores: Stores | None = None,
) -> Iterator[tuple[Gateway, str]]:
    """As `gateway`, and the app itself."""
    source = source or StaticSource(snapshot("production"))
    with tempfile.TemporaryDirectory() as directory:
        stores = stores or local_stores(Path(directory))
        app = assemble(source, stores, engine or ScriptedEngine(), max_body_bytes=max_body_bytes, poll_s=0.05)
        with serving(app) as address:
            yield app, address
        stores.spool.close()


def local_stores(directory: Path) -> Stores:
    """Records on disk, and no limits."""
    replica_id = uuid.uuid4()
    return Stores(
        replica_id=replica_id, meters=Meters("", replica_id, "test"), spool=Spool(directory, replica_id)
    )


def provider(
    name: str, url: str, *, preset: str = "vllm", keys: int = 1, price: Price | None = None, **settings: Any
) -> Provider:
    """A provider at `url` as a preset describes it, with keys `sk-<name>-0` and so on."""
    known = presets()[preset]
    own = ProviderSettings.model_validate({**known.settings.model_dump(), "auth": "bearer", **settings})
    return Provider(
        name=name,
        wire=known.wire,
        base_url=url,
        settings=own if known.wire == "openai" else known.settings,
        secrets=tuple(
            ProviderSecret(id=f"{name}-{n}", name=f"k{n}", value=f"sk-{name}-{n}") for n in range(keys)
        ),
        price_of=lambda _: price,
    )


def route(name: str, providers: list[Provider], targets: list[dict[str, Any]], **config: Any) -> Route:
    """A route as the registry would make it."""
    by_name = {each.name: each for each in providers}
    resolved = RouteConfig.model_validate({"targets": targets, **config})
    made = [
        with_weight(
            Target(
                model=wanted.model,
                provider=by_name[wanted.provider],
                price=by_name[wanted.provider].price_of(wanted.model),
            ),
            wanted,
        )
        for wanted in resolved.targets
    ]
    return Route(name=name, targets=tuple(made), config=resolved)


def source_of(
    providers: list[Provider], *routes: Route, presets: tuple[Preset, ...] = (), caller: Caller = ADA
) -> StaticSource:
    return StaticSource(
        Snapshot.of({digest_of(KEY): caller}, routes=routes, presets=presets, providers=providers)
    )


def leave(
    address: str, path: str, body: dict[str, Any], *, when: Callable[[], bool], key: str = KEY, **headers: str
) -> None:
    """Ask, and go away once `when` holds and, of a stream, the first token is there."""
    host, _, port = address.removeprefix("http://").rstrip("/").partition(":")
    content = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        f"host: {host}",
        f"authorization: Bearer {key}",
        "content-type: application/json",
        f"content-length: {len(content)}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
        eventually(when)
        if body.get("stream"):
            assert connection.recv(1)  # the head comes with the first token, and not before
