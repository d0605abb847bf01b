"""The parser of server-sent events, fed in pieces of any size."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from raymill.client.sse import Bookmark, ServerEvent, SseParser

STREAM = 'id: 1\nevent: step\ndata: {"a":1}\n\n: ping\n\nid: 2\r\nevent: log\r\ndata: ü\r\ndata: two\r\n\r\nevent: end\n\n'
EVENTS = [
    ServerEvent(event="step", data='{"a":1}', id="1"),
    ServerEvent(event="log", data="ü\ntwo", id="2"),
    ServerEvent(event="end"),
]


def parsed(*chunks: str) -> list[ServerEvent]:
    parser = SseParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20).map(sorted))
def test_where_the_chunks_are_cut_changes_nothing(cuts: list[int]) -> None:
    edges = [0, *cuts, len(STREAM)]
    chunks = [STREAM[start:end] for start, end in itertools.pairwise(edges)]
    assert parsed(*chunks) == EVENTS


def test_an_event_that_the_end_cut_off_is_dropped() -> None:
    assert parsed("id: 1\ndata: a\n\nid: 2\ndata: b\n") == [ServerEvent(data="a", id="1")]


def test_comments_and_unknown_fields_are_no_events() -> None:
    assert parsed(": ping\n\nretry: 5\n\nfoo: bar\n\n") == []


def test_one_space_after_the_colon_is_not_data() -> None:
    assert parsed("data:a\n\ndata:  b\n\ndata\n\n") == [
        ServerEvent(data="a"),
        ServerEvent(data=" b"),
        ServerEvent(data=""),
    ]


def test_a_bookmark_takes_each_event_once_and_remembers_the_last() -> None:
    bookmark = Bookmark()
    taken = [bookmark.is_new(ServerEvent(id=one)) for one in ("5", "7", "6", "7", "8")]
    assert taken == [True, True, True, False, True]
    assert bookmark.last_id == "8"
