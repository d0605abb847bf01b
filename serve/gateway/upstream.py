"""Reaching a target: over HTTP for a provider, by a Serve handle for a version of ours (no second HTTP hop).

Both give an `Opened`: an answer whose beginning has come. Cancelling whoever waits, or `close`, cancels the
work at the other end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import Any, Protocol, cast

import msgspec

from raymill.policies.errors import Unavailable
from raymill.registry import trace_context
from raymill.serve.gateway.catalog import Served, Target
from raymill.serve.gateway.config import Timeouts
from raymill.serve.gateway.dialect import DONE, Call
from raymill.serve.gateway.http_client import HttpClient, TimedOut
from raymill.serve.gateway.stream import frame
from raymill.serve.gateway.wire import Operation
from raymill.serve.llm.answer import Body, Failure, Reply
from raymill.serve.llm.config import Routing
from raymill.serve.llm.spec import ENGINE
from raymill.serve.llm.traced import TRACEPARENT

logger = logging.getLogger(__name__)


SURE_S = 0.5
"""A version that had a replica has one for so long: Serve takes the last one a second after the last request at soonest."""

_closing: set[asyncio.Future[None]] = set()
"""Kept, for the loop itself holds its tasks only weakly."""


class Opened(Protocol):
    """An answer that has begun. `next` gives pieces of it, empty at the end."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[bytes, bytes]: ...

    async def whole(self, idle_s: float) -> bytes: ...

    async def next(self, patience_s: float) -> bytes: ...

    def close(self) -> None: ...


class Engines(Protocol):
    """Versions of ours. Cancelling the caller cancels the work."""

    async def whole(self, served: Served, operation: Operation, body: Body) -> Reply:
        """The whole answer.

        Raises:
            Unavailable: the engine is away or broke.
        """
        ...

    def pieces(self, served: Served, operation: Operation, body: Body) -> AsyncIterator[Reply]:
        """The answer in pieces, each of one or more JSON lines. Raises as `whole`, at any piece."""
        ...

    async def wake(self, served: Served, wake_s: float) -> None:
        """Wait for a replica of a version that may have none.

        Raises:
            Waking: after `wake_s` there still is none; it goes on starting.
        """
        ...


class Waking(Unavailable):
    """A version that was idle is being started."""

    code = "engine_waking"


class EngineFailed(Exception):
    """What an engine answered instead of an answer."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class EngineAnswer:
    """An engine's answer in the shape of an HTTP one."""

    status = 200
    headers: Mapping[bytes, bytes] = MappingProxyType({})

    def __init__(self, first: bytes, rest: AsyncIterator[Reply] | None) -> None:
        self._first = first
        self._rest = rest

    async def whole(self, idle_s: float) -> bytes:  # noqa: ARG002 (there is no rest to wait for)
        return self._first

    async def next(self, patience_s: float) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        if self._rest is None:
            return b""
        try:
            async with asyncio.timeout(patience_s):
                piece = await anext(self._rest)
        except StopAsyncIteration:
            self._rest = None
            return DONE  # an engine's stream that ends is whole
        except TimeoutError:
            raise TimedOut("the engine did not answer in time: raise the route's timeouts") from None
        if isinstance(piece, Failure):
            raise EngineFailed(piece)
        return frame(piece)

    def close(self) -> None:
        if self._rest is not None:
            # Closing the generator cancels the engine's work; it may have to wait a moment for that.
            closing = asyncio.ensure_future(cast(Any, self._rest).aclose())
            _closing.add(closing)
            closing.add_done_callback(_closing.discard)
            self._rest = None


class Upstreams:
    """Opens a call at whatever target."""

    def __init__(self, http: HttpClient, engines: Engines) -> None:
        self.http = http
        self._engines = engines

    async def open(
        self, target: Target, operation: Operation, call: Call, *, stream: bool, timeouts: Timeouts
    ) -> Opened:
        """Send `call`, and wait for the beginning of its answer.

        Raises:
            HttpError: of a provider.
            Unavailable: an engine of ours is away.
            EngineFailed: it answered that it will not or cannot.
        """
        if target.provider is not None:
            return await self.http.post(
                target.provider.address,
                call.path,
                call.headers,
                call.body,
                connect_s=timeouts.connect_s,
                first_byte_s=timeouts.first_token_s,
                total_s=timeouts.total_s,
            )
        assert target.served is not None
        body = _with_trace(msgspec.json.decode(call.body))
        if target.served.wake_s is not None:
            await self._engines.wake(target.served, target.served.wake_s)
        if not stream:
            async with asyncio.timeout(timeouts.total_s):
                reply = await self._engines.whole(target.served, operation, body)
            if isinstance(reply, Failure):
                raise EngineFailed(reply)
            return EngineAnswer(reply, None)
        pieces = aiter(self._engines.pieces(target.served, operation, body))
        try:
            async with asyncio.timeout(timeouts.first_token_s):
                first = await anext(pieces)
        except StopAsyncIteration:
            raise Unavailable("the engine ended its stream without an answer: try again") from None
        if isinstance(first, Failure):
            raise EngineFailed(first)
        return EngineAnswer(frame(first), pieces)


