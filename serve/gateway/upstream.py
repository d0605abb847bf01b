"""The engines behind the gateway: our own versions, called by Serve handles without a second HTTP hop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, Protocol

from raymill.policies.errors import Unavailable
from raymill.serve.gateway.snapshot import Served
from raymill.serve.gateway.wire import Operation
from raymill.serve.llm.answer import Body, Reply
from raymill.serve.llm.spec import ENGINE

logger = logging.getLogger(__name__)


class Upstream(Protocol):
    """Anything that can answer the OpenAI wire. Cancelling the caller cancels the work."""

    async def whole(self, served: Served, operation: Operation, body: Body) -> Reply:
        """The whole answer.

        Raises:
            Unavailable: the engine is away or broke.
        """
        ...

    def pieces(self, served: Served, operation: Operation, body: Body) -> AsyncIterator[Reply]:
        """The answer in pieces, each of one or more JSON lines. Raises as `whole`, at any piece."""
        ...


class ServeUpstream:
    """Engines in Serve applications of the same cluster, each with a deployment called `engine`."""

    def __init__(self) -> None:
        # A handle costs a call to the controller, and each option of it a copy: both are kept.
        self._handles: dict[tuple[str, str, bool], Any] = {}

    async def whole(self, served: Served, operation: Operation, body: Body) -> Reply:
        response = None
        try:
            response = (await self._handle(served, operation, stream=False)).remote(body)
            reply: Reply = await response
        except asyncio.CancelledError:
            if response is not None:
                response.cancel()
            raise
        except Exception as error:  # broad: whatever an engine raises, to the client the engine is away
            raise self._gone(served, operation, error) from error
        return reply

    async def pieces(self, served: Served, operation: Operation, body: Body) -> AsyncIterator[Reply]:
        response = None
        finished = False
        try:
            response = (await self._handle(served, operation, stream=True)).remote(body)
            async for piece in response:
                yield piece
            finished = True
        except Exception as error:  # broad, as above
            raise self._gone(served, operation, error) from error
        finally:
            if response is not None and not finished:
                response.cancel()

    async def _handle(self, served: Served, operation: Operation, *, stream: bool) -> Any:
        key = (served.application, operation, stream)
        if key not in self._handles:
            from ray import serve

            # Asks the controller, with a blocking call.
            handle = await asyncio.to_thread(serve.get_deployment_handle, ENGINE, served.application)
            method = f"{operation}_stream" if stream else operation
            self._handles[key] = handle.options(method_name=method, stream=stream)
        return self._handles[key]

    def _gone(self, served: Served, operation: Operation, error: Exception) -> Unavailable:
        # The application may have been deleted and deployed again: look it up anew next time.
        for stream in (False, True):
            self._handles.pop((served.application, operation, stream), None)
        logger.warning("Engine %s failed: %r", served.application, error)
        return Unavailable(f"{served.exact_name} does not answer right now: try again in a few seconds")
