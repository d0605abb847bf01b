"""The commands of job control, run as a user runs them, and the clients' calls behind them."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer

from raymill.client.cli.jobs import details
from raymill.client.cli.jobs_control import latency, moment
from raymill.client.errors import Clash
from raymill.client.retry import Retry
from raymill.client.sdk import AsyncRaymill, Raymill
from raymill.client.types import Job
from raymill.policies.errors import Invalid

if TYPE_CHECKING:
    from tests.client.conftest import Reply, Service

    Replies = type[Reply]
    Refusal = Callable[..., Reply]
    Command = Callable[..., subprocess.CompletedProcess[str]]

MOMENT = "2026-01-02T03:04:05Z"
ID = "11111111-1111-1111-1111-111111111111"
JOB: dict[str, Any] = {
    "id": ID,
    "pipeline_id": None,
    "step": "greet",
    "kind": "greet",
    "queue": "short",
    "name": "you",
    "state": "queued",
    "attempt": 0,
    "max_attempts": 3,
    "epoch": 0,
    "address": None,
    "reused_job_id": None,
    "config": {},
    "result": None,
    "error": None,
    "created_at": MOMENT,
    "started_at": None,
    "finished_at": None,
}
PIPELINE: dict[str, Any] = {
    "id": ID,
    "name": "tiny",
    "state": "running",
    "error": None,
    "created_by": "admin",
    "created_at": MOMENT,
    "finished_at": None,
    "recipe": {},
    "jobs": [{**JOB, "state": "running", "pause_requested_at": MOMENT}, JOB],
}
QUEUE: dict[str, Any] = {
    "name": "short",
    "runner": "short",
    "max_running": 4,
    "paused_at": None,
    "created_at": MOMENT,
}
STATS: dict[str, Any] = {
    "queue": "short",
    "runner": "short",
    "max_running": 4,
    "paused_at": MOMENT,
    "ready": 12,
    "scheduled": 1,
    "waiting": 2,
    "running": 3,
    "paused": 5,
    "failed_last_day": 6,
    "dead": 7,
    "oldest_ready_s": 75.2,
    "finished_last_hour": 8000,
    "start_p50_s": 0.0123,
    "start_p99_s": 2.5,
}


def test_a_job_is_submitted_with_what_was_given(
    raymill: Command, service: Service, reply: Replies, tmp_path: Path
) -> None:
    service.on("POST", "/api/v1/jobs", reply(status=201, data=JOB))
    file = tmp_path / "config.yaml"
    file.write_text("words: 2\nloud: true\n")
    options = ["--config", str(file), "--set", "words=3", "--priority", "urgent", "--idempotency-key", "k1"]
    options += ["--at", "2030-01-31T08:00+01:00", "--unique-key", "hello", "--queue", "night"]
    done = raymill("jobs", "submit", "greet", *options)
    assert (done.returncode, done.stdout) == (0, f"{ID}\n"), done.stderr
    (seen,) = service.seen
    assert seen.headers["idempotency-key"] == "k1"
    assert seen.body == {
        "kind": "greet",
        "name": "",
        "config": {"words": 3, "loud": True},
        "queue": "night",
        "priority": 3,
        "run_at": "2030-01-31T07:00:00Z",
        "max_attempts": 3,
        "concurrency_key": None,
        "concurrency_limit": 1,
        "unique_key": "hello",
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ("jobs", "submit"),
        ("jobs", "submit", "greet", "--priority", "soon"),
        ("jobs", "submit", "greet", "--at", "soon"),
        ("jobs", "submit", "greet", "--set", "words"),
        ("jobs", "redrive", "--state", "running"),
        ("queue", "set", "short"),
        ("queue", "set", "short", "--max-running", "1", "--no-limit"),
        ("queue", "set", "short", "--max-running", "0"),
    ],
)
def test_bad_usage_is_exit_2_and_sends_nothing(
    raymill: Command, service: Service, arguments: tuple[str, ...]
) -> None:
    assert raymill(*arguments).returncode == 2
    assert service.seen == []


@pytest.mark.parametrize(
    ("arguments", "method", "path", "answer", "told"),
    [
        (
            ("jobs", "pause", ID),
            "POST",
            f"jobs/{ID}/pause",
            PIPELINE["jobs"][0],
            "is running and is asked to pause",
        ),
        (("jobs", "resume", ID), "POST", f"jobs/{ID}/resume", JOB, f"{ID} is queued"),
        (("jobs", "retry", ID), "POST", f"jobs/{ID}/retry", JOB, f"{ID} is queued"),
        (("jobs", "redrive", "--kind", "greet"), "POST", "jobs/redrive", {"ids": [ID]}, "1 jobs run again"),
        (
            ("pipeline", "pause", ID),
            "POST",
            f"pipelines/{ID}/pause",
            PIPELINE,
            "rests once greet has stopped",
        ),
        (("pipeline", "resume", ID), "POST", f"pipelines/{ID}/resume", PIPELINE, f"{ID} is running"),
        (("pipeline", "retry", ID), "POST", f"pipelines/{ID}/retry", PIPELINE, f"{ID} is running"),
        (("queue", "pause", "short"), "POST", "queues/short/pause", QUEUE, "short is paused"),
        (("queue", "resume", "short"), "POST", "queues/short/resume", QUEUE, "short is open"),
        (
            ("queue", "set", "short", "--max-running", "4"),
            "PUT",
            "queues/short",
            QUEUE,
            "short runs 4 at once (short)",
        ),
    ],
)
def test_what_is_asked_is_sent_and_told_of(
    raymill: Command,
    service: Service,
    reply: Replies,
    arguments: tuple[str, ...],
    method: str,
    path: str,
    answer: dict[str, Any],
    told: str,
) -> None:
    service.on(method, f"/api/v1/{path}", reply(data=answer))
    done = raymill(*arguments)
    assert done.returncode == 0, done.stderr
    assert told in done.stdout
    shown = json.loads(raymill(*arguments, "--json").stdout)
    assert {key: shown[key] for key in answer if key != "jobs"}.keys() == answer.keys() - {"jobs"}


def test_what_may_not_run_again_is_exit_1_and_asked_once(
    raymill: Command, service: Service, refusal: Refusal
) -> None:
    service.on("POST", f"/api/v1/jobs/{ID}/retry", refusal(409, "conflict", f"job {ID} is running"))
    done = raymill("jobs", "retry", ID)
    assert (done.returncode, done.stderr) == (1, f"error: job {ID} is running\n")
    assert len(service.seen) == 1


def test_the_queues_are_told_of_as_tables(raymill: Command, service: Service, reply: Replies) -> None:
    service.on("GET", "/api/v1/jobs/stats", reply(data={"at": MOMENT, "queues": [STATS]}))
    head, row = raymill("jobs", "stats").stdout.splitlines()
    assert head.split()[:4] == ["QUEUE", "RUNNING", "READY", "OLDEST"]
    assert " ".join(row.split()) == "short (paused) 3/4 12 1:15 1 2 5 7 6 8000 12 ms 2.5 s"
    assert json.loads(raymill("jobs", "stats", "--json").stdout)["queues"][0]["ready"] == 12
    service.on("GET", "/api/v1/queues", reply(data={"data": [QUEUE], "next_cursor": None}))
    assert raymill("queue", "list").stdout.splitlines()[1].split() == ["short", "short", "4", "-"]


def test_jobs_are_listed_by_queue_and_name(raymill: Command, service: Service, reply: Replies) -> None:
    service.on("GET", "/api/v1/jobs", reply(data={"data": [JOB], "next_cursor": None}))
    assert raymill("jobs", "list", "--queue", "short", "--name", "you").returncode == 0
    assert service.seen[0].query == {"queue": "short", "name": "you", "limit": "50"}


def test_a_job_tells_what_became_of_its_workers() -> None:
    dead = {**JOB, "state": "dead", "failures": {"transient": 2, "unexpected": 1}, "losses": 3}
    shown = details(Job.model_validate({**dead, "last_log": "loading\nKilled\n", "error": "3 workers died"}))
    assert "2 transient, 1 unexpected\n" in shown
    assert "3 workers in a row" in shown
    assert shown.endswith("kills its workers:\nloading\nKilled")
    assert "asked to stop" in details(
        Job.model_validate({**JOB, "state": "running", "cancel_requested_at": MOMENT})
    )


def test_times_are_read_and_written() -> None:
    assert moment("2030-01-31T08:00+01:00") == dt.datetime.fromisoformat("2030-01-31T07:00+00:00")
    in_two_hours = moment("2h") - dt.datetime.now(dt.UTC)
    assert dt.timedelta(hours=1.99) < in_two_hours <= dt.timedelta(hours=2)
    with pytest.raises(typer.BadParameter, match="15m from now"):
        moment("later")
    assert [latency(each) for each in (None, 0.0004, 0.25, 3.21, 75.0)] == [
        None,
        "0 ms",
        "250 ms",
        "3.2 s",
        "1:15",
    ]


def test_both_clients_ask_the_same(service: Service, fast: Retry, reply: Replies, refusal: Refusal) -> None:
    service.on("POST", "/api/v1/jobs", reply(status=201, data=JOB))
    service.on("POST", "/api/v1/jobs/redrive", reply(data={"ids": []}))
    service.on("GET", "/api/v1/jobs/stats", reply(data={"at": MOMENT, "queues": [STATS]}))
    service.on("GET", "/api/v1/queues", reply(data={"data": [QUEUE], "next_cursor": None}))
    service.on("PUT", "/api/v1/queues/short", reply(data=QUEUE))
    for noun, answer in (("jobs", JOB), ("pipelines", PIPELINE)):
        for verb in ("pause", "resume"):
            service.on("POST", f"/api/v1/{noun}/{ID}/{verb}", reply(data=answer))
        service.on("POST", f"/api/v1/{noun}/{ID}/retry", refusal(409, "conflict", "it runs"))
    with Raymill(service.url, "rk", retry=fast) as client:
        client.jobs.submit("greet", {"words": 2}, priority="high")
        client.jobs.redrive(states=["failed"], error="disk")
        client.jobs.stats()
        list(client.queues.list())
        client.queues.set("short", max_running=4)
        for resource in (client.jobs, client.pipelines):
            resource.pause(ID)
            resource.resume(ID)
            with pytest.raises(Clash):
                resource.retry(ID)
        with pytest.raises(Invalid, match="run_at"):
            client.jobs.submit("greet", run_at=dt.datetime(2030, 1, 1))  # no time zone
    blocking = [(seen.method, seen.path, seen.body) for seen in service.seen]
    service.seen.clear()

    async def ask() -> None:
        async with AsyncRaymill(service.url, "rk", retry=fast) as client:
            await client.jobs.submit("greet", {"words": 2}, priority="high")
            await client.jobs.redrive(states=["failed"], error="disk")
            await client.jobs.stats()
            assert [queue.name async for queue in client.queues.list()] == ["short"]
            await client.queues.set("short", max_running=4)
            for resource in (client.jobs, client.pipelines):
                await resource.pause(ID)
                await resource.resume(ID)
                with pytest.raises(Clash):
                    await resource.retry(ID)

    asyncio.run(ask())
    assert [(seen.method, seen.path, seen.body) for seen in service.seen] == blocking
    assert blocking[0][2]["priority"] == 2
