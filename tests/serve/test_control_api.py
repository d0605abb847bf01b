"""Job control over HTTP: submitting, pausing, redriving, queues, and progress by events."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlalchemy import func, select
from tests.registry.making import World, claim_one, make_pipeline, read_job, step, succeed
from tests.serve.control_lab import (
    API,
    BROKE,
    NOBODY,
    actions,
    client,
    complete,
    die,
    error_of,
    key,
    kinds,
    post,
    submit,
)

from raymill.client import control_types, types
from raymill.cluster.job_logs import job_log
from raymill.cluster.kinds import all_kinds, kind_of
from raymill.cluster.settings import Settings
from raymill.policies.errors import Invalid, NotFound
from raymill.registry import jobs
from raymill.registry.jobs import Claimed
from raymill.registry.tables import Job

__all__ = ["client", "key", "kinds"]  # fixtures


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
