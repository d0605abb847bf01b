"""Job control over HTTP: submitting, pausing, redriving, queues, and progress by events and by WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import secrets
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlalchemy import func, select, text, update
from starlette.testclient import WebSocketTestSession
from starlette.websockets import WebSocketDisconnect
from tests.registry.making import ADA, World, claim_one, job_of, make_pipeline, read_job, step, succeed
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from raymill.client import control_types, types
from raymill.cluster.job_logs import job_log
from raymill.cluster.kinds import all_kinds, kind_of
from raymill.cluster.settings import Settings
from raymill.policies.errors import Invalid, NotFound
from raymill.registry import identity, jobs
from raymill.registry.database import Database
from raymill.registry.jobs import Claimed, Done, ErrorClass
from raymill.registry.tables import AuditEvent, Job, Role
from raymill.serve.api import ws
from raymill.serve.api.app import create_app
from raymill.serve.api.bell import Bell
from raymill.serve.api.context import Parts

API = "/api/v1"
WS = f"{API}/ws"
BROKE = "it broke (unexpected error 1 of 1)"
LISTENING = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %'"
)
NOBODY = str(uuid.UUID(int=1))


@pytest.fixture(autouse=True)
def _kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYMILL_KINDS", "tests.serve.control_kinds")


@pytest.fixture
def world(database: Database, tmp_path: Path) -> World:
    return World(database, tmp_path)


@pytest.fixture
def app(world: World) -> FastAPI:
    return create_app(Parts(settings=Settings(home=world.home), database=world.database))


@pytest.fixture
def key(world: World) -> str:
    return world.add_key(Role.OPERATOR)


@pytest.fixture
def client(app: FastAPI, key: str) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as connected:
        connected.headers["authorization"] = f"Bearer {key}"
        yield connected


def error_of(response: Response) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


def submit(client: TestClient, idempotency_key: str | None = None, **body: Any) -> types.Job:
    headers = {"idempotency-key": idempotency_key} if idempotency_key else {}
    response = client.post(f"{API}/jobs", json={"kind": "greet", **body}, headers=headers)
    return types.Job.model_validate(response.raise_for_status().json())


def post(client: TestClient, path: str, **body: Any) -> dict[str, Any]:
    answer: dict[str, Any] = client.post(f"{API}/{path}", json=body).raise_for_status().json()
    return answer


def complete(world: World, job: Claimed) -> None:
    with world.database.transaction() as session:
        assert jobs.complete(jobs.raw(session), [Done(job.id, job.epoch, {"greeted": "you"})]) == {job.id}


def die(world: World, job: Claimed, error: str = "it broke") -> None:
    with world.database.transaction() as session:
        session.execute(update(Job).where(Job.id == job.id).values(max_attempts=1))
        jobs.fail(session, job.id, job.epoch, error, ErrorClass.UNEXPECTED)


def actions(world: World) -> list[str]:
    with world.database.transaction() as session:
        found = session.scalars(select(AuditEvent).order_by(AuditEvent.seq))
        return [row.action for row in found if row.actor == "operator"]


# --- kinds ------------------------------------------------------------------------------------------------


def test_kinds_of_other_modules_are_there_and_can_be_submitted_alone() -> None:
    assert kind_of("greet").alone
    assert kind_of("labour").queue == "heavy"
    assert not kind_of("train").alone
    assert {"greet", "train"} <= all_kinds().keys()
    with pytest.raises(NotFound, match="greet"):
        kind_of("nothing")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("tests.serve.no_such", "gives no kinds"),
        ("json", "gives no kinds"),
        ("tests.serve.control_kinds,tests.serve.control_kinds", "'greet', which is there already"),
    ],
)
def test_a_module_that_gives_no_kinds_is_named(
    monkeypatch: pytest.MonkeyPatch, names: str, words: str
) -> None:
    monkeypatch.setenv("RAYMILL_KINDS", names)
    with pytest.raises(Invalid, match=words):
        kind_of("nothing")


# --- submitting -------------------------------------------------------------------------------------------


def test_a_job_that_stands_alone_is_submitted_with_all_its_settings(client: TestClient, world: World) -> None:
    later = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    body = {
        "kind": "greet",
        "name": "you",
        "config": {"words": 2},
        "priority": "high",
        "run_at": later.isoformat(),
        "max_attempts": 7,
        "concurrency_key": "voice",
        "concurrency_limit": 2,
        "unique_key": "hello",
    }
    response = client.post(f"{API}/jobs", json=body)
    assert response.status_code == 201
    job = types.Job.model_validate(response.json())
    assert (job.pipeline_id, job.kind, job.queue, job.name, job.state) == (
        None,
        "greet",
        "short",
        "you",
        "queued",
    )
    assert (job.priority, job.run_at, job.max_attempts, job.unique_key) == (2, later, 7, "hello")
    assert (job.concurrency_key, job.concurrency_limit, job.config) == ("voice", 2, {"words": 2})
    assert client.get(f"{API}/jobs/{job.id}").json() == response.json()
    assert actions(world) == ["job.submit"]
    again = client.post(f"{API}/jobs", json={"kind": "greet", "unique_key": "hello"})
    assert (again.status_code, again.json()["id"]) == (200, str(job.id))


def test_a_key_makes_a_submission_safe_to_repeat_and_another_body_is_refused(
    client: TestClient, world: World
) -> None:
    headers = {"idempotency-key": "k1"}
    body = {"kind": "greet", "config": {"words": 2}}
    first = client.post(f"{API}/jobs", json=body, headers=headers)
    complete(world, claim_one(world.database))
    again = client.post(f"{API}/jobs", json=body, headers=headers)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["id"] == first.json()["id"]
    changes: list[dict[str, Any]] = [
        {"config": {}},
        {"priority": 3},
        {"max_attempts": 1},
        {"unique_key": "u"},
    ]
    for change in changes:
        other = client.post(f"{API}/jobs", json={**body, **change}, headers=headers)
        assert error_of(other) == (409, "conflict", None)
    with world.database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"kind": "train"}, "kind"),
        ({"kind": "nothing"}, "kind"),
        ({}, "kind"),
        ({"kind": "greet", "priority": "soon"}, "priority"),
        ({"kind": "greet", "priority": 4}, "priority"),
        ({"kind": "greet", "run_at": "2030-01-01T00:00:00"}, "run_at"),
        ({"kind": "greet", "max_attempts": 0}, "max_attempts"),
        ({"kind": "greet", "concurrency_limit": 0}, "concurrency_limit"),
        ({"kind": "greet", "who": "me"}, "who"),
        ({"kind": "labour", "queue": "short"}, "queue"),
        ({"kind": "greet", "name": "a\0b"}, None),
        ({"kind": "greet", "config": {"a": "\0"}}, None),
    ],
)
def test_a_broken_submission_is_the_callers_fault(
    client: TestClient, world: World, body: dict[str, Any], param: str | None
) -> None:
    assert error_of(client.post(f"{API}/jobs", json=body)) == (422, "invalid", param)
    with world.database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0


def test_a_queue_that_there_is_not_takes_nothing(client: TestClient) -> None:
    response = client.post(f"{API}/jobs", json={"kind": "greet", "queue": "away"})
    assert error_of(response) == (404, "not_found", None)


def test_jobs_are_listed_by_queue_name_state_and_kind(client: TestClient) -> None:
    a, b = submit(client, name="a"), submit(client, name="b", queue="hooks")
    c = submit(client, kind="labour")
    for query, wanted in (
        ("name=a", [a]),
        ("queue=hooks", [b]),
        ("kind=labour", [c]),
        ("state=queued&kind=greet", [b, a]),
        ("state=dead", []),
    ):
        found = client.get(f"{API}/jobs?{query}").raise_for_status().json()["data"]
        assert [each["id"] for each in found] == [str(each.id) for each in wanted]


# --- pausing and running again ----------------------------------------------------------------------------


def test_a_job_rests_and_goes_on(client: TestClient, world: World) -> None:
    job = submit(client)
    assert post(client, f"jobs/{job.id}/pause")["state"] == "paused"
    assert post(client, f"jobs/{job.id}/resume")["state"] == "queued"
    claim_one(world.database)
    asked = post(client, f"jobs/{job.id}/pause")
    assert asked["state"] == "running"
    assert asked["pause_requested_at"] is not None
    assert post(client, f"jobs/{job.id}/resume")["pause_requested_at"] is None
    assert actions(world) == ["job.submit", "job.pause", "job.resume", "job.pause", "job.resume"]
    complete(world, world_claimed(world, job.id))
    for verb in ("pause", "resume", "retry"):
        assert error_of(client.post(f"{API}/jobs/{job.id}/{verb}")) == (409, "conflict", None)
        assert error_of(client.post(f"{API}/jobs/{NOBODY}/{verb}")) == (404, "not_found", None)


def world_claimed(world: World, job_id: uuid.UUID) -> Claimed:
    row = read_job(world.database, job_id)
    return Claimed(**{field: getattr(row, field) for field in Claimed._fields})


def test_a_dead_job_tells_why_and_runs_again(client: TestClient, world: World) -> None:
    job = submit(client)
    die(world, claim_one(world.database))
    dead = client.get(f"{API}/jobs/{job.id}").json()
    assert (dead["state"], dead["error"], dead["failures"]) == ("dead", BROKE, {"unexpected": 1})
    again = post(client, f"jobs/{job.id}/retry")
    assert (again["state"], again["error"], again["failures"]) == ("queued", None, {})


def test_dead_letters_that_match_run_again(client: TestClient, world: World) -> None:
    broke, full, cancelled = submit(client), submit(client), submit(client)
    die(world, claim_one(world.database))
    die(world, claim_one(world.database), "disk is 100% full")
    post(client, f"jobs/{cancelled.id}/cancel")
    assert post(client, "jobs/redrive", kind="labour")["ids"] == []
    assert post(client, "jobs/redrive", error="100% full")["ids"] == [str(full.id)]
    assert post(client, "jobs/redrive")["ids"] == [str(broke.id)]
    assert post(client, "jobs/redrive", states=["cancelled"], queue="short")["ids"] == [str(cancelled.id)]
    wrong: list[dict[str, Any]] = [{"states": ["running"]}, {"states": []}, {"limit": 0}, {"state": "dead"}]
    for body in wrong:
        assert client.post(f"{API}/jobs/redrive", json=body).status_code == 422


def test_a_pipeline_rests_goes_on_and_runs_its_broken_steps_again(client: TestClient, world: World) -> None:
    pipeline = make_pipeline(world.database, step("a"), step("b", "a"))
    paused = post(client, f"pipelines/{pipeline.id}/pause")
    assert [job["state"] for job in paused["jobs"]] == ["paused", "paused"]
    resumed = post(client, f"pipelines/{pipeline.id}/resume")
    assert [job["state"] for job in resumed["jobs"]] == ["queued", "queued"]
    assert error_of(client.post(f"{API}/pipelines/{pipeline.id}/retry")) == (409, "conflict", None)
    die(world, claim_one(world.database))
    ended = client.get(f"{API}/pipelines/{pipeline.id}").json()
    assert [job["state"] for job in ended["jobs"]] == ["dead", "cancelled"]
    again = post(client, f"pipelines/{pipeline.id}/retry")
    assert again["state"] == "running"
    assert [job["state"] for job in again["jobs"]] == ["queued", "queued"]
    succeed(world.database, claim_one(world.database))
    succeed(world.database, claim_one(world.database))
    assert client.get(f"{API}/pipelines/{pipeline.id}").json()["state"] == "succeeded"
    for verb in ("pause", "resume", "retry"):
        assert client.post(f"{API}/pipelines/{NOBODY}/{verb}").status_code == 404


# --- queues -----------------------------------------------------------------------------------------------


def test_a_queue_is_made_limited_stopped_and_started(client: TestClient, world: World) -> None:
    made = client.put(f"{API}/queues/night", json={"runner": "heavy", "max_running": 2}).raise_for_status()
    queue = control_types.Queue.model_validate(made.json())
    assert (queue.name, queue.runner, queue.max_running, queue.paused_at) == ("night", "heavy", 2, None)
    changed = client.put(f"{API}/queues/night", json={}).raise_for_status().json()
    assert (changed["runner"], changed["max_running"]) == ("heavy", None)
    assert error_of(client.put(f"{API}/queues/night", json={"runner": "short"})) == (409, "conflict", None)
    assert post(client, "queues/night/pause")["paused_at"] is not None
    assert post(client, "queues/night/resume")["paused_at"] is None
    assert client.post(f"{API}/queues/away/pause").status_code == 404
    for name, body in (("Night!", {}), ("night", {"max_running": 0}), ("night", {"most": 1})):
        assert client.put(f"{API}/queues/{name}", json=body).status_code == 422
    first = client.get(f"{API}/queues?limit=3").json()
    second = client.get(f"{API}/queues?limit=3&cursor={first['next_cursor']}").json()
    names = [each["name"] for each in first["data"] + second["data"]]
    assert names == ["short", "night", "hooks", "heavy"]
    assert actions(world) == ["queue.set", "queue.set", "queue.pause", "queue.resume"]


def test_a_paused_queue_starts_nothing(client: TestClient, world: World) -> None:
    submit(client)
    post(client, "queues/short/pause")
    with world.database.transaction() as session:
        assert jobs.claim(jobs.raw(session), "short", "w1") == []
    post(client, "queues/short/resume")
    claim_one(world.database)


def test_the_numbers_of_the_queues_are_told(client: TestClient, world: World) -> None:
    submit(client)
    submit(client)
    claim_one(world.database)
    found = control_types.JobStats.model_validate(client.get(f"{API}/jobs/stats").json())
    assert [each.queue for each in found.queues] == ["heavy", "hooks", "short"]
    assert (found.queues[2].ready, found.queues[2].running) == (1, 1)


# --- server-sent events -----------------------------------------------------------------------------------


def frames(response: Response) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for frame in response.text.strip().split("\n\n"):
        fields: dict[str, Any] = dict(line.split(": ", 1) for line in frame.splitlines())
        found.append({**fields, "data": json.loads(fields["data"])})
    return found


def test_a_job_that_stands_alone_tells_its_state_from_its_row(client: TestClient, world: World) -> None:
    job = submit(client)
    complete(world, claim_one(world.database))
    told = frames(client.get(f"{API}/jobs/{job.id}/events"))
    assert [(frame["event"], "id" in frame) for frame in told] == [("state", False), ("end", False)]
    event = types.JobEvent.model_validate(told[0]["data"])
    assert (event.id, event.pipeline_id, event.data["state"], event.data["attempt"]) == (
        None,
        None,
        "succeeded",
        1,
    )
    assert told[1]["data"]["state"] == "succeeded"


def test_a_state_that_an_event_told_is_not_told_again(client: TestClient, world: World) -> None:
    job = submit(client)
    die(world, claim_one(world.database))
    told = frames(client.get(f"{API}/jobs/{job.id}/events"))
    assert [(frame["event"], "id" in frame) for frame in told] == [("state", True), ("end", False)]
    assert told[1]["data"] == {"state": "dead", "attempt": 1, "step": "greet", "error": BROKE}


def test_a_pipelines_stream_ends_with_its_state(client: TestClient, world: World) -> None:
    pipeline = make_pipeline(world.database)
    succeed(world.database, claim_one(world.database))
    told = frames(client.get(f"{API}/pipelines/{pipeline.id}/events"))
    assert told[-1] == {"event": "end", "data": {"state": "succeeded", "error": None}}


def test_a_log_of_an_attempt_before_the_newest_is_over(client: TestClient, world: World) -> None:
    job = submit(client)
    first = claim_one(world.database)
    with world.database.transaction() as session:
        jobs.give_back(session, first.id, first.epoch, "the node goes")
    claim_one(world.database)
    log = job_log(Settings(home=world.home), job.id, 1)
    log.parent.mkdir(parents=True)
    log.write_text("one\n")
    chunk = client.get(f"{API}/jobs/{job.id}/logs?attempt=1").json()
    assert (chunk["text"], chunk["ended"]) == ("one\n", True)
    assert client.get(f"{API}/jobs/{job.id}/logs").json()["ended"] is False


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
        time.sleep(0.5)  # the bell is connected by then
        started = time.monotonic()
        claim_one(world.database)
        assert connected.receive_json()["event"]["data"]["state"] == "running"
        assert time.monotonic() - started < 5


def test_what_is_unsubscribed_is_told_no_more(socket_: WebSocketTestSession, client: TestClient) -> None:
    job = submit(client)
    subscribe(socket_, job_id=str(job.id))
    assert socket_.receive_json()["type"] == "state"
    socket_.send_json({"type": "unsubscribe", "job_id": str(job.id)})
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
def served(app: FastAPI) -> Iterator[str]:
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
        kinds = [json.loads(connected.recv(timeout=10))["event"]["kind"] for _ in range(count + 2)]
    assert kinds == ["state", "state"] + ["log"] * count


def test_who_does_not_read_is_let_go(
    app: FastAPI, world: World, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ws, "SLOW_S", 0.5)
    job, count = make_long_history(world)
    headers = {"authorization": f"Bearer {key}"}
    with served(app) as url, connect(url, additional_headers=headers, max_queue=1) as connected:
        assert json.loads(connected.recv()) == {"type": "ready"}
        connected.send(json.dumps({"type": "subscribe", "job_id": str(job.id)}))
        time.sleep(3)
        read = 0
        with contextlib.suppress(ConnectionClosed):
            while read < count:
                connected.recv(timeout=10)
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
            await ring.wait(5)  # it has connected
            for told in (stream, other):
                started = time.monotonic()
                with world.database.transaction() as session:
                    jobs.notify(session, "raymill_event", str(told))
                await ring.wait(0.5)
                waited.append(time.monotonic() - started)
        return waited

    mine, others = asyncio.run(listen())
    assert mine < 0.5 <= others
    deadline = time.monotonic() + 5
    while listening(world) > 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def listening(world: World) -> int:
    with world.database.transaction() as session:
        return session.scalar(LISTENING) or 0
