"""Exact answers, kept in memory for routes that ask for it: same request, same answer, until its time is up.

One replica's memory: another replica answers for itself. Bounded in bytes; the least recently used goes first.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from typing import NamedTuple

import msgspec

from raymill.serve.gateway.catalog import Route
from raymill.serve.gateway.wire import Ask

MAX_BYTES = 64 << 20
MAX_ANSWER_BYTES = MAX_BYTES // 8
"""A longer answer is not kept."""

_encode = msgspec.json.Encoder(order="deterministic").encode


class Kept(NamedTuple):
    body: bytes
    expires: float
    """On the monotonic clock."""


class Copy:
    """Of an answer, made while it is sent; given up when it gets too long."""

    def __init__(self) -> None:
        self._data = bytearray()
        self.size_bytes = 0

    def add(self, piece: bytes) -> None:
        self.size_bytes += len(piece)
        if self.whole:
            self._data += piece
        else:
            self._data.clear()

    @property
    def whole(self) -> bool:
        return self.size_bytes <= MAX_ANSWER_BYTES

    def data(self) -> bytes:
        """All of it; nothing when it was given up."""
        return bytes(self._data)


class AnswerCache:
    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._size_bytes = 0
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()

    def key(self, route: Route, ask: Ask, passed: bytes) -> bytes:
        """Of the whole request and the route's configuration: when either changes, nothing old is found.

        Args:
            passed: the client's header lines that go upstream.
        """
        said = [route.name, route.config.model_dump(mode="json"), ask.operation, ask.body, passed.hex()]
        return hashlib.blake2b(_encode(said), digest_size=32).digest()

    def get(self, key: bytes) -> bytes | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.expires <= time.monotonic():
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return kept.body

    def put(self, key: bytes, body: bytes, ttl_s: float) -> None:
        """Keep a whole, good answer."""
        if len(body) > self._max_bytes:
            return
        if key in self._kept:
            self._drop(key)
        self._kept[key] = Kept(body, time.monotonic() + ttl_s)
        self._size_bytes += len(body)
        while self._size_bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: bytes) -> None:
        self._size_bytes -= len(self._kept.pop(key).body)
