"""`/api/v1/ws`: one connection that follows many jobs and pipelines, and the queues.

The caller is known by the Authorization header, or, as a browser can send none, by a first message. Then:

    in    {"type": "auth", "key": …}                                within 5 s, unless the header has one
          {"type": "subscribe", "job_id" | "pipeline_id" | "queues": true, "after": N}
          {"type": "unsubscribe", the same}    {"type": "ping"}
    out   {"type": "ready"}    {"type": "pong"}    {"type": "ping"} now and then, so that nobody takes it for dead
          {"type": "event" | "state", "job_id" | "pipeline_id", "event": …}    state: as the row says it now
          {"type": "end", "job_id" | "pipeline_id", "state": …}    the subscription is over
          {"type": "queues", "data": […]}      every 2 s
          {"type": "error", "code", "message", the subscription where there is one}

It is closed with 1008 when the caller may not (any more), 1009 for a message that is too long, and 1013 when the
caller does not read: what waits to be sent is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from raymill.policies.errors import Invalid, NotFound, RaymillError
from raymill.registry import identity
from raymill.registry.database import Database
from raymill.registry.jobs.stats import queue_stats
from raymill.registry.secrets import SecretBox
from raymill.registry.tables import Job, JsonObject, LoginSession, Pipeline
from raymill.serve.api import control_wire, events
from raymill.serve.api.bell import Bell
from raymill.serve.api.context import Parts, Unauthenticated, proof_of

log = logging.getLogger(__name__)

router = APIRouter(tags=["events"])

AUTH_S = 5.0
LOOK_AGAIN_S = 30.0
"""How soon a key that was revoked is noticed."""

PING_S = 20.0
QUEUES_S = 2.0
MAX_SUBSCRIPTIONS = 100
MAX_MESSAGE_CHARS = 64 << 10
MAX_BUFFER_BYTES = 1 << 20
SLOW_S = 10.0
"""A caller that makes no room in the buffer for so long is let go."""

NOT_TEXT, POLICY_VIOLATION, TOO_LONG, FAULT, TRY_AGAIN_LATER = 1003, 1008, 1009, 1011, 1013

Key = tuple[str, str]
"""What is subscribed to: ("job_id", its id), or ("queues", "")."""


class Message(BaseModel):
    """What a caller sends."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["auth", "subscribe", "unsubscribe", "ping"]
    key: str | None = None
    job_id: uuid.UUID | None = None
    pipeline_id: uuid.UUID | None = None
    queues: bool = False
    after: int = Field(default=0, ge=0, lt=1 << 63)

    def subject(self) -> Key:
        """
        Raises:
            Invalid: it names nothing, or more than one thing.
        """
        named: list[Key] = []
        for field in ("job_id", "pipeline_id"):
            if (value := getattr(self, field)) is not None:
                named.append((field, str(value)))
        if self.queues:
            named.append(("queues", ""))
        if len(named) != 1:
            raise Invalid("a subscription is to one of job_id, pipeline_id and queues: send one of them")
        return named[0]


class Closed(Exception):
    """The connection ends, and why."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class QueueNumbers:
    """The numbers of the queues, read at most once in `QUEUES_S` for all connections of a replica."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._data: list[JsonObject] = []
        self._until = 0.0
        self._lock: asyncio.Lock | None = None

    async def read(self) -> list[JsonObject]:
        self._lock = self._lock or asyncio.Lock()
        async with self._lock:
            if time.monotonic() >= self._until:
                self._data = await asyncio.to_thread(self._read)
                self._until = time.monotonic() + QUEUES_S / 2
            return self._data

    def _read(self) -> list[JsonObject]:
        with self._database.transaction() as session:
            found = queue_stats(session)
        return [control_wire.queue_stats(each).model_dump(mode="json") for each in found]


