"""The WebSocket of jobs, pipelines and queues, and the bell that wakes it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketTestSession
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect
from tests.registry.making import ADA, World, claim_one, job_of, make_pipeline, step, succeed
from tests.serve.control_lab import (
    LISTENING,
    NOBODY,
    WS,
    client,
    complete,
    key,
    kinds,
    post,
    submit,
)
from tests.waiting import eventually
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from raymill.client import control_types
from raymill.registry import identity, jobs
from raymill.registry.tables import Job
from raymill.serve.api import ws
from raymill.serve.api.bell import Bell

__all__ = ["client", "key", "kinds"]  # fixtures


# --- WebSocket --------------------------------------------------------------------------------------------


@pytest.fixture
def socket_(client: TestClient) -> Iterator[WebSocketTestSession]:
    """A connection whose caller is known."""
    with client.websocket_connect(WS) as connected:
        assert connected.receive_json() == {"type": "ready"}
        yield connected


def subscribe(connected: WebSocketTestSession, **to: Any) -> None:
    connected.send_json({"type": "subscribe", **to})


def refusal(connected: WebSocketTestSession) -> tuple[str, int]:
    """Code of the error, and of the close that follows."""
    error = connected.receive_json()
    assert error["type"] == "error"
    with pytest.raises(WebSocketDisconnect) as closed:
        connected.receive_json()
    return error["code"], closed.value.code


def test_a_browser_tells_its_key_in_the_first_message(app: FastAPI, key: str) -> None:
    with TestClient(app) as stranger, stranger.websocket_connect(WS) as connected:
        connected.send_json({"type": "auth", "key": key})
        assert connected.receive_json() == {"type": "ready"}
        connected.send_json({"type": "ping"})
        assert connected.receive_json() == {"type": "pong"}


@pytest.mark.parametrize(
    "first",
    [
        {"type": "auth", "key": "rm-wrong"},
        {"type": "auth"},
        {"type": "subscribe", "queues": True},
        {"type": "auth", "key": "rm-wrong", "more": 1},
        ["auth"],
    ],
)
def test_nobody_gets_in_without_a_key(app: FastAPI, first: object) -> None:
    with TestClient(app) as stranger, stranger.websocket_connect(WS) as connected:
        connected.send_json(first)
        assert refusal(connected) == ("unauthenticated", 1008)


@pytest.mark.parametrize("header", ["Bearer rm-wrong", "Bearer "])
def test_a_wrong_key_in_the_header_does_not_open(app: FastAPI, header: str) -> None:
    with (
        TestClient(app) as stranger,
        stranger.websocket_connect(WS, headers={"authorization": header}) as connected,
    ):
        assert refusal(connected) == ("unauthenticated", 1008)


def test_who_says_nothing_is_let_go(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ws, "AUTH_S", 0.1)
    with TestClient(app) as stranger, stranger.websocket_connect(WS) as connected:
        assert refusal(connected) == ("unauthenticated", 1008)


def test_a_key_that_is_revoked_closes_its_connections(
    client: TestClient, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ws, "LOOK_AGAIN_S", 0.1)
    with client.websocket_connect(WS) as connected:
        assert connected.receive_json() == {"type": "ready"}
        with world.database.transaction() as session:
            identity.set_disabled(session, identity.find_account(session, "operator"), True, ADA)
        assert refusal(connected) == ("unauthenticated", 1008)


def test_one_connection_follows_a_job_and_a_pipeline(
    socket_: WebSocketTestSession, client: TestClient, world: World
) -> None:
    job = submit(client)
    claimed = claim_one(world.database)
    pipeline = make_pipeline(world.database, step("a"))
    subscribe(socket_, job_id=str(job.id))
    assert (state := socket_.receive_json())["type"] == "state"
    assert (state["job_id"], state["event"]["data"]["state"]) == (str(job.id), "running")
    with world.database.transaction() as session:
        jobs.add_events(session, claimed, [("progress", {"done": 1})])
    event = socket_.receive_json()
    assert (event["type"], event["event"]["kind"], event["event"]["data"]) == (
        "event",
        "progress",
        {"done": 1},
    )
    complete(world, claimed)
    assert socket_.receive_json()["event"]["data"]["state"] == "succeeded"
    end = socket_.receive_json()
    assert (end["type"], end["job_id"], end["state"]) == ("end", str(job.id), "succeeded")

    subscribe(socket_, pipeline_id=str(pipeline.id))
    queued = socket_.receive_json()
    assert (queued["pipeline_id"], queued["event"]["data"]["state"]) == (str(pipeline.id), "queued")
    succeed(world.database, claim_one(world.database))
    told = [socket_.receive_json() for _ in range(3)]
    assert [each["type"] for each in told] == ["event", "event", "end"]
    assert told[-1]["state"] == "succeeded"

    subscribe(socket_, pipeline_id=str(pipeline.id), after=told[0]["event"]["id"])
    assert [socket_.receive_json() for _ in range(2)] == told[1:]


def test_an_event_is_told_without_waiting_for_the_next_look(
    client: TestClient, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raymill.serve.api.events.POLL_S", 60.0)
    pipeline = make_pipeline(world.database, step("a"))
    with client.websocket_connect(WS) as connected:
        assert connected.receive_json() == {"type": "ready"}
        subscribe(connected, pipeline_id=str(pipeline.id))
        assert connected.receive_json()["event"]["data"]["state"] == "queued"
        eventually(lambda: listening(world) > 0)
        started = time.monotonic()
        claim_one(world.database)
        assert connected.receive_json()["event"]["data"]["state"] == "running"
        assert time.monotonic() - started < 30


def test_what_is_unsubscribed_is_told_no_more(socket_: WebSocketTestSession, client: TestClient) -> None:
    job = submit(client)
    subscribe(socket_, job_id=str(job.id))
    assert socket_.receive_json()["type"] == "state"
    socket_.send_json({"type": "unsubscribe", "job_id": str(job.id)})
    socket_.send_json({"type": "ping"})  # messages are done in turn: it has been heard
    assert socket_.receive_json() == {"type": "pong"}
    post(client, f"jobs/{job.id}/cancel")
    time.sleep(0.3)
    socket_.send_json({"type": "ping"})
    assert socket_.receive_json() == {"type": "pong"}


def test_the_queues_are_told_again_and_again(
    client: TestClient, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ws, "QUEUES_S", 0.1)
    with client.websocket_connect(WS) as connected:
        assert connected.receive_json() == {"type": "ready"}
        subscribe(connected, queues=True)
        first = connected.receive_json()
        assert first["type"] == "queues"
        assert [control_types.QueueStats.model_validate(each).queue for each in first["data"]] == [
            "heavy",
            "hooks",
            "short",
        ]
        make_pipeline(world.database)
        for _ in range(100):
            if connected.receive_json()["data"][2]["ready"] == 1:
                break
        else:
            pytest.fail("the new job was not told of")


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "subscribe"}, "invalid"),
        ({"type": "subscribe", "job_id": NOBODY, "queues": True}, "invalid"),
        ({"type": "subscribe", "job_id": "none"}, "invalid"),
        ({"type": "subscribe", "job_id": NOBODY, "after": -1}, "invalid"),
        ({"type": "subscribe", "job_id": NOBODY}, "not_found"),
        ({"type": "subscribe", "pipeline_id": NOBODY}, "not_found"),
        ({"type": "shout"}, "invalid"),
        ({"type": "auth", "key": "rm-other"}, "invalid"),
        (7, "invalid"),
    ],
)
def test_a_wrong_message_is_answered_and_the_connection_goes_on(
    socket_: WebSocketTestSession, message: object, code: str
) -> None:
    socket_.send_json(message)
    error = socket_.receive_json()
    assert (error["type"], error["code"]) == ("error", code)
    socket_.send_json({"type": "ping"})
    assert socket_.receive_json() == {"type": "pong"}


@pytest.mark.parametrize(
    ("send", "code"), [(lambda s: s.send_bytes(b"{}"), 1003), (lambda s: s.send_text(" " * 70_000), 1009)]
)
def test_bytes_and_long_messages_end_the_connection(
    socket_: WebSocketTestSession, send: Any, code: int
) -> None:
    send(socket_)
    with pytest.raises(WebSocketDisconnect) as closed:
        socket_.receive_json()
    assert closed.value.code == code


def test_subscriptions_are_counted(
    socket_: WebSocketTestSession, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ws, "MAX_SUBSCRIPTIONS", 2)
    ids = [str(make_pipeline(world.database, name=f"p{number}").id) for number in range(3)]
    for each in ids[:2]:
        subscribe(socket_, pipeline_id=each)
        assert socket_.receive_json()["pipeline_id"] == each
    subscribe(socket_, pipeline_id=ids[2])
    error = socket_.receive_json()
    assert (error["code"], "at most 2" in error["message"]) == ("invalid", True)
    subscribe(socket_, pipeline_id=ids[0])  # again is not another one
    assert socket_.receive_json()["pipeline_id"] == ids[0]


@contextlib.contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """The application on a real port: a test client's buffers have no end."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    yield f"ws://127.0.0.1:{listening.getsockname()[1]}{WS}"
    server.should_exit = True
    thread.join()
    listening.close()


