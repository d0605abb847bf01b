"""Server-sent events from bytes that are cut anywhere."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.serve.gateway.wires.sse import MAX_EVENT_BYTES, BadStream, Event, SseReader, frame

STREAM = (
    b'\xef\xbb\xbfdata: {"a":1}\n\n: ping\n\nevent: step\r\ndata: two\r\ndata: lines\r\nid: 4\r\n\r\n'
    b"retry: 5\n\nevent:none\n\ndata:x\r\r\ndata\n\n\n\ndata: \xc3\xbc\n\ndata: [DONE]\n\ndata: cut off"
)
EVENTS = [
    Event(None, b'{"a":1}'),
    Event(b"step", b"two\nlines"),
    Event(None, b"x"),
    Event(None, b""),
    Event(None, "ü".encode()),
    Event(None, b"[DONE]"),
]


def read(*chunks: bytes, max_event_bytes: int = MAX_EVENT_BYTES) -> list[Event]:
    reader = SseReader(max_event_bytes)
    return [event for chunk in chunks for event in reader.feed(chunk)]


def test_events_have_names_and_data() -> None:
    assert read(STREAM) == EVENTS


@settings(deadline=None)
@given(st.lists(st.integers(0, len(STREAM)), max_size=30).map(sorted))
def test_where_the_chunks_are_cut_changes_nothing(cuts: list[int]) -> None:
    edges = [0, *cuts, len(STREAM)]
    assert read(*(STREAM[start:end] for start, end in itertools.pairwise(edges))) == EVENTS


def test_byte_by_byte_changes_nothing() -> None:
    assert read(*(bytes([byte]) for byte in STREAM)) == EVENTS


@settings(deadline=None)
@given(st.text(st.sampled_from("ab:\r\n \ufeff"), max_size=40), st.integers(1, 5))
def test_any_text_reads_the_same_in_pieces(text: str, size: int) -> None:
    data = b"data: " + text.encode() + b"\n\n"
    assert read(*(data[start : start + size] for start in range(0, len(data), size))) == read(data)


@settings(deadline=None)
@given(st.lists(st.tuples(st.none() | st.just(b"x"), st.text("ab: ü€"))))
def test_what_is_framed_is_read_back(written: list[tuple[bytes | None, str]]) -> None:
    stream = b"".join(frame(text.encode(), name) for name, text in written)
    assert read(stream) == [Event(name, text.encode()) for name, text in written]


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_an_event_that_is_too_long_is_refused_however_it_comes(size: int) -> None:
    stream = b"data: " + b"x" * 95 + b"\n\n"
    with pytest.raises(BadStream, match="at most 100 are read"):
        read(*(stream[start : start + size] for start in range(0, len(stream), size)), max_event_bytes=100)


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_an_event_of_just_the_limit_is_read(size: int) -> None:
    stream = b"data: " + b"x" * 94 + b"\n\n"
    chunks = [stream[start : start + size] for start in range(0, len(stream), size)]
    assert read(*chunks, max_event_bytes=100) == [Event(None, b"x" * 94)]