def _with_trace(body: Body) -> Body:
    """A handle's call has no headers."""
    traceparent = trace_context.current()
    return body if traceparent is None else {**body, TRACEPARENT: traceparent}


class ServeEngines:
    """Engines in Serve applications of the same cluster, each with a deployment called `engine`."""

    def __init__(self) -> None:
        # A handle costs a call to the controller, and each option of it a copy: both are kept.
        self._handles: dict[tuple[str, str, bool, Routing], Any] = {}
        self._waking: dict[str, asyncio.Task[None]] = {}
        self._awake_at: dict[str, float] = {}

    async def whole(self, served: Served, operation: Operation, body: Body) -> Reply:
        response = None
        try:
            response = (await self._handle(served, operation, stream=False)).remote(body)
            if served.take_s is not None:
                async with asyncio.timeout(served.take_s):
                    await response._to_object_ref()  # which is there once a replica has taken it
            reply: Reply = await response
            self._awake_at[served.application] = time.monotonic()
        except asyncio.CancelledError:
            if response is not None:
                response.cancel()
            raise
        except Exception as error:  # broad: whatever an engine raises, to the client the engine is away
            raise self._gone(served, error) from error
        return reply

    async def pieces(self, served: Served, operation: Operation, body: Body) -> AsyncIterator[Reply]:
        response = None
        finished = False
        try:
            response = (await self._handle(served, f"{operation}_stream", stream=True)).remote(body)
            if served.take_s is not None:
                async with asyncio.timeout(served.take_s):
                    await response._to_object_ref_gen()
            async for piece in response:
                self._awake_at[served.application] = time.monotonic()
                yield piece
            finished = True
        except Exception as error:  # broad, as above
            raise self._gone(served, error) from error
        finally:
            if response is not None and not finished:
                response.cancel()

    async def wake(self, served: Served, wake_s: float) -> None:
        name = served.application
        if time.monotonic() - self._awake_at.get(name, -SURE_S) < SURE_S:
            return
        if name not in self._waking:
            # One question for all that wait; it goes on when they give up, and the next finds it.
            self._waking[name] = asyncio.create_task(self._ask_for_life(served), name=f"wake-{name}")
        try:
            async with asyncio.timeout(wake_s):
                await asyncio.shield(self._waking[name])
        except TimeoutError:
            raise Waking(
                f"{served.exact_name} was idle and is being started, which takes longer than {wake_s:g} s: "
                "try again in a few seconds"
            ) from None

    async def _ask_for_life(self, served: Served) -> None:
        application = served.application
        try:
            await (await self._handle(served, "unfinished", stream=False)).remote()
            self._awake_at[application] = time.monotonic()
        except Exception:  # broad: what is wrong with the engine, the request itself will tell
            logger.warning("Engine %s could not be woken", application, exc_info=True)
        finally:
            del self._waking[application]

    async def _handle(self, served: Served, method: str, *, stream: bool) -> Any:
        key = (served.application, method, stream, served.routing)
        if key not in self._handles:
            from ray import serve

            # Asks the controller, with a blocking call.
            handle = await asyncio.to_thread(serve.get_deployment_handle, ENGINE, served.application)
            # Serve pickles in Python unless told: for each token, at both ends.
            self._handles[key] = handle.options(
                method_name=method,
                stream=stream,
                session_id=served.routing,  # for `PrefixRouter`, which knows no sessions
                request_serialization="pickle",
                response_serialization="pickle",
            )
        return self._handles[key]

    def _gone(self, served: Served, error: Exception) -> Unavailable:
        # The application may have been deleted and deployed again: look it up anew next time.
        self._awake_at.pop(served.application, None)
        self._handles = {key: kept for key, kept in self._handles.items() if key[0] != served.application}
        logger.warning("Engine %s failed: %r", served.application, error)
        return Unavailable(f"{served.exact_name} does not answer right now: try again in a few seconds")
