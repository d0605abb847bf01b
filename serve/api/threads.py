"""Where the control plane's blocking work runs: threads that stay.

FastAPI's own end with the request that first needed them (anyio binds a thread to the task at the root, and
under Ray Serve every request is one): each request would start threads of its own, and go to one and back for
every dependency, though it cannot block.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from sqlalchemy.orm import Session

T = TypeVar("T")

THREADS = ThreadPoolExecutor(40, thread_name_prefix="api")


async def in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Run `work` in a thread. Whoever is cancelled waits for it all the same: a session is for one thread at a time."""
    run = functools.partial(contextvars.copy_context().run, work, *arguments)
    future = asyncio.get_running_loop().run_in_executor(THREADS, run)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise


class ThreadRoute(APIRoute):
    """A route whose endpoint may block: it runs in one of our threads. One that is `async` runs as it is."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **given: Any) -> None:
        if not inspect.iscoroutinefunction(endpoint):
            endpoint = _awaitable(endpoint, reads=set(given.get("methods") or ()) == {"GET"})
        super().__init__(path, endpoint, **given)


def _awaitable(endpoint: Callable[..., Any], *, reads: bool) -> Callable[..., Any]:
    @functools.wraps(endpoint)
    async def call(**given: Any) -> Any:
        return await in_thread(_answer, endpoint, given, reads)

    return call


def _answer(endpoint: Callable[..., Any], given: dict[str, Any], reads: bool) -> Any:
    """Call the endpoint, and do what follows while a thread is at it: commit, and write what was read as JSON."""
    answer = endpoint(**given)
    for each in given.values():
        if isinstance(each, Session) and each.in_transaction():
            each.commit()
    if reads and isinstance(answer, BaseModel):
        # FastAPI would check it again, make dictionaries of it, and JSON of these.
        return Response(answer.model_dump_json(by_alias=True), media_type="application/json")
    return answer
