"""Prompts and answers that a route keeps: personal data is masked before anything is written."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from raymill.serve.gateway.cache import Copy
from raymill.serve.gateway.mask import mask
from raymill.serve.gateway.spool import TraceRecord
from raymill.serve.gateway.wire import Ask
from raymill.serve.gateway.wires.errors import BadAnswer
from raymill.serve.gateway.wires.sse import SseReader

MAX_BYTES = 64 << 10
"""Of a prompt, and of an answer: masking takes a millisecond for each kilobyte, on the event loop. What is
longer is kept by its size alone."""

log = logging.getLogger(__name__)

Json = dict[str, Any]


def trace_of(ask: Ask, copy: Copy) -> TraceRecord | None:
    """What is kept of a request; None when that cannot be made out."""
    try:
        return TraceRecord(prompt=prompt_of(ask), answer=answer_of(ask, copy))
    except Exception:  # broad: a trace is for people to look at, and must not stop the settlement
        log.exception("a trace is left out")
        return None


def prompt_of(ask: Ask) -> Json:
    if ask.size_bytes > MAX_BYTES:
        return {"left_out": True, "size_bytes": ask.size_bytes}
    masked: Json = mask(ask.body)
    return masked


def answer_of(ask: Ask, copy: Copy) -> Json:
    """A whole answer as it was; of a stream, its text."""
    if copy.size_bytes > MAX_BYTES:
        return {"left_out": True, "size_bytes": copy.size_bytes}
    body = copy.data()
    try:
        if not ask.stream:
            return {"body": mask(msgspec.json.decode(body))}
        events = [event.data for event in SseReader().feed(body)]
        chunks = [msgspec.json.decode(data) for data in events if data != b"[DONE]"]
    except (msgspec.DecodeError, BadAnswer):
        return {"unreadable": True, "size_bytes": len(body)}
    return {"text": mask(text_of(chunks)), "chunks": len(chunks)}


def text_of(chunks: list[Json]) -> str:
    """What a stream said: deltas of chat, text, Responses or Messages."""
    parts: list[str] = []
    for chunk in chunks:
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta")
            piece = delta.get("content") if isinstance(delta, dict) else choice.get("text")
            parts.append(piece if isinstance(piece, str) else "")
        delta = chunk.get("delta")
        if isinstance(delta, str):
            parts.append(delta)
        elif isinstance(delta, dict) and isinstance(delta.get("text"), str):
            parts.append(delta["text"])
    return "".join(parts)
