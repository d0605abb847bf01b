"""Server-sent events: JSON lines from an engine become `data:` events.

The response starts only with the first piece, so an engine that fails before it still gets an HTTP
status. Later failures end the stream with an error event, and never with [DONE].
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.types import Send

from raymill.policies.errors import Unavailable
from raymill.serve.gateway.wire import Refused, error_body
from raymill.serve.llm.answer import Failure, Reply

DONE = b"data: [DONE]\n\n"

RawHeaders = list[tuple[bytes, bytes]]
HEADERS: RawHeaders = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Tells proxies such as nginx not to hold events back.
    (b"x-accel-buffering", b"no"),
]


def frame(lines: bytes) -> bytes:
    """`{..}\\n{..}\\n` as events. JSON on one line holds no line feed, so no parsing is needed."""
    return b"data: " + lines.rstrip(b"\n").replace(b"\n", b"\n\ndata: ") + b"\n\n"


async def send_stream(pieces: AsyncIterator[Reply], send: Send, headers: RawHeaders, request_id: str) -> None:
    """Send the whole stream.

    Raises:
        Refused: the engine failed before its first piece; nothing was sent yet.
        Unavailable: as above.
    """
    started = False
    try:
        async for piece in pieces:
            if isinstance(piece, Failure):
                raise Refused.by_engine(piece)
            if not started:
                await send({"type": "http.response.start", "status": 200, "headers": HEADERS + headers})
                started = True
            await send({"type": "http.response.body", "body": frame(piece), "more_body": True})
        if not started:
            raise Unavailable("the engine ended its stream without an answer: try again")
        last = DONE
    except (Refused, Unavailable) as error:
        if not started:
            raise
        refused = error if isinstance(error, Refused) else Refused(503, "engine_unavailable", str(error))
        last = frame(error_body(refused, request_id))
    await send({"type": "http.response.body", "body": last, "more_body": False})