def make_long_history(world: World) -> tuple[Job, int]:
    pipeline = make_pipeline(world.database)
    claimed = claim_one(world.database)
    count = 200
    for _ in range(count // 50):
        told: list[tuple[str, dict[str, Any]]] = [
            ("log", {"text": secrets.token_hex(50_000)}) for _ in range(50)
        ]
        with world.database.transaction() as session:
            jobs.add_events(session, claimed, told)
    return job_of(world.database, pipeline, "only"), count


def test_a_long_history_reaches_who_reads_it(app: FastAPI, world: World, key: str) -> None:
    job, count = make_long_history(world)
    with served(app) as url, connect(url, additional_headers={"authorization": f"Bearer {key}"}) as connected:
        assert json.loads(connected.recv()) == {"type": "ready"}
        connected.send(json.dumps({"type": "subscribe", "job_id": str(job.id)}))
        kinds = [json.loads(connected.recv(timeout=60))["event"]["kind"] for _ in range(count + 2)]
    assert kinds == ["state", "state"] + ["log"] * count


def test_who_does_not_read_is_let_go(
    app: FastAPI, world: World, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ws, "SLOW_S", 0.5)
    job, count = make_long_history(world)
    headers = {"authorization": f"Bearer {key}"}
    let_go = threading.Event()

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)
        let_go.set()

    with served(watched) as url, connect(url, additional_headers=headers, max_queue=1) as connected:
        assert json.loads(connected.recv()) == {"type": "ready"}
        connected.send(json.dumps({"type": "subscribe", "job_id": str(job.id)}))
        assert let_go.wait(60)
        read = 0
        with contextlib.suppress(ConnectionClosed):
            while read < count:
                connected.recv(timeout=60)
                read += 1
    assert read < count


# --- the bell ---------------------------------------------------------------------------------------------


def test_the_bell_gives_its_connection_up_when_nobody_waits(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raymill.serve.api.bell.IDLE_S", 0.1)
    bell = Bell(world.database.url)
    stream, other = uuid.uuid4(), uuid.uuid4()

    async def listen() -> list[float]:
        waited = []
        with bell.of(stream) as ring:
            await ring.wait(60)  # it has connected
            for told, at_most_s in ((stream, 60.0), (other, 0.5)):
                started = time.monotonic()
                with world.database.transaction() as session:
                    jobs.notify(session, "raymill_event", str(told))
                await ring.wait(at_most_s)
                waited.append(time.monotonic() - started)
        return waited

    mine, others = asyncio.run(listen())
    assert mine < 60
    assert others >= 0.5
    eventually(lambda: listening(world) == 0)


def listening(world: World) -> int:
    with world.database.transaction() as session:
        return session.scalar(LISTENING) or 0
