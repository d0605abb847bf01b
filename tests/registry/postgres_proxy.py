"""A wire between a client and a real Postgres that a test can cut, at a COMMIT or another statement too."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Literal

from sqlalchemy import URL

At = Literal["before", "after"]

READY = b"Z\0\0\0\5"
"""How the last message of an answer begins, ReadyForQuery: what was asked is done. A byte of state follows."""


class PostgresProxy:
    """Forwards bytes. Serves on the loop that started it."""

    def __init__(self, url: URL) -> None:
        self._url = url
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._port = 0
        self.cut: At | None = None
        """Cut the next `statement` off: before Postgres hears of it, or after it is done and before it says so."""

        self.statement = b"COMMIT"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    @property
    def dsn(self) -> str:
        url = self._url.set(drivername="postgresql", host="127.0.0.1", port=self._port)
        return url.render_as_string(hide_password=False)

    async def stop(self) -> None:
        """Nobody gets through, and who was through is cut off."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.close()
        await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._url.host
        assert self._url.port
        up_reader, up_writer = await asyncio.open_connection(self._url.host, self._url.port)
        self._writers |= {writer, up_writer}
        cut, done = asyncio.Event(), asyncio.Event()
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._ask(reader, up_writer, cut, done))
                pumps.create_task(_answer(up_reader, writer, cut, done))
        except* (ConnectionError, RuntimeError):
            pass
        finally:
            self._writers -= {writer, up_writer}
            for end in (writer, up_writer):
                end.close()
                with contextlib.suppress(ConnectionError):
                    await end.wait_closed()

    async def _ask(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        cut: asyncio.Event,
        done: asyncio.Event,
    ) -> None:
        while data := await reader.read(1 << 16):
            if self.cut is not None and self.statement in data:
                at, self.cut = self.cut, None
                cut.set()
                if at == "after":
                    writer.write(data)
                    await done.wait()
                raise ConnectionResetError
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: asyncio.Event, done: asyncio.Event
) -> None:
    while data := await reader.read(1 << 16):
        if not cut.is_set():
            writer.write(data)
            await writer.drain()
        elif READY in data[-6:]:
            done.set()
    raise ConnectionResetError


@contextlib.contextmanager
def proxy_in_thread(url: URL) -> Iterator[PostgresProxy]:
    """A proxy for clients in other processes, on a loop of its own."""
    proxy = PostgresProxy(url)
    ready, done = threading.Event(), threading.Event()

    async def serve() -> None:
        await proxy.start()
        ready.set()
        while not done.is_set():
            await asyncio.sleep(0.02)
        await proxy.stop()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    assert ready.wait(60)
    yield proxy
    done.set()
    thread.join(60)
