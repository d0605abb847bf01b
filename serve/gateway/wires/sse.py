"""Server-sent events as bytes: cut a stream into events, and frame an event.

Source: the WHATWG HTML standard, "Server-sent events". `id` and `retry` are not read: no wire here uses
them. An event that the stream's end cuts off is none. Sizes are bytes.
"""

from __future__ import annotations

from typing import NamedTuple

from raymill.serve.gateway.wires.errors import BadAnswer

MAX_EVENT_BYTES = 16 << 20


class BadStream(BadAnswer):
    """The stream is malformed, or ended before the answer was whole."""

    code = "bad_stream"


class Event(NamedTuple):
    event: bytes | None
    """Its name; None when it has none."""

    data: bytes


class SseReader:
    """Turns chunks, cut anywhere, into events.

    Args:
        max_event_bytes: An event that is longer is refused, so that a provider cannot fill the memory.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._parts: list[bytes] = []
        self._size_bytes = 0
        self._after_cr = False
        self._at_start = True

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes.

        Raises:
            BadStream: an event is longer than the limit. Nothing more can be read then.
        """
        if self._after_cr or b"\r" in data:
            data = self._without_cr(data)
        elif (
            # One whole event, as most chunks are.
            data[:6] == b"data: "
            and not self._parts
            and data.find(b"\n") == len(data) - 2
            and data[-1] == 10
            and len(data) <= self._max_event_bytes
        ):
            self._at_start = False
            return [Event(None, data[6:-2])]
        if not data:
            return []
        joins = bool(self._parts) and data[0] == 10 and self._parts[-1][-1] == 10
        if not joins and b"\n\n" not in data:
            # Most of a long event: kept in parts, so that it is not copied again with each of them.
            self._keep(data)
            return []
        if self._parts:
            self._parts.append(data)
            data = b"".join(self._parts)
            self._parts = []
            self._size_bytes = 0
        *blocks, rest = data.split(b"\n\n")
        if rest:
            self._keep(rest)
        if self._at_start:
            self._at_start = False
            blocks[0] = blocks[0].removeprefix(b"\xef\xbb\xbf")
        events: list[Event] = []
        for block in blocks:
            if len(block) > self._max_event_bytes:
                raise self._too_long(len(block))
            event = _event_of(block)
            if event is not None:
                events.append(event)
        return events

    def _without_cr(self, data: bytes) -> bytes:
        """Line ends become \\n. A CR that ends a chunk may be half of a CRLF."""
        if self._after_cr and data[:1] == b"\n":
            data = data[1:]
            self._after_cr = False
        if data:
            self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _keep(self, data: bytes) -> None:
        self._parts.append(data)
        self._size_bytes += len(data)
        if self._size_bytes > self._max_event_bytes + 1:  # the first of the line ends that end it
            raise self._too_long(self._size_bytes)

    def _too_long(self, size_bytes: int) -> BadStream:
        return BadStream(
            f"an event of {size_bytes} bytes or more, at most {self._max_event_bytes} are read: ask for less"
        )


def frame(data: bytes, event: bytes | None = None) -> bytes:
    """One event. `data` holds no line end, as JSON on one line does not."""
    if event is None:
        return b"data: " + data + b"\n\n"
    return b"event: " + event + b"\ndata: " + data + b"\n\n"


def _event_of(block: bytes) -> Event | None:
    """The event of these lines; None when they carry no data, such as a comment."""
    if block[:6] == b"data: " and b"\n" not in block:
        return Event(None, block[6:])
    name: bytes | None = None
    data: list[bytes] = []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value[1:] if value[:1] == b" " else value)
        elif field == b"event":
            name = value[1:] if value[:1] == b" " else value
    if not data:
        return None
    return Event(name or None, data[0] if len(data) == 1 else b"\n".join(data))
