"""`POST /v1/compare`: one prompt to several models at once, their streams tagged and interleaved.

The body is a chat request with `models` (2 to 8 names) in place of `model`. The answer is one stream:

    event: delta   {"index", "model", "chunk"}                      a chat chunk of that model
    event: done    {"index", "model", "latency_ms", "target"}       it has answered
    event: error   {"index", "model", "error"}                      it will not
    event: end     {}                                               all of them are over

Each is an exchange of its own: limits, budgets, routes and records are as if it had been asked alone. Its
request id is the request's, with `-<index>`.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any, NamedTuple

from raymill.registry.tables.base import new_id
from raymill.serve.gateway.exchange import Exchange, Parts, Sink
from raymill.serve.gateway.record import Came
from raymill.serve.gateway.snapshot import Snapshot
from raymill.serve.gateway.stream import STREAM_HEADERS, RawHeaders
from raymill.serve.gateway.wire import Ask, Refused, checked, encode, error_body, parse_object
from raymill.serve.gateway.wires.sse import frame

MAX_MODELS = 8


class Comparison(NamedTuple):
    models: tuple[str, ...]
    body: dict[str, Any]
    """A chat request without its model."""

    size_bytes: int


def parse(raw: bytes) -> Comparison:
    """Raises Refused: 400, naming the field."""
    body = parse_object(raw)
    models = body.pop("models", None)
    if (
        not isinstance(models, list)
        or not 2 <= len(models) <= MAX_MODELS
        or not all(isinstance(name, str) and name for name in models)
    ):
        raise Refused(
            400,
            "invalid_request",
            f"models is no list of 2 to {MAX_MODELS} model names: send one",
            param="models",
        )
    if len(set(models)) != len(models):
        raise Refused(
            400, "invalid_request", "models names the same model twice: name it once", param="models"
        )
    if body.get("stream") is False:
        raise Refused(
            400, "invalid_request", "stream is false: a comparison is always streamed", param="stream"
        )
    body["stream"] = True
    checked(body | {"model": models[0]}, "chat", len(raw))
    return Comparison(tuple(models), body, len(raw))


async def run(parts: Parts, snapshot: Snapshot, came: Came, comparison: Comparison, sink: Sink) -> None:
    """Answer into `sink`. Models that are refused are told of in the stream; the others go on."""
    frames: asyncio.Queue[bytes] = asyncio.Queue(maxsize=64)
    await sink.start(200, STREAM_HEADERS)

    async def one(index: int, name: str) -> None:
        ask = Ask(
            operation="chat",
            body={**comparison.body, "model": name},
            model=name,
            stream=True,
            size_bytes=comparison.size_bytes,
        )
        own = replace(came, id=new_id(), request_id=f"{came.request_id}-{index}", started=time.perf_counter())
        tagged = _Tagged(frames, index, name)
        try:
            await Exchange(parts, snapshot, own, ask).run(tagged)
        except Refused as refused:
            error = error_body(refused, own.request_id)
            await frames.put(frame(tagged.head + error[1:], b"error"))
            return
        if not tagged.broken:
            latency_ms = round((time.perf_counter() - own.started) * 1000, 1)
            told = {"index": index, "model": name, "latency_ms": latency_ms, "target": tagged.target}
            await frames.put(frame(encode(told), b"done"))

    async def all_of_them() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for index, name in enumerate(comparison.models):
                    group.create_task(one(index, name))
        except ExceptionGroup:
            await frames.put(b"")
            raise
        await frames.put(b"")

    work = asyncio.ensure_future(all_of_them())
    try:
        while piece := await frames.get():
            await sink.send(piece, more=True)
        await work  # raises what nobody foresaw: then the stream has no end event
        await sink.send(frame(b"{}", b"end"), more=False)
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


class _Tagged:
    """Puts one model's chunks into the common stream."""

    def __init__(self, frames: asyncio.Queue[bytes], index: int, name: str) -> None:
        self._frames = frames
        # An object's beginning, to which any other object's content can be joined.
        self.head = encode({"index": index, "model": name})[:-1] + b","
        self.target = ""
        self.broken = False

    async def start(self, status: int, headers: RawHeaders) -> None:  # noqa: ARG002 (always 200)
        self.target = dict(headers).get(b"x-raymill-target", b"").decode("latin-1")

    async def send(self, body: bytes, *, more: bool) -> None:  # noqa: ARG002 (the end has an event of its own)
        for event in body.split(b"\n\n"):
            data = event.removeprefix(b"data: ")
            if not data or data == b"[DONE]":
                continue
            if data.startswith(b'{"error"'):
                self.broken = True
                await self._frames.put(frame(self.head + data[1:], b"error"))
            else:
                await self._frames.put(frame(self.head + b'"chunk":' + data + b"}", b"delta"))
