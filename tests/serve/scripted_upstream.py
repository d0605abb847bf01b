"""A provider that does what a test scripts: real sockets, real faults. Loopback only."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Writer = asyncio.StreamWriter
Act = Callable[["Seen", Writer], Awaitable[None]]

USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
HEAD = {"id": "chatcmpl-1", "created": 1, "model": "scripted"}


@dataclass
class Seen:
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def model(self) -> str:
        """As the body names it, or, on Gemini's wire, the path; else the path."""
        named = re.search(r"/models/([^/:]+):", self.path)
        return str(self.body.get("model") or (named[1] if named else self.path))


def answer(text: str = "Hello.", usage: dict[str, Any] | None = USAGE) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    whole = HEAD | {"object": "chat.completion", "choices": [choice]}
    return json.dumps(whole | ({"usage": usage} if usage else {})).encode()


def chunk(text: str | None, finish: str | None = None, **more: Any) -> bytes:
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return (
        b"data: "
        + json.dumps(HEAD | {"object": "chat.completion.chunk", "choices": [choice]} | more).encode()
        + b"\n\n"
    )


ROLE = (
    b"data: "
    + json.dumps(
        HEAD
        | {
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}],
        }
    ).encode()
    + b"\n\n"
)
USAGE_CHUNK = (
    b"data: "
    + json.dumps(HEAD | {"object": "chat.completion.chunk", "choices": [], "usage": USAGE}).encode()
    + b"\n\n"
)
DONE = b"data: [DONE]\n\n"


def http(status: int, body: bytes, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Said", "content-type: application/json", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def error(message: str, kind: str = "server_error") -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "code": None}}).encode()


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def piece(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


END = b"0\r\n\r\n"


async def send(writer: Writer, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


def says(status: int, body: bytes, **headers: str) -> Act:
    async def act(_: Seen, writer: Writer) -> None:
        await send(writer, http(status, body, **headers))

    return act


def streams(*pieces: bytes, delay_s: float = 0.0, end: bytes = END, stall: bool = False) -> Act:
    """Send a stream; with `stall` nothing more comes after the pieces, and the connection stays open."""

    async def act(_: Seen, writer: Writer) -> None:
        await send(writer, STREAM_HEAD)
        for each in pieces:
            await send(writer, piece(each))
            if delay_s:
                await asyncio.sleep(delay_s)
        if stall:
            await asyncio.sleep(3600)
        await send(writer, end)

    return act


async def reset(_: Seen, writer: Writer) -> None:
    """The connection is reset before a byte of an answer."""
    writer.transport.abort()


async def stall(_: Seen, __: Writer) -> None:
    """Nothing comes, ever."""
    await asyncio.sleep(3600)


def truncated(data: bytes) -> Act:
    """The connection ends in the middle of what Content-Length announced."""

    async def act(_: Seen, writer: Writer) -> None:
        await send(writer, http(200, data)[: -len(data) // 2])
        writer.close()

    return act


def drips(data: bytes, delay_s: float) -> Act:
    """A good answer, a few bytes at a time."""

    async def act(_: Seen, writer: Writer) -> None:
        whole = http(200, data)
        for start in range(0, len(whole), 16):
            await send(writer, whole[start : start + 16])
            await asyncio.sleep(delay_s)

    return act


def good(text: str = "Hello.") -> Act:
    """A plain or streamed answer, as asked for."""

    async def act(seen: Seen, writer: Writer) -> None:
        if not seen.body.get("stream"):
            await send(writer, http(200, answer(text)))
            return
        usage = (seen.body.get("stream_options") or {}).get("include_usage")
        pieces = [ROLE, *(chunk(word + " ") for word in text.split()), chunk(None, "stop")]
        await streams(*pieces, *([USAGE_CHUNK] if usage else []), DONE)(seen, writer)

    return act


@dataclass
class Script:
    """What happens to requests of each model: one act after the other, the last one for ever."""

    url: str = ""
    acts: dict[str, list[Act]] = field(default_factory=lambda: defaultdict(list))
    seen: list[Seen] = field(default_factory=list)
    open: int = 0
    """Requests that are being answered now."""

    connections: int = 0
    aborted: threading.Event = field(default_factory=threading.Event)
    """A client went away before its answer was whole."""

    def on(self, model: str, *acts: Act) -> None:
        self.acts[model] = list(acts)

    def requests(self, model: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.model == model]

    async def serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        self.connections += 1
        try:
            while (seen := await _read(reader)) is not None:
                self.seen.append(seen)
                await self._answer(seen, reader, writer)
                if writer.transport.is_closing():
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            self.aborted.set()
        finally:
            writer.close()

    async def _answer(self, seen: Seen, reader: asyncio.StreamReader, writer: Writer) -> None:
        acts = self.acts[seen.model] or [good()]
        act = acts.pop(0) if len(acts) > 1 else acts[0]
        self.open += 1
        work = asyncio.ensure_future(act(seen, writer))
        gone = asyncio.ensure_future(_until_gone(reader))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ConnectionError("the client went away")
            await work
        finally:
            self.open -= 1
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)


async def _until_gone(reader: asyncio.StreamReader) -> None:
    while not reader.at_eof():
        await asyncio.sleep(0.01)


async def _read(reader: asyncio.StreamReader) -> Seen | None:
    line = await reader.readline()
    if not line:
        return None
    path = line.split()[1].decode()
    headers: dict[str, str] = {}
    while (line := await reader.readline()).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Seen(path, headers, json.loads(body) if body else {})


@contextmanager
def scripted() -> Iterator[Script]:
    """Serve a script on a free loopback port, in a thread."""
    script = Script()
    started = threading.Event()
    loop = asyncio.new_event_loop()
    stopping = asyncio.Event()

    async def run() -> None:
        server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
        script.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        await stopping.wait()
        server.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        while left:
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=1)
            left = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.sleep(0.01)  # transports close in the next round

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield script
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join(10)
        loop.close()
