"""HTTP as the gateway's replica speaks it: answers in one write, headers that cannot be split, idle connections."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http import httptools_impl

from raymill.serve.gateway.cycle import FewTimersProtocol, OneWriteCycle

Headers = list[tuple[bytes, bytes]]


async def app(scope: Scope, _: Receive, send: Send) -> None:
    path = scope["path"]
    headers: Headers = [(b"Content-Length", b"5")]
    if path == "/pieces":
        headers = []
    elif path == "/split":
        headers.append((b"x-a", b"1\r\nset-cookie: a=b"))
    elif path == "/close":
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if path == "/pieces":
        for piece in (b"he", b"", b"llo"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    else:
        body = {"/long": b"hello!", "/short": b"hell"}.get(path, b"hello")
        await send({"type": "http.response.body", "body": body})


@contextmanager
def serving(keep_s: int) -> Iterator[int]:
    """Its port. Idle connections are closed after `keep_s`."""
    before = httptools_impl.RequestResponseCycle
    httptools_impl.RequestResponseCycle = OneWriteCycle  # type: ignore[misc]
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, http=FewTimersProtocol, lifespan="off", log_config=None, timeout_keep_alive=keep_s
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield int(listening.getsockname()[1])
        server.should_exit = True
        thread.join(10)
    httptools_impl.RequestResponseCycle = before  # type: ignore[misc]


@contextmanager
def asking(port: int) -> Iterator[Callable[..., bytes]]:
    """Sends one request on a connection of its own and gives all that comes until the server closes it."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:

        def send(path: str, method: str = "GET", extra: str = "connection: close\r\n") -> bytes:
            connection.sendall(f"{method} {path} HTTP/1.1\r\nhost: a\r\n{extra}\r\n".encode())
            parts: list[bytes] = []
            while part := connection.recv(65536):
                parts.append(part)
            return b"".join(parts)

        yield send


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a server whose idle connections outlive a test's patience: what ends sooner was ended."""
    with serving(keep_s=600) as found:
        yield found


@pytest.fixture
def ask(port: int) -> Iterator[Callable[..., bytes]]:
    with asking(port) as send:
        yield send


def test_an_answer_with_a_length(ask: Callable[..., bytes]) -> None:
    head, _, body = ask("/").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-length: 5" in head
    assert b"connection: close" in head
    assert body == b"hello"


def test_an_answer_in_pieces_is_chunked(ask: Callable[..., bytes]) -> None:
    head, _, body = ask("/pieces").partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert body == b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"


def test_head_has_the_head_alone(ask: Callable[..., bytes]) -> None:
    head, _, body = ask("/", "HEAD").partition(b"\r\n\r\n")
    assert b"content-length: 5" in head
    assert body == b""


def test_a_header_with_a_line_break_is_never_sent(ask: Callable[..., bytes]) -> None:
    assert b"set-cookie" not in ask("/split")


@pytest.mark.parametrize("path", ["/long", "/short"])
def test_a_body_that_is_not_as_long_as_was_said_ends_the_connection(
    ask: Callable[..., bytes], path: str
) -> None:
    assert b"hello!" not in ask(path, extra="")


def test_a_connection_is_kept_and_closed_when_it_was_idle() -> None:
    with serving(keep_s=1) as port, asking(port) as ask:
        started = time.monotonic()
        # The second one is sent before the first answer.
        two = ask("/", extra="\r\nGET /pieces HTTP/1.1\r\nhost: a\r\n")
        took_s = time.monotonic() - started
    assert two.count(b"HTTP/1.1 200 OK") == 2
    assert two.endswith(b"0\r\n\r\n")
    assert took_s > 0.9


def test_the_app_may_close(ask: Callable[..., bytes]) -> None:
    assert ask("/close", extra="").endswith(b"hello")
