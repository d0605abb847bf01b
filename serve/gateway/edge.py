"""The ASGI edge: reading a body within its limit, sending an answer, noticing that the client went away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from starlette.types import Receive, Send

from raymill.serve.gateway.alarms import alarms
from raymill.serve.gateway.stream import RawHeaders
from raymill.serve.gateway.wire import Refused

WATCH_AFTER_S = 0.05
"""A plain request that is answered sooner than this is not watched: the watching would cost more than the
work that it can save."""


class ClientGone(Exception):
    """The client went away while it sent its request."""


class AsgiSink:
    """Sends an answer, with the request's id.

    Args:
        anthropic: a client of Anthropic's, whose package reads the id from a header of another name.
    """

    def __init__(self, send: Send, request_id: str, *, anthropic: bool = False) -> None:
        self._send = send
        told = request_id.encode("latin-1")
        self._ids = [(b"x-request-id", told), (b"request-id", told)][: 1 + anthropic]
        self.started = False
        self.finished = False

    async def start(self, status: int, headers: RawHeaders) -> None:
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *self._ids]})

    async def send(self, body: bytes, *, more: bool) -> None:
        self.finished = not more
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


async def read_body(headers: dict[bytes, bytes], receive: Receive, limit_bytes: int) -> bytes:
    """The whole body.

    Raises:
        Refused: 413, it is over the limit.
        ClientGone: nobody waits for an answer.
    """
    announced = headers.get(b"content-length", b"0")
    if announced.isdigit() and int(announced) > limit_bytes:
        raise _too_large(limit_bytes)
    parts: list[bytes] = []
    size_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        size_bytes += len(part)
        if size_bytes > limit_bytes:
            raise _too_large(limit_bytes)
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def cancelled_with_client(
    work: Awaitable[None], receive: Receive, sink: AsgiSink, *, at_once: bool
) -> None:
    """Run `work` in this task, and cancel it when the client goes away.

    Args:
        at_once: watch from the beginning, as a stream wants; else only what takes longer.
    """
    task = asyncio.current_task()
    assert task is not None
    watch = _Watch(task, receive, sink)
    if at_once:
        watch.start()
    else:
        alarms().set(watch, WATCH_AFTER_S, watch.start)
    try:
        await work
    except asyncio.CancelledError:
        if not watch.client_is_gone:
            raise
        task.uncancel()
    finally:
        if not at_once:
            alarms().clear(watch)
        watch.stop()


class _Watch:
    """Cancels a task when its client goes away."""

    def __init__(self, task: asyncio.Task[Any], receive: Receive, sink: AsgiSink) -> None:
        self._task = task
        self._sink = sink
        self._receive = receive
        self._watcher: asyncio.Task[None] | None = None
        self.client_is_gone = False

    def start(self) -> None:
        self._watcher = asyncio.ensure_future(self._run())

    def stop(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()

    async def _run(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._sink.finished:
            return  # the same message tells of the answer's end: what is still to be done shall be done
        self.client_is_gone = True
        self._task.cancel()


def _too_large(limit_bytes: int) -> Refused:
    return Refused(413, "body_too_large", f"the body is over {limit_bytes} bytes: send less at once")
