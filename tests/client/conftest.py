"""A small HTTP service on the loopback interface, told by each test what to answer, request by request."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from tests.client.forked import Commands

from raymill.client.retry import Retry
from raymill.client.sdk import Raymill


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A request that arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    """Names in lower case."""
    body: Any


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What to answer: a JSON document, or a stream in chunks."""

    status: int = 200
    data: Any = None
    chunks: tuple[str, ...] | None = None
    cut: bool = False
    """Break the connection off after the last chunk, as a service that is killed does."""


Answerer = Callable[[Seen], Reply]


@dataclass
class Service:
    """Answers from `routes`; what has none is 404. It can be stopped and started again on its port."""

    routes: dict[tuple[str, str], Answerer] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    port: int = 0
    _server: ThreadingHTTPServer | None = None
    _thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def on(self, method: str, path: str, *replies: Reply | Answerer) -> None:
        """Answer with each reply once, and with the last one for ever after."""
        left = list(replies)

        def answer(seen: Seen) -> Reply:
            reply = left.pop(0) if len(left) > 1 else left[0]
            return reply if isinstance(reply, Reply) else reply(seen)

        self.routes[method, path] = answer

    def start(self) -> None:
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                service.answer(self)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                """Tests are quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        assert self._server is not None
        assert self._thread is not None
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        length = int(handler.headers.get("Content-Length") or 0)
        raw = handler.rfile.read(length)
        seen = Seen(
            method=handler.command,
            path=parts.path,
            query=dict(parse_qsl(parts.query)),
            headers={name.lower(): value for name, value in handler.headers.items()},
            body=_body(raw),
        )
        self.seen.append(seen)
        answerer = self.routes.get((seen.method, seen.path))
        reply = answerer(seen) if answerer else error(404, "not_found", f"nothing at {seen.path}")
        if reply.chunks is None:
            self._send_json(handler, reply)
        else:
            self._send_stream(handler, reply)

    def _send_json(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        body = json.dumps(reply.data).encode()
        handler.send_response(reply.status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def _send_stream(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        handler.send_response(reply.status)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for chunk in reply.chunks or ():
            data = chunk.encode()
            handler.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            handler.wfile.flush()
        if reply.cut:
            handler.close_connection = True
        else:
            handler.wfile.write(b"0\r\n\r\n")


def _body(raw: bytes) -> Any:
    """A JSON document, or the bytes of a file."""
    try:
        return json.loads(raw) if raw else None
    except ValueError:
        return raw


def error(status: int, code: str, message: str, **more: Any) -> Reply:
    body = {"type": code, "code": code, "message": message, "param": None, "request_id": "req-1", **more}
    return Reply(status=status, data={"error": body})


@pytest.fixture
def service() -> Iterator[Service]:
    started = Service()
    started.start()
    yield started
    started.stop()


@pytest.fixture
def fast() -> Retry:
    """Tries again at once, and gives up soon."""
    return Retry(attempts=4, base_s=0.001, cap_s=0.01, patience_s=60.0)


@pytest.fixture
def client(service: Service, fast: Retry) -> Iterator[Raymill]:
    with Raymill(service.url, "rk-test", retry=fast) as connected:
        yield connected


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty RAYMILL_HOME, and nothing else about a service in the environment."""
    for name in ("RAYMILL_URL", "RAYMILL_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAYMILL_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    started = Commands()
    yield started
    started.stop()


@pytest.fixture
def raymill(
    service: Service, home: Path, commands: Commands
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`raymill(*arguments, input="")`: how the command ended, and what it wrote. The service is the scripted one."""

    def call(*arguments: str, input: str = "") -> subprocess.CompletedProcess[str]:
        ours = {"RAYMILL_URL": service.url, "RAYMILL_API_KEY": "rk-test", "RAYMILL_HOME": str(home)}
        return commands.call(*arguments, environment={**os.environ, **ours}, input=input)

    return call


@pytest.fixture
def reply() -> type[Reply]:
    return Reply


@pytest.fixture
def refusal() -> Callable[..., Reply]:
    """`(status, code, message)` -> a reply with an error body."""
    return error
