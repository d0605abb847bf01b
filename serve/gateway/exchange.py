"""One inference request, from a well-formed ask to its last byte and its record.

    preset -> route -> targets in order -> canary -> cache -> reserve -> attempts -> answer -> settle, record

Whatever happens to it, every request that was let in ends with one settlement and one usage record, written
before the client can have seen the whole answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from raymill.serve.gateway import balance, split, traces
from raymill.serve.gateway.attempts import Attempts, Begun
from raymill.serve.gateway.cache import AnswerCache, Copy
from raymill.serve.gateway.catalog import Target
from raymill.serve.gateway.health import HealthBook
from raymill.serve.gateway.mishaps import MISHAPS, failed_by
from raymill.serve.gateway.names import find_route, with_preset
from raymill.serve.gateway.record import BYTES_PER_TOKEN, Came, Entry, Outcome, Recorder
from raymill.serve.gateway.snapshot import Snapshot
from raymill.serve.gateway.stream import JSON_HEADERS, STREAM_HEADERS, RawHeaders, error_frame
from raymill.serve.gateway.upstream import Upstreams
from raymill.serve.gateway.wire import Ask, Refused


class Sink(Protocol):
    """Where an answer goes."""

    async def start(self, status: int, headers: RawHeaders) -> None: ...

    async def send(self, body: bytes, *, more: bool) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What all requests of a replica share."""

    upstreams: Upstreams
    book: HealthBook
    recorder: Recorder
    cache: AnswerCache


