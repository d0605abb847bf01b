"""HTTP/1.1 towards providers: a pool of kept connections on asyncio, parsed by httptools.

Written here and not taken from a library because it is most of what a request costs: a pass-through takes
128 µs of CPU with aiohttp and 46 with this (docs/dependencies.md). It knows what the gateway needs and no
more: requests with a whole body, answers whole or in pieces, no redirects, no cookies, no proxy, no
compression. Times are seconds.

    HttpError
    ├── ConnectFailed   no connection: name, address, TLS or time
    ├── TimedOut        connected, but nothing came in time
    └── Broken          the connection ended, or what came is no HTTP, before the answer was whole
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httptools

from raymill.policies.errors import Invalid, RaymillError
from raymill.serve.gateway.alarms import alarms

HIGH_WATER_BYTES = 256 << 10
"""Of an answer that is read more slowly than it comes, this much is held before the sender has to wait."""

MAX_ANSWER_BYTES = 256 << 20
MAX_HEAD_BYTES = 64 << 10
STALE_S = 0.1
"""A kept connection that dies sooner than this after a request was written to it had been closed before."""

IDLE_S = 30.0
"""A kept connection that was not used for this long is not used again: servers close theirs after a minute."""

MAX_KEPT = 1024
"""Idle connections to one origin."""


class HttpError(RaymillError):
    code = "upstream_error"


class ConnectFailed(HttpError):
    code = "upstream_unreachable"


class TimedOut(HttpError):
    code = "upstream_timeout"


class Broken(HttpError):
    code = "upstream_broken"


class Origin(NamedTuple):
    """Where connections go: they are shared by all that names the same one."""

    host: str
    port: int
    tls: bool


class Address(NamedTuple):
    """A URL, taken apart once and not for each request."""

    origin: Origin
    path: str
    """Without a slash at its end."""

    host_header: str

    @classmethod
    def of(cls, url: str) -> Address:
        """Raises Invalid when `url` is no http or https address."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise Invalid(f"{url!r} is no address of a provider: it must look like https://host/path")
        tls = parts.scheme == "https"
        port = parts.port or (443 if tls else 80)
        host = parts.hostname
        shown = f"[{host}]" if ":" in host else host
        default = port == (443 if tls else 80)
        return cls(Origin(host, port, tls), parts.path.rstrip("/"), shown if default else f"{shown}:{port}")


class Connection(asyncio.Protocol):
    """One connection, answering one request at a time."""

    def __init__(self, kept: deque[Connection]) -> None:
        self._kept = kept
        self._loop = asyncio.get_running_loop()
        self._alarms = alarms()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._paused = False
        self._error: HttpError | None = None
        self.closed = False
        self.idle_since = 0.0
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.pieces: deque[bytes] = deque()
        self._held_bytes = 0
        self._total_bytes = 0
        self._head_bytes = 0
        self.has_head = False
        self.complete = False
        self._may_stay = False
        self.received_any = False

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            self.close()  # bytes that nobody asked for
            return
        self.received_any = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(Broken(f"the provider's answer is no HTTP ({error}): check its base_url"))
        if self._held_bytes > HIGH_WATER_BYTES and not self._paused and not self.complete:
            self._paused = True
            assert self._transport is not None
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        return None

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if self._parser is None:
            return
        if self.has_head and not self.complete and not self._has_length():
            self.complete = True  # an answer without a length ends with its connection
        elif not self.complete:
            reason = f" ({error})" if error else ""
            self._fail(Broken(f"the provider closed the connection before its answer was whole{reason}"))
        self._wake()

    # What httptools calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._fail(
                Broken(
                    f"the head of the provider's answer is over {MAX_HEAD_BYTES} bytes: check its base_url"
                )
            )

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        self.status = self._parser.get_status_code()
        self.has_head = self.status >= 200  # 1xx announce another head

    def on_body(self, data: bytes) -> None:
        self.pieces.append(data)
        self._held_bytes += len(data)
        self._total_bytes += len(data)
        if self._total_bytes > MAX_ANSWER_BYTES:
            self._fail(Broken(f"the provider's answer is over {MAX_ANSWER_BYTES} bytes: ask for less"))

    def on_message_complete(self) -> None:
        if not self.has_head:
            return
        self.complete = True
        assert self._parser is not None
        self._may_stay = self._parser.should_keep_alive()  # a moment later the parser has forgotten

    # What a request does with it.

    def send(self, head: bytes, body: bytes) -> None:
        self._reset()
        self._error = None
        self._parser = httptools.HttpResponseParser(self)
        assert self._transport is not None
        self._transport.write(head + body)

    async def wait(self, timeout_s: float) -> None:
        """Until something has come since the last call.

        Raises:
            TimedOut: nothing did.
            Broken: the connection ended.
        """
        self._waiter = self._loop.create_future()
        self._alarms.set(self, timeout_s, self._on_timeout)
        try:
            await self._waiter
        finally:
            self._alarms.clear(self)
            self._waiter = None

    def raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def take(self) -> bytes:
        """All that is held."""
        pieces = self.pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._held_bytes = 0
        if self._paused and not self.closed:
            self._paused = False
            assert self._transport is not None
            self._transport.resume_reading()
        return data

    def done(self) -> None:
        """The answer was read: keep the connection if it can be used again."""
        self._parser = None
        if self._may_stay and not self.closed:
            self.idle_since = self._loop.time()
            if len(self._kept) < MAX_KEPT:
                self._kept.append(self)
                return
        self.close()

    def close(self) -> None:
        """Drop the connection, whatever it is doing: this is what cancels a request at the provider."""
        self._fail(Broken("the connection was dropped: ask again"))
        self._parser = None
        self.closed = True
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    def _has_length(self) -> bool:
        return b"content-length" in self.headers or b"transfer-encoding" in self.headers

    def _fail(self, error: HttpError) -> None:
        if self._error is None and not self.complete:
            self._error = error

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _on_timeout(self) -> None:
        self._fail(TimedOut("the provider did not answer in time: raise the route's timeouts or ask another"))
        self._wake()


