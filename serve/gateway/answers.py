"""Answers that are kept under an Idempotency-Key: the same request twice is one call and one charge.

The same key with the same body gives the stored answer for a day; while it is being made 409, with another
body 422 (draft-ietf-httpapi-idempotency-key-header). What failed for no fault of the request is forgotten,
so that it can be asked again. Only requests that carry a key come here, so only they wait for Postgres.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

import msgspec
import psycopg
from psycopg.types.json import Jsonb

from raymill.policies.errors import Unavailable
from raymill.serve.gateway.exchange import Sink
from raymill.serve.gateway.stream import RawHeaders
from raymill.serve.gateway.wire import Operation, Refused

log = logging.getLogger(__name__)

MAX_KEY_CHARS = 200
MAX_BODY_BYTES = 16 << 20
"""A longer answer is sent and not kept; its key is then free again."""

MAKING_S = 900
"""A replica that died while it made an answer blocks the key for this long."""

KEEP_S = 86_400

# Take the key, unless someone has it: an answer that is kept, or one that is being made.
TAKE = """
INSERT INTO kept_answer (account_id, key, request_hash, replica_id, headers, expires_at)
VALUES (%(account)s, %(key)s, %(hash)s, %(replica)s, '{}', clock_timestamp() + make_interval(secs => %(secs)s))
ON CONFLICT (account_id, key) DO UPDATE
SET request_hash = excluded.request_hash, replica_id = excluded.replica_id, headers = '{}', status = NULL,
    body = NULL, expires_at = excluded.expires_at
WHERE kept_answer.expires_at < clock_timestamp()
RETURNING true
"""
FIND = "SELECT request_hash, status, headers, body FROM kept_answer WHERE account_id = %(account)s AND key = %(key)s"
KEEP = """
UPDATE kept_answer SET status = %(status)s, headers = %(headers)s, body = %(body)s,
    expires_at = clock_timestamp() + make_interval(secs => %(secs)s)