class Outbox:
    """What waits to be sent: at most `MAX_BUFFER_BYTES`, or one message that is longer."""

    def __init__(self) -> None:
        self._texts: deque[str] = deque()
        self._bytes = 0
        self._changed = asyncio.Condition()

    async def put(self, message: JsonObject) -> None:
        """Waits for room.

        Raises:
            Closed: there was none for `SLOW_S`.
        """
        text = json.dumps(message)
        try:
            async with asyncio.timeout(SLOW_S), self._changed:
                await self._changed.wait_for(
                    lambda: not self._bytes or self._bytes + len(text) <= MAX_BUFFER_BYTES
                )
                self._texts.append(text)
                self._bytes += len(text)  # JSON in ASCII: a character is a byte
                self._changed.notify_all()
        except TimeoutError:
            raise Closed(TRY_AGAIN_LATER, "you read too slowly: connect again, with after") from None

    async def send_all(self, websocket: WebSocket) -> None:
        """Send, one after the other, until cancelled. What is being sent still counts as waiting."""
        while True:
            try:
                async with asyncio.timeout(PING_S), self._changed:
                    await self._changed.wait_for(lambda: bool(self._texts))
                    text = self._texts[0]
            except TimeoutError:
                await websocket.send_text('{"type": "ping"}')
                continue
            await websocket.send_text(text)
            async with self._changed:
                self._texts.popleft()
                self._bytes -= len(text)
                self._changed.notify_all()