class Exchange:
    """One request. Made for it, and run once."""

    def __init__(self, parts: Parts, snapshot: Snapshot, came: Came, ask: Ask) -> None:
        self._parts = parts
        self._came = came
        self._ask = ask
        name = ask.model
        preset = snapshot.presets.get(name)
        if preset is not None:
            with_preset(ask, preset)
        self._route = find_route(snapshot, ask.model)
        self._entry = Entry(parts.recorder, came, ask, name)
        self._attempts = Attempts(parts.upstreams, parts.book, ask, self._route)
        self._cache_key: bytes | None = None
        self._copy: Copy | None = None
        """Of the answer as the client gets it, where it is kept: cache, traces."""

    async def run(self, sink: Sink) -> None:
        """Answer into `sink`.

        Raises:
            Refused: nothing was sent: somebody forbids it, or nobody answers.
        """
        route = self._route
        targets = self._order()
        entry, attempts = self._entry, self._attempts
        met: split.Met | None = None
        if route.has_canary:
            targets, met = split.split(targets, split.key_of(self._came.caller.account_id, self._ask.body))
            if met is not None:
                entry.meets(met)
        passed = self._ask.passed
        targets = await entry.reserve(targets)
        # Only now: a budget may have put a limit for the answer into the request.
        # What a canary said is not kept for others.
        if route.config.cache_ttl_s is not None and (met is None or met.arm == "current"):
            self._cache_key = self._parts.cache.key(route, self._ask, passed)
        if self._cache_key is not None or route.config.keep_traces:
            self._copy = Copy()
        begun: Begun | None = None
        try:
            if await self._from_cache(sink):
                return
            begun = await attempts.begin(targets)
            if begun.whole is not None:
                await self._send_whole(sink, begun)
            else:
                await self._send_stream(sink, begun)
        except Refused as refused:
            entry.end("error", refused.status, attempts)
            raise
        except asyncio.CancelledError:
            self._end("cancelled", 499, begun)
            raise
        finally:
            if begun is not None:
                self._parts.book.of(begun.target).ended()
                if begun.opened is not None:
                    begun.opened.close()
            self._end("error", 500, begun)  # does nothing unless something unforeseen was raised

    def _order(self) -> Sequence[Target]:
        ask, route = self._ask, self._route
        if not route.targets:
            raise Refused(
                503,
                "no_target_enabled",
                f"every target of {route.name!r} is disabled or not served: `raymill provider list` shows them",
                headers={"retry-after": "30"},
            )
        targets = balance.order(
            route,
            self._parts.book,
            lambda: balance.traits_of(ask.body, ask.size_bytes // BYTES_PER_TOKEN),
            self._sticky_key,
        )
        if not targets:
            raise Refused(
                400,
                "no_target_for_request",
                f"no target of {route.name!r} takes a request like this: its conditions are about prompt length, "
                "tools, images and streaming; `raymill route show` tells them",
            )
        return targets

    def _sticky_key(self) -> str:
        body = self._ask.body
        if self._route.config.sticky == "conversation":
            return balance.conversation_of(body)
        return str(body.get("user") or self._came.caller.account)

    def _headers(self) -> RawHeaders:
        """What the answer tells of how it was made."""
        attempts = self._attempts
        overhead_ms = (time.perf_counter() - self._came.started - attempts.waited_s) * 1000
        headers: RawHeaders = [
            (b"x-raymill-attempts", b"%d" % attempts.count),
            (b"x-raymill-overhead-ms", b"%.2f" % overhead_ms),
        ]
        if attempts.target is not None:
            headers.append((b"x-raymill-target", attempts.target.id.encode("latin-1", "replace")))
        if self._cache_key is not None:
            headers.append((b"x-raymill-cache", b"miss" if attempts.count else b"hit"))
        return headers

    async def _from_cache(self, sink: Sink) -> bool:
        """Whether it was answered from the cache."""
        if self._cache_key is None:
            return False
        kept = self._parts.cache.get(self._cache_key)
        self._parts.recorder.metrics.cache(self._route.name, hit=kept is not None)
        if kept is None:
            return False
        await sink.start(200, (STREAM_HEADERS if self._ask.stream else JSON_HEADERS) + self._headers())
        self._entry.cached()
        await sink.send(kept, more=False)
        return True

    async def _send_whole(self, sink: Sink, begun: Begun) -> None:
        assert begun.whole is not None
        body = begun.whole.body
        if self._copy is not None:
            self._copy.add(body)
        self._end("ok", 200, begun)
        length = (b"content-length", b"%d" % len(body))
        await sink.start(200, [*JSON_HEADERS, length, *self._headers()])
        await sink.send(body, more=False)

    async def _send_stream(self, sink: Sink, begun: Begun) -> None:
        opened, reader = begun.opened, begun.reader
        assert opened is not None
        assert reader is not None
        await sink.start(200, STREAM_HEADERS + self._headers())
        self._entry.first_token()
        last = b""
        try:
            piece = begun.first
            idle_s = self._route.config.timeouts.idle_s
            while not begun.finished:
                if piece:
                    await self._send_piece(sink, piece)
                waiting_since = time.monotonic()
                try:
                    data = await opened.next(idle_s)
                finally:
                    self._attempts.waited_s += time.monotonic() - waiting_since
                if not data:
                    piece = reader.end()
                    break
                piece = reader.feed(data)
            last = piece
        except MISHAPS as error:
            refused = failed_by(begun.target, error).refused
            self._parts.book.of(begun.target).broke(self._route.config.breaker, time.monotonic())
            self._end("broken", 200, begun)
            await sink.send(error_frame(refused, self._came.request_id, self._ask.operation), more=False)
            return
        if self._copy is not None:
            self._copy.add(last)
        self._end("ok", 200, begun)
        await sink.send(last, more=False)

    async def _send_piece(self, sink: Sink, piece: bytes) -> None:
        if self._copy is not None:
            self._copy.add(piece)
        await sink.send(piece, more=True)

    def _end(self, outcome: Outcome, status: int, begun: Begun | None) -> None:
        """Settle and record; keep the answer where the route says so."""
        if begun is None:
            self._entry.end(outcome, status, self._attempts)
            return
        whole, reader = begun.whole, begun.reader
        if whole is not None:
            tokens, text_bytes = whole.tokens, len(whole.body)
        else:
            assert reader is not None
            tokens, text_bytes = reader.tokens, reader.text_bytes
            if outcome != "ok" and tokens is not None:
                # What was told so far may be of the prompt alone.
                said = -(-text_bytes // BYTES_PER_TOKEN)
                tokens = tokens._replace(completion=max(tokens.completion, said))
        trace = None
        if self._copy is not None and self._entry.open:
            if self._route.config.keep_traces:
                trace = traces.trace_of(self._ask, self._copy)
            ttl_s = self._route.config.cache_ttl_s
            if outcome == "ok" and self._cache_key is not None and ttl_s is not None and self._copy.whole:
                self._parts.cache.put(self._cache_key, self._copy.data(), ttl_s)
        self._entry.end(
            outcome,
            status,
            self._attempts,
            target=begun.target,
            tokens=tokens,
            text_bytes=text_bytes,
            trace=trace,
        )