class Answer:
    """An answer whose head has come. Must be ended by `close`, or read to its end."""

    def __init__(self, connection: Connection, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline
        self._ended = False
        self.status = connection.status
        self.headers = connection.headers

    async def whole(self, idle_s: float) -> bytes:
        """All of the body. Raises HttpError."""
        parts: list[bytes] = []
        while piece := await self.next(idle_s):
            parts.append(piece)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def next(self, patience_s: float) -> bytes:
        """The next piece of the body as it comes; empty at its end.

        Raises:
            HttpError: nothing came within `patience_s`, or the connection broke.
        """
        if self._ended:
            return b""
        connection = self._connection
        while not connection.pieces:
            connection.raise_error()
            if connection.complete:
                # From here on the connection may be another request's.
                self._ended = True
                connection.done()
                return b""
            await connection.wait(self._patience(patience_s))
        return connection.take()

    def close(self) -> None:
        """Give up what was not read; does nothing after the end."""
        if not self._ended:
            self._ended = True
            self._connection.close()

    def _patience(self, idle_s: float) -> float:
        return min(idle_s, max(0.0, self._deadline - time.monotonic()))


class HttpClient:
    """Connections to every provider. One for an event loop."""

    def __init__(self) -> None:
        self._kept: dict[Origin, deque[Connection]] = {}
        self._tls: ssl.SSLContext | None = None

    async def post(
        self,
        address: Address,
        path: str,
        headers: bytes,
        body: bytes,
        *,
        connect_s: float,
        first_byte_s: float,
        total_s: float,
    ) -> Answer:
        """Send a request, and wait for the head of its answer.

        Args:
            path: behind the address's own, with its query.
            headers: `name: value\\r\\n` lines, without Host and Content-Length.

        Raises:
            HttpError: as the module says.
        """
        head = (
            (
                f"POST {address.path}{path} HTTP/1.1\r\nhost: {address.host_header}\r\n"
                f"content-length: {len(body)}\r\n"
            ).encode()
            + headers
            + b"\r\n"
        )
        return await self._send(address.origin, head, body, connect_s, first_byte_s, total_s)

    async def get(self, address: Address, path: str, headers: bytes, *, timeout_s: float) -> Answer:
        """As `post`, without a body and with one time for all."""
        head = (
            f"GET {address.path}{path} HTTP/1.1\r\nhost: {address.host_header}\r\n".encode()
            + headers
            + b"\r\n"
        )
        return await self._send(address.origin, head, b"", timeout_s, timeout_s, timeout_s)

    async def _send(
        self, origin: Origin, head: bytes, body: bytes, connect_s: float, first_byte_s: float, total_s: float
    ) -> Answer:
        kept = self._take_kept(origin)
        while True:
            connection = kept or await self._connect(origin, connect_s)
            started = time.monotonic()
            deadline = started + total_s
            try:
                connection.send(head, body)
                while not connection.has_head:
                    await connection.wait(max(0.0, min(started + first_byte_s, deadline) - time.monotonic()))
                    connection.raise_error()
                return Answer(connection, deadline)
            except Broken:
                connection.close()
                # The server had closed the kept connection when we wrote to it: it has seen nothing of the request.
                stale = not connection.received_any and time.monotonic() - started < STALE_S
                if kept is None or not stale:
                    raise
                kept = None
            except BaseException:
                connection.close()
                raise

    def _take_kept(self, origin: Origin) -> Connection | None:
        kept = self._kept.get(origin)
        if not kept:
            return None
        oldest_s = kept[-1]._loop.time() - IDLE_S
        while kept:
            connection = kept.pop()
            if connection.closed:
                continue
            if connection.idle_since >= oldest_s:
                return connection
            connection.close()
        return None

    async def _connect(self, origin: Origin, connect_s: float) -> Connection:
        kept = self._kept.setdefault(origin, deque())
        loop = asyncio.get_running_loop()
        if origin.tls and self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        try:
            async with asyncio.timeout(connect_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(kept), origin.host, origin.port, ssl=self._tls if origin.tls else None
                )
        except TimeoutError:
            raise ConnectFailed(
                f"{origin.host}:{origin.port} took no connection within {connect_s:g} s: is it up?"
            ) from None
        except (OSError, ssl.SSLError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise ConnectFailed(
                f"no connection to {origin.host}:{origin.port} ({reason}): is it up?"
            ) from error
        return connection

    def close(self) -> None:
        """Drop every kept connection."""
        for kept in self._kept.values():
            while kept:
                kept.pop().close()