class Connection:
    """One caller, from the first message to the close."""

    def __init__(self, websocket: WebSocket, parts: Parts, bell: Bell, numbers: QueueNumbers) -> None:
        self._websocket = websocket
        self._database = parts.database
        self._box = parts.settings.secret_box
        self._bell = bell
        self._numbers = numbers
        self._outbox = Outbox()
        self._subscriptions: dict[Key, asyncio.Task[None]] = {}
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Until the caller goes, or has to."""
        await self._websocket.accept()
        tasks: list[asyncio.Task[None]] = []
        try:
            key = await self._authenticated()
            tasks = [
                asyncio.create_task(self._guarded(work))
                for work in (self._send, self._receive, partial(self._look_again, key))
            ]
            await self._outbox.put({"type": "ready"})
            await self._ended
        except Closed as closed:
            await self._close(closed)
        except WebSocketDisconnect:
            pass
        finally:
            await _stop(*tasks, *self._subscriptions.values())

    async def _close(self, closed: Closed) -> None:
        if self._websocket.application_state is WebSocketState.DISCONNECTED:
            return
        # A caller that does not read does not hear of its end either; the server's patience is short.
        with contextlib.suppress(RuntimeError, OSError, WebSocketDisconnect, TimeoutError):
            async with asyncio.timeout(1.0):
                await self._websocket.close(closed.code, closed.reason)

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        """What ends one task ends the connection."""
        try:
            await work()
        except (Closed, WebSocketDisconnect) as error:
            self._end(error)
        except Exception as error:
            log.exception("a connection broke")
            self._end(Closed(FAULT, f"this is a fault of ours ({type(error).__name__}): connect again"))

    def _end(self, error: Exception) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)

    async def _authenticated(self) -> str:
        scheme, _, key = self._websocket.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            key = await self._key_of_first_message()
        await self._check(key.strip())
        return key.strip()

    async def _key_of_first_message(self) -> str:
        try:
            async with asyncio.timeout(AUTH_S):
                message = Message.model_validate_json(await self._text())
        except (TimeoutError, ValidationError):
            message = None
        if message is None or message.type != "auth" or not message.key:
            raise await self._refused(
                "no API key: send the header `Authorization: Bearer rm-…`, or first "
                f'{{"type": "auth", "key": "rm-…"}} within {AUTH_S:.0f} s'
            )
        return message.key

    async def _check(self, key: str) -> None:
        try:
            allowed = await asyncio.to_thread(_may_look, self._database, self._box, key)
        except (DBAPIError, PoolTimeout):
            raise Closed(TRY_AGAIN_LATER, "the database is away: connect again") from None
        if not allowed:
            raise await self._refused(
                f"API key {key[:6]}… is not valid: `raymill key create` makes a new one"
            )

    async def _refused(self, message: str) -> Closed:
        error = {"type": "error", "code": Unauthenticated.code, "message": message}
        await self._websocket.send_text(json.dumps(error))
        return Closed(POLICY_VIOLATION, "unauthenticated")

    async def _look_again(self, key: str) -> None:
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            await self._check(key)

    async def _text(self) -> str:
        try:
            text = await self._websocket.receive_text()
        except KeyError:  # bytes
            raise Closed(NOT_TEXT, "send text") from None
        if len(text) > MAX_MESSAGE_CHARS:
            raise Closed(TOO_LONG, f"a message has at most {MAX_MESSAGE_CHARS} characters")
        return text

    async def _send(self) -> None:
        await self._outbox.send_all(self._websocket)

    async def _receive(self) -> None:
        while True:
            text = await self._text()
            try:
                await self._do(Message.model_validate_json(text))
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(part) for part in first["loc"]) or "message"
                await self._tell_error("invalid", f"{where}: {first['msg']}")
            except RaymillError as error:
                await self._tell_error(error.code, str(error))

    async def _do(self, message: Message) -> None:
        match message.type:
            case "ping":
                await self._outbox.put({"type": "pong"})
            case "subscribe":
                await self._subscribe(message.subject(), message.after)
            case "unsubscribe":
                await self._unsubscribe(message.subject())
            case "auth":
                raise Invalid("you are known already: a key is for the first message only")

    async def _subscribe(self, key: Key, after: int) -> None:
        await self._unsubscribe(key)
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise Invalid(f"a connection has at most {MAX_SUBSCRIPTIONS} subscriptions: open another one")
        task = asyncio.create_task(self._guarded(partial(self._subscription, key, after)))
        self._subscriptions[key] = task
        task.add_done_callback(lambda _: self._forget(key, task))

    def _forget(self, key: Key, task: asyncio.Task[None]) -> None:
        if self._subscriptions.get(key) is task:
            del self._subscriptions[key]

    async def _unsubscribe(self, key: Key) -> None:
        task = self._subscriptions.pop(key, None)
        if task is not None:
            await _stop(task)

    async def _subscription(self, key: Key, after: int) -> None:
        last = after
        while True:
            try:
                if key[0] == "queues":
                    await self._tell_queues()
                subject = await asyncio.to_thread(_subject, self._database, key)
                async with aclosing(events.changes(self._database, self._bell, subject, last)) as found:
                    async for told in found:
                        if told is not None:
                            await self._outbox.put(_message(key, told))
                            last = told.id or last
                return
            except NotFound as error:
                await self._tell_error(error.code, str(error), key)
                return
            except (DBAPIError, PoolTimeout):
                # Away, or busy: the caller need not connect again for that.
                await self._tell_error("unavailable", "the database is away: going on once it is back", key)
                await asyncio.sleep(QUEUES_S)

    async def _tell_queues(self) -> None:
        while True:
            await self._outbox.put({"type": "queues", "data": await self._numbers.read()})
            await asyncio.sleep(QUEUES_S)

    async def _tell_error(self, code: str, message: str, key: Key | None = None) -> None:
        await self._outbox.put({"type": "error", "code": code, "message": message, **_named(key)})


@router.websocket("/ws")
async def follow(websocket: WebSocket) -> None:
    """Follow jobs, pipelines and queues over one connection."""
    state = websocket.app.state
    await Connection(websocket, state.parts, state.bell, state.queue_numbers).run()


async def _stop(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        # Not `gather`, which would tell the server of another cancellation than its own.
        await asyncio.wait(tasks)


def _may_look(database: Database, box: SecretBox, token: str) -> bool:
    with database.transaction() as session:
        try:
            proof = proof_of(session, box, token)
        except Unauthenticated:
            return False
        return isinstance(proof, LoginSession) or identity.allows(proof, "read")


def _subject(database: Database, key: Key) -> events.Subject:
    name, value = key
    with database.transaction() as session:
        if name == "job_id":
            job = session.get(Job, uuid.UUID(value))
            if job is not None:
                return events.subject_of(job=job)
        elif (pipeline := session.get(Pipeline, uuid.UUID(value))) is not None:
            return events.subject_of(pipeline=pipeline)
    noun = name.removesuffix("_id")
    raise NotFound(
        f"no {noun} {value}: `raymill {'jobs' if noun == 'job' else noun} list` shows the ones there are"
    )


def _message(key: Key, told: events.Told) -> JsonObject:
    if told.kind == events.END:
        return {"type": "end", **_named(key), **told.data}
    return {"type": "state" if told.id is None else "event", **_named(key), "event": told.data}


def _named(key: Key | None) -> JsonObject:
    if key is None:
        return {}
    return {"queues": True} if key[0] == "queues" else {key[0]: key[1]}
