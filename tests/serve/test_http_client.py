"""The gateway's HTTP client against a server that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import pytest
import uvloop
from tests.serve.scripted_upstream import (
    DONE,
    Script,
    answer,
    chunk,
    drips,
    reset,
    says,
    scripted,
    stall,
    streams,
    truncated,
)

from raymill.policies.errors import Invalid
from raymill.serve.gateway.http_client import (
    Address,
    Answer,
    Broken,
    ConnectFailed,
    HttpClient,
    HttpError,
    TimedOut,
)

T = TypeVar("T")


@pytest.fixture
def upstream() -> Iterator[Script]:
    with scripted() as script:
        yield script


def run(script: Script, work: Callable[[HttpClient, Address], Awaitable[T]]) -> T:
    async def main() -> T:
        client = HttpClient()
        try:
            return await work(client, Address.of(script.url))
        finally:
            client.close()
            await asyncio.sleep(0.01)  # transports close in the next round

    # uvloop is what the gateway's replica runs on.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


async def post(
    client: HttpClient, address: Address, model: str, *, first_byte_s: float = 5.0, total_s: float = 10.0
) -> Answer:
    body = json.dumps({"model": model}).encode()
    return await client.post(
        address, "/x", b"a: b\r\n", body, connect_s=1.0, first_byte_s=first_byte_s, total_s=total_s
    )


async def whole(client: HttpClient, address: Address, model: str, **times: float) -> bytes:
    return await (await post(client, address, model, **times)).whole(5.0)


def test_an_answer_comes_whole_and_the_connection_is_used_again(upstream: Script) -> None:
    async def work(client: HttpClient, address: Address) -> list[bytes]:
        return [await whole(client, address, "m") for _ in range(3)]

    assert run(upstream, work) == [answer()] * 3
    assert [seen.path for seen in upstream.seen] == ["/x"] * 3
    assert upstream.seen[0].headers["a"] == "b"
    assert upstream.connections == 1


def test_ten_megabytes_arrive_whole(upstream: Script) -> None:
    large = answer("x" * 10_000_000)
    upstream.on("large", says(200, large))
    assert run(upstream, lambda client, address: whole(client, address, "large")) == large


def test_a_slow_drip_is_waited_for(upstream: Script) -> None:
    upstream.on("drip", drips(answer(), 0.005))
    assert run(upstream, lambda client, address: whole(client, address, "drip")) == answer()


def test_pieces_come_as_they_are_sent(upstream: Script) -> None:
    upstream.on("m", streams(chunk("one"), chunk("two"), DONE, delay_s=0.05))

    async def work(client: HttpClient, address: Address) -> list[bytes]:
        opened = await post(client, address, "m")
        pieces = []
        while piece := await opened.next(5.0):
            pieces.append(piece)
        assert await opened.next(5.0) == b""
        return pieces

    assert run(upstream, work) == [chunk("one"), chunk("two"), DONE]


@pytest.mark.parametrize(
    ("act", "error"),
    [(reset, Broken), (truncated(answer()), Broken), (stall, TimedOut)],
    ids=["reset", "cut", "stall"],
)
def test_what_breaks_before_the_answer_is_whole_is_told(
    upstream: Script, act: object, error: type[HttpError]
) -> None:
    upstream.on("m", act)  # type: ignore[arg-type]
    first_byte_s = 0.3 if act is stall else 5.0
    with pytest.raises(error):
        run(upstream, lambda client, address: whole(client, address, "m", first_byte_s=first_byte_s))


def test_a_stall_in_the_middle_of_a_stream_times_out(upstream: Script) -> None:
    upstream.on("m", streams(chunk("one"), stall=True))

    async def work(client: HttpClient, address: Address) -> None:
        opened = await post(client, address, "m")
        assert await opened.next(5.0) == chunk("one")
        try:
            await opened.next(0.2)
        finally:
            opened.close()

    with pytest.raises(TimedOut):
        run(upstream, work)


def test_the_total_time_ends_a_stream_that_goes_on_and_on(upstream: Script) -> None:
    upstream.on("m", streams(*[chunk("x")] * 100, delay_s=0.05))

    async def work(client: HttpClient, address: Address) -> None:
        opened = await post(client, address, "m", total_s=0.5)
        try:
            while await opened.next(5.0):
                pass
        finally:
            opened.close()

    with pytest.raises(TimedOut):
        run(upstream, work)


def test_closing_an_answer_tells_the_server(upstream: Script) -> None:
    upstream.on("m", streams(chunk("one"), stall=True))

    async def work(client: HttpClient, address: Address) -> None:
        opened = await post(client, address, "m")
        await opened.next(5.0)
        opened.close()

    run(upstream, work)
    assert upstream.aborted.wait(60)


def test_a_cancelled_request_is_dropped_and_its_connection_with_it(upstream: Script) -> None:
    upstream.on("m", stall)

    async def work(client: HttpClient, address: Address) -> None:
        task = asyncio.ensure_future(post(client, address, "m"))
        while not upstream.open:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert upstream.aborted.wait(60) or True
        assert await whole(client, address, "other") == answer()

    run(upstream, work)
    assert upstream.aborted.wait(60)


def test_a_kept_connection_that_the_server_closed_is_replaced(upstream: Script) -> None:
    async def closes(_: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    upstream.on("m", closes)

    async def work(client: HttpClient, address: Address) -> list[bytes]:
        return [await whole(client, address, "m") for _ in range(5)]

    assert run(upstream, work) == [b"ok"] * 5


def test_an_answer_without_a_length_ends_with_its_connection(upstream: Script) -> None:
    async def bare(_: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        await writer.drain()
        writer.close()

    upstream.on("m", bare)
    assert run(upstream, lambda client, address: whole(client, address, "m")) == b"all of it"


def test_what_is_no_http_is_told(upstream: Script) -> None:
    async def noise(_: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        await writer.drain()

    upstream.on("m", noise)
    with pytest.raises(Broken, match="no HTTP"):
        run(upstream, lambda client, address: whole(client, address, "m"))


def test_nobody_there_is_told_with_the_address() -> None:
    async def main() -> None:
        await whole(HttpClient(), Address.of("http://127.0.0.1:1"), "m")

    with pytest.raises(ConnectFailed, match=r"127\.0\.0\.1:1"):
        asyncio.run(main())


def test_addresses_are_taken_apart_once() -> None:
    assert Address.of("https://api.example.com/v1/").host_header == "api.example.com"
    assert Address.of("https://api.example.com/v1/").path == "/v1"
    assert Address.of("http://127.0.0.1:8080").host_header == "127.0.0.1:8080"
    with pytest.raises(Invalid, match="https://host/path"):
        Address.of("ftp://example.com")
