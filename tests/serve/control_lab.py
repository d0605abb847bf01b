"""What the tests of job control over HTTP share: an operator's client, and jobs that end as told."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlalchemy import select, text, update
from tests.registry.making import World

from raymill.client import types
from raymill.registry import jobs
from raymill.registry.jobs import Claimed, Done, ErrorClass
from raymill.registry.tables import AuditEvent, Job, Role

API = "/api/v1"
WS = f"{API}/ws"
BROKE = "it broke (unexpected error 1 of 1)"
LISTENING = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %'"
)
NOBODY = str(uuid.UUID(int=1))


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYMILL_KINDS", "tests.serve.control_kinds")


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
