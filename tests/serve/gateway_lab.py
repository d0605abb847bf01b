"""A gateway over a scripted upstream, with its records within reach: what a request leaves on disk."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
from sqlalchemy import create_engine, text
from tests.serve.gateway_tools import KEY, local_stores, made
from tests.serve.scripted_upstream import Script
from tests.waiting import eventually

from raymill.registry.database import Database
from raymill.serve.gateway.app import Gateway
from raymill.serve.gateway.limits import Clock
from raymill.serve.gateway.meters import Meters
from raymill.serve.gateway.snapshot import Caller, Snapshot, StaticSource
from raymill.serve.gateway.spool import Closed, Opened
from raymill.serve.gateway.stores import Stores

CHAT = "/v1/chat/completions"
NOON = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC).timestamp()
AUTH = {"Authorization": f"Bearer {KEY}"}
_line = msgspec.json.Decoder(Opened | Closed).decode


class Lab(NamedTuple):
    app: Gateway
    upstream: Script
    client: httpx.Client
    stores: Stores

    def ask(self, model: str, said: str = "Hello.", *, id: str = "", **more: Any) -> httpx.Response:
        """A chat request; `id` becomes its request id."""
        body = {"model": model, "messages": [{"role": "user", "content": said}], **more}
        return self.client.post(CHAT, json=body, headers={"x-request-id": id} if id else {})

    def lines(self, request_id: str) -> list[Opened | Closed]:
        """What the spool holds of a request."""
        paths = sorted(self.stores.spool.folder.glob("*.jsonl"))
        lines = [_line(line) for path in paths for line in path.read_bytes().splitlines()]
        return [line for line in lines if line.record.request_id == request_id]

    def closed(self, request_id: str) -> Closed:
        """The one record of a request that is over."""
        eventually(lambda: any(isinstance(line, Closed) for line in self.lines(request_id)))
        (found,) = [line for line in self.lines(request_id) if isinstance(line, Closed)]
        return found

    def metrics(self) -> str:
        parts = self.app.parts
        states = parts.book.states()
        return parts.recorder.metrics.text(states, 0, self.app.in_flight, None)


@contextmanager
def lab(upstream: Script, source: StaticSource, directory: Path, **stores: Any) -> Iterator[Lab]:
    """`stores` replaces parts of what is kept, such as `answers` and `take_feedback`."""
    kept = local_stores(directory)
    for name, value in stores.items():
        setattr(kept, name, value)
    with (
        made(source=source, stores=kept) as (app, address),
        httpx.Client(base_url=address, headers=AUTH, timeout=60) as client,
    ):
        yield Lab(app, upstream, client, kept)


class Account(NamedTuple):
    """Somebody with a key, who asks for short answers."""

    lab: Lab
    key: str
    caller: Caller

    def ask(self, model: str = "m", *, id: str = "", **more: Any) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 5, **more}
        headers = {"Authorization": f"Bearer {self.key}"} | ({"x-request-id": id} if id else {})
        return self.lab.client.post(CHAT, json=body, headers=headers)

    def meter(self, kind: str, window: str) -> str:
        return f"account:{self.caller.account_id}/{kind}/{window}"


class StandingClock(Clock):
    now = NOON

    def time(self) -> float:
        return self.now


class Metered(StaticSource):
    """Also starts and stops the replica's limits, on the gateway's own loop."""

    def __init__(self, snapshot: Snapshot, meters: Meters) -> None:
        super().__init__(snapshot)
        self.meters = meters
        self._started = False

    async def load(self) -> Snapshot:
        if not self._started:
            self._started = True
            await self.meters.start()
        return await super().load()

    async def close(self) -> None:
        await self.meters.stop()


@contextmanager
def copy_of(migrated: Database) -> Iterator[str]:
    """A registry for the tests of one module, as libpq takes it: copying takes longer than most of them."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    admin = create_engine(migrated.url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {migrated.url.database}"))
    admin.dispose()
    yield migrated.url.set(database=name, drivername="postgresql").render_as_string(hide_password=False)


def events(stream: str) -> list[tuple[str, Any]]:
    """Named events of a stream, their JSON read."""
    found = []
    for block in stream.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if fields:
            found.append((fields.get("event", ""), msgspec.json.decode(fields["data"])))
    return found
