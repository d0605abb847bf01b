"""Engines' spans: one for each call that comes with a trace, below the gateway's.

A handle's call has no headers, so the gateway lays the traceparent into the body under a name of ours; it is taken out
before the engine sees it, whether spans are collected or not.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from raymill.cluster.tracing import OpenSpan, tracer
from raymill.serve.llm.answer import Body, Failure, Reply

TRACEPARENT = "raymill_traceparent"

Engine = TypeVar("Engine")


def traced(method: Callable[[Engine, Body], Awaitable[Reply]]) -> Callable[[Engine, Body], Awaitable[Reply]]:
    """A method that gives a whole answer."""

    @functools.wraps(method)
    async def call(self: Engine, body: Body) -> Reply:
        span = _begin(method.__name__, body)
        if span is None:
            return await method(self, body)
        try:
            reply = await method(self, body)
        except BaseException as error:
            span.end(error=type(error).__name__)
            raise
        span.end(error=reply.code if isinstance(reply, Failure) else None)
        return reply

    return call


def traced_stream(
    method: Callable[[Engine, Body], AsyncGenerator[Reply, None]],
) -> Callable[[Engine, Body], AsyncGenerator[Reply, None]]:
    """A method that gives an answer in pieces; the span ends with the last one."""

    @functools.wraps(method)
    async def call(self: Engine, body: Body) -> AsyncGenerator[Reply, None]:
        span = _begin(method.__name__, body)
        error, pieces = "", 0
        try:
            async with aclosing(method(self, body)) as replies:
                async for reply in replies:
                    error = reply.code if isinstance(reply, Failure) else error
                    pieces += 1
                    yield reply
        except BaseException as raised:
            error = type(raised).__name__
            raise
        finally:
            if span is not None:
                span.end(error=error or None, pieces=pieces)

    return call


def _begin(operation: str, body: dict[str, Any]) -> OpenSpan | None:
    parent = body.pop(TRACEPARENT, None)
    spans = tracer("engine")
    if spans is None or not isinstance(parent, str):
        return None
    return spans.begin(f"engine {operation}", "server", parent, model=str(body.get("model", "")))
