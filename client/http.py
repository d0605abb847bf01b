"""The blocking connection: sends calls, tries again, reads pages and event streams."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel

from raymill.client import protocol
from raymill.client.endpoints import PAGE_ITEMS, Call, Listing
from raymill.client.errors import ServerAway
from raymill.client.retry import Outage, Retry
from raymill.client.settings import ClientSettings
from raymill.client.sse import Bookmark, ServerEvent, SseParser
from raymill.client.types import JobEvent, JsonObject
from raymill.policies.errors import RaymillError, Unavailable

Answer = TypeVar("Answer", bound=BaseModel)
Item = TypeVar("Item", bound=BaseModel)


class Http:
    """One connection pool. `transport` is the seam where a test puts its own."""

    def __init__(
        self, settings: ClientSettings, retry: Retry, transport: httpx.BaseTransport | None = None
    ) -> None:
        options: dict[str, Any] = protocol.client_options(settings)
        self._http = httpx.Client(transport=transport, **options)
        self.url = settings.url
        self.retry = retry

    def close(self) -> None:
        self._http.close()

    def send(self, call: Call[Answer], idempotency_key: str | None = None) -> Answer:
        """Send `call`; again after a failure that may pass, if it may be sent twice, with the same key.

        Raises:
            ApiError: the service said no.
            Unreachable: no answer.
        """
        request = protocol.request_of(self._http, call, idempotency_key)
        failures = 0
        while True:
            try:
                return protocol.answer_of(call, self._sent(request))
            except RaymillError as error:
                failures += 1
                if failures >= self.retry.attempts or not protocol.is_retried(error, call):
                    raise
            time.sleep(self.retry.pause_s(failures))

    def _sent(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        try:
            return self._http.send(request, stream=stream)
        except httpx.TransportError as error:
            raise protocol.unreachable(self.url, error) from error

    @contextmanager
    def _streamed(self, request: httpx.Request) -> Iterator[httpx.Response]:
        """A good answer that is read bit by bit.

        Raises:
            ApiError: the service said no.
            Unreachable: no answer, or it broke off.
        """
        response = self._sent(request, stream=True)
        try:
            if not response.is_success:
                response.read()
                protocol.check(response)
            yield response
        except httpx.TransportError as error:
            raise protocol.unreachable(self.url, error) from error
        finally:
            response.close()

    def items(self, listing: Listing[Item], limit: int | None = None) -> Iterator[Item]:
        """Every item of a list, newest first, page by page; at most `limit`."""
        cursor, left = None, limit
        while left is None or left > 0:
            page = self.send(listing.page(cursor, PAGE_ITEMS if left is None else min(left, PAGE_ITEMS)))
            yield from page.data[:left]
            if page.next_cursor is None:
                return
            cursor = page.next_cursor
            left = None if left is None else left - len(page.data)

    def patient(self, call: Call[Answer], outage: Outage) -> Answer:
        """Like `send`, but a service that is away is waited for."""
        while True:
            try:
                answer = self.send(call)
            except Unavailable as error:
                time.sleep(outage.pause_s(error))
            else:
                outage.over()
                return answer

    def events(self, path: str, after: int | None = None) -> Iterator[JobEvent]:
        """Events until the stream's end, each once, across broken connections and restarts of the service.

        Raises:
            ApiError: the service refuses, or there is nothing by that id.
            Unavailable: it was away for longer than the retry's patience.
        """
        bookmark = Bookmark(last_id=None if after is None else str(after))
        outage = Outage(self.retry)
        while True:
            try:
                with closing(self._stream(path, bookmark, outage)) as stream:
                    for event in stream:
                        if event.event == protocol.END:
                            return
                        if bookmark.is_new(event):
                            yield protocol.event_of(event.data)
                raise protocol.lost_stream(self.url)
            except Unavailable as error:
                pause_s = outage.pause_s(error)
            time.sleep(pause_s)

    def _stream(self, path: str, bookmark: Bookmark, outage: Outage) -> Generator[ServerEvent, None, None]:
        """One connection's events. Every chunk, a ping too, shows that the service is there."""
        request = protocol.stream_request(self._http, path, bookmark.last_id)
        with self._streamed(request) as response:
            parser = SseParser()
            for chunk in response.iter_text():
                outage.over()
                yield from parser.feed(chunk)

    def fetch(self, path: str, query: dict[str, str]) -> bytes:
        """The bytes of an answer that is no JSON, such as a picture."""
        response = self._sent(self._http.build_request("GET", path, params=query))
        protocol.check(response)
        return response.content

    def download(self, path: str, query: dict[str, str], target: Path, sha256: str) -> None:
        """A large answer to a file, which bears its name only once all of it is there.

        Raises:
            RaymillError: other bytes arrived than `sha256` says.
        """
        request = self._http.build_request("GET", path, params=query, timeout=protocol.STREAM_TIMEOUT)
        with self._streamed(request) as response, protocol.checked_file(target, sha256) as write:
            for chunk in response.iter_bytes(protocol.CHUNK_BYTES):
                write(chunk)

    def chat(self, body: JsonObject) -> Iterator[str]:
        """Pieces of the answer as they are made. Not tried again: an answer cannot be continued."""
        request = self._http.build_request(
            "POST",
            "/v1/chat/completions",
            json={**body, "stream": True},
            timeout=httpx.Timeout(300, connect=5),
        )
        with self._streamed(request) as response:
            parser = SseParser()
            for chunk in response.iter_text():
                for event in parser.feed(chunk):
                    piece = protocol.chat_delta(event.data)
                    if piece is None:
                        return
                    yield piece
            raise ServerAway("the answer broke off: ask again", status=502, code="upstream")
