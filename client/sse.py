"""Server-sent events: the parser, and what is remembered so that a broken stream goes on where it was.

Pure: fed with text, knows no connection.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class ServerEvent:
    """One event as it was sent."""

    event: str = "message"
    data: str = ""
    id: str | None = None
    """None when the event carried no id of its own."""


@dataclass
class SseParser:
    """Turns chunks of text, cut anywhere, into events.

    An event that the connection's end cut off is dropped: it is sent again after the reconnect.
    """

    _rest: str = ""
    _lines: list[str] = field(default_factory=list)
    _after_cr: bool = False

    def feed(self, chunk: str) -> Iterator[ServerEvent]:
        """The events that `chunk` completes."""
        if self._after_cr and chunk.startswith("\n"):
            chunk = chunk[1:]  # the second half of a CRLF that was cut in two
        self._after_cr = chunk.endswith("\r") if chunk else self._after_cr
        text = (self._rest + chunk).replace("\r\n", "\n").replace("\r", "\n")
        *lines, self._rest = text.split("\n")
        for line in lines:
            if line:
                self._lines.append(line)
                continue
            event = _event_of(self._lines)
            self._lines = []
            if event is not None:
                yield event


def _event_of(lines: list[str]) -> ServerEvent | None:
    """The event that these lines make; None when they are only comments, such as `: ping`."""
    data: list[str] = []
    name, event_id = "message", None
    for line in lines:
        field_name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field_name:
            case "data":
                data.append(value)
            case "event":
                name = value
            case "id" if "\0" not in value:
                event_id = value
            case _:
                pass  # a comment, `retry`, or a field that does not exist
    if not data and name == "message":
        return None
    return ServerEvent(event=name, data="\n".join(data), id=event_id)


@dataclass
class Bookmark:
    """How far a stream was read. The service may send an event again after a reconnect; it counts once."""

    last_id: str | None = None
    _seen: set[str] = field(default_factory=set)

    def is_new(self, event: ServerEvent) -> bool:
        """Whether `event` was not seen before; remembers it."""
        if event.id is None:
            return True
        if event.id in self._seen:
            return False
        self._seen.add(event.id)
        self.last_id = event.id
        return True