WHERE account_id = %(account)s AND key = %(key)s AND replica_id = %(replica)s AND status IS NULL
"""
FORGET = """
DELETE FROM kept_answer
WHERE account_id = %(account)s AND key = %(key)s AND replica_id = %(replica)s AND status IS NULL
"""
SWEEP = "DELETE FROM kept_answer WHERE expires_at < clock_timestamp()"


class Stored(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Answers(Protocol):
    async def once(
        self,
        account_id: uuid.UUID,
        key: str,
        operation: Operation,
        raw: bytes,
        run: Callable[[Sink], Awaitable[None]],
        sink: Sink,
    ) -> None:
        """Run, unless it was run before.

        Raises:
            Refused: 409 or 422, or what `run` refuses.
        """
        ...


class NoAnswers:
    """For a gateway without a registry: an Idempotency-Key is refused, for it could not be kept."""

    async def once(self, *_: object) -> None:
        raise Refused(
            501,
            "idempotency_unavailable",
            "this gateway has no registry to keep answers in: leave Idempotency-Key out",
        )


class Tee:
    """Passes an answer on, and keeps a copy.

    Args:
        settle: Called with the whole answer before its last piece goes out, so that a client that has it
            finds it kept when it asks again.
    """

    def __init__(self, sink: Sink, settle: Callable[[Tee], Awaitable[None]]) -> None:
        self._sink = sink
        self._settle = settle
        self.status = 0
        self.headers: RawHeaders = []
        self.body = bytearray()
        self.settled = False

    async def start(self, status: int, headers: RawHeaders) -> None:
        self.status, self.headers = status, headers
        await self._sink.start(status, headers)

    async def send(self, body: bytes, *, more: bool) -> None:
        if len(self.body) <= MAX_BODY_BYTES:
            self.body += body
        if not more:
            await self._settle(self)
            self.settled = True
        await self._sink.send(body, more=more)


class PostgresAnswers:
    """Kept in the registry's table, so that any replica answers."""

    def __init__(self, dsn: str, replica_id: uuid.UUID) -> None:
        self._dsn = dsn
        self._replica_id = replica_id
        self._endings: set[asyncio.Future[list[tuple[Any, ...]]]] = set()

    async def once(
        self,
        account_id: uuid.UUID,
        key: str,
        operation: Operation,
        raw: bytes,
        run: Callable[[Sink], Awaitable[None]],
        sink: Sink,
    ) -> None:
        if not key or len(key) > MAX_KEY_CHARS:
            raise Refused(
                400,
                "invalid_request",
                f"Idempotency-Key has {len(key)} characters: send 1 to {MAX_KEY_CHARS}",
            )
        row = {
            "account": account_id,
            "key": key,
            "hash": hashlib.sha256(operation.encode() + b"\0" + raw).hexdigest(),
            "replica": self._replica_id,
        }
        stored = await self._take(row)
        if stored is not None:
            headers = [(name.encode(), value.encode()) for name, value in stored.headers.items()]
            await sink.start(stored.status, [*headers, (b"x-raymill-idempotent-replay", b"true")])
            await sink.send(stored.body, more=False)
            return
        await self._run(row, run, sink)

    async def sweep(self) -> None:
        """Forget what is over its time. Raises Unavailable."""
        await self._execute(SWEEP, {})

    async def _run(self, row: dict[str, object], run: Callable[[Sink], Awaitable[None]], sink: Sink) -> None:
        async def settle(tee: Tee) -> None:
            if tee.status != 200 or len(tee.body) > MAX_BODY_BYTES or _broke(tee):
                await self._end(FORGET, row)
                return
            headers = {name.decode(): value.decode("latin-1") for name, value in tee.headers}
            kept = {"status": tee.status, "headers": Jsonb(headers), "body": bytes(tee.body), "secs": KEEP_S}
            await self._end(KEEP, row | kept)

        tee = Tee(sink, settle)
        try:
            await run(tee)
        finally:
            if not tee.settled:
                await self._end(FORGET, row)

    async def _end(self, statement: str, values: dict[str, object]) -> None:
        # Not cut short when the client goes away: a key in an unknown state blocks its repetition.
        ending = asyncio.ensure_future(self._execute(statement, values))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)
        try:
            await asyncio.shield(ending)
        except Unavailable:
            log.warning("an answer could not be kept under its Idempotency-Key: the database is away")

    async def _take(self, row: dict[str, object]) -> Stored | None:
        """None when the key is ours now.

        Raises:
            Refused: it is somebody else's.
        """
        if await self._execute(TAKE, row | {"secs": MAKING_S}):
            return None
        found = await self._execute(FIND, row)
        if not found:
            return await self._take(row)  # it was forgotten just now
        request_hash, status, headers, body = found[0]
        if request_hash != row["hash"]:
            raise Refused(
                422,
                "idempotency_key_reused",
                f"Idempotency-Key {row['key']!r} was used with another body: use a new key",
            )
        if status is None:
            raise Refused(
                409,
                "idempotency_key_in_use",
                f"the request with Idempotency-Key {row['key']!r} is still being answered: ask again in a moment",
                headers={"retry-after": "1"},
            )
        return Stored(status, headers, bytes(body))

    async def _execute(self, statement: str, values: dict[str, object]) -> list[tuple[Any, ...]]:
        try:
            async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as connection:
                cursor = await connection.execute(statement, values)
                return await cursor.fetchall() if cursor.description is not None else []
        except psycopg.OperationalError as error:
            raise Unavailable("the registry's database is away: see that Postgres runs") from error


def _broke(tee: Tee) -> bool:
    """A stream that ended with an error event is no answer to keep."""
    if dict(tee.headers).get(b"content-type") == b"application/json":
        return False
    last = bytes(tee.body).rstrip().rpartition(b"\n\n")[2]
    data = last[last.find(b"data: ") + len(b"data: ") :]
    if data == b"[DONE]":
        return False
    try:
        event = msgspec.json.decode(data)
    except msgspec.DecodeError:
        return True
    return not isinstance(event, dict) or bool(event.get("error")) or event.get("type") == "error"
