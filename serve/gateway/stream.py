"""Answers towards a client: their heads, engine lines as `data:` events, and how a broken stream ends."""

from __future__ import annotations

from raymill.serve.gateway.wire import Operation, Refused, encode, error_body

RawHeaders = list[tuple[bytes, bytes]]

JSON_HEADERS: RawHeaders = [(b"content-type", b"application/json")]
STREAM_HEADERS: RawHeaders = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Tells proxies such as nginx not to hold events back.
    (b"x-accel-buffering", b"no"),
]


def frame(lines: bytes) -> bytes:
    """`{..}\\n{..}\\n` as events. JSON on one line holds no line feed, so no parsing is needed."""
    return b"data: " + lines.rstrip(b"\n").replace(b"\n", b"\n\ndata: ") + b"\n\n"


def error_frame(refused: Refused, request_id: str, operation: Operation) -> bytes:
    """How a stream ends that cannot go on: an error event, and never [DONE]."""
    body = error_body(refused, request_id, operation)
    if operation in {"chat", "completions", "embeddings"}:
        return b"data: " + body + b"\n\n"
    if operation == "responses":
        said = {"type": "error", "code": refused.code, "message": str(refused), "param": refused.param}
        body = encode({**said, "sequence_number": 0})[:-1] + b"," + body[1:]
    return b"event: error\ndata: " + body + b"\n\n"
