"""Searches over HTTP: planned from a recipe, read with their trials, drawn."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from tests.registry.making import World
from tests.serve.api_lab import recipe
from tests.serve.control_app import app_of

from raymill.cluster.settings import Settings
from raymill.registry import trials
from raymill.registry.tables import Job, JobState, Role, TrialState
from raymill.registry.trials import TrialRecord
from raymill.serve.api.context import Parts

API = "/api/v1"
TUNE: dict[str, Any] = {
    "over": {
        "train.learning_rate": {"loguniform": [1e-5, 1e-2]},
        "train.lora": {"choice": [None, {"r": 8}]},
        "train.batch": {"integers": [8, 32]},
    },
    "trials": 3,
}
VALUES: tuple[dict[str, Any], ...] = (
    {"train.learning_rate": 1e-3, "train.lora": None, "train.batch": 8},
    {"train.learning_rate": 1e-4, "train.lora": {"r": 8}, "train.batch": 32},
    {"train.learning_rate": 9e-3, "train.lora": {"r": 8}, "train.batch": 16},
)


@pytest.fixture
def client(world: World) -> Iterator[TestClient]:
    app = app_of(Parts(settings=Settings(home=world.home), database=world.database))
    with TestClient(app, raise_server_exceptions=False) as connected:
        connected.headers["authorization"] = f"Bearer {world.add_key(Role.OPERATOR)}"
        yield connected


@pytest.fixture
def search(client: TestClient, world: World, tmp_path: Path) -> uuid.UUID:
    """A search that runs, with a trial of each state."""
    answer = client.post(f"{API}/pipelines", json={"recipe": recipe(tmp_path, tune=TUNE)})
    assert answer.status_code == 202, answer.text
    with world.database.transaction() as session:
        job = session.scalars(select(Job).where(Job.kind == "tune")).one()
        job.state, job.epoch, job.lease_until = JobState.RUNNING, 1, job.created_at
        session.flush()
        for number, (values, state) in enumerate(
            zip(VALUES, (TrialState.FINISHED, TrialState.STOPPED, TrialState.FAILED), strict=True), start=1
        ):
            losses = [] if state is TrialState.FAILED else [2.0 / number, 1.0 / number]
            reports = [{"steps": 5 * at, "validation_loss": loss} for at, loss in enumerate(losses, start=1)]
            record = TrialRecord(
                number=number,
                config=values,
                state=state,
                steps=10 if losses else 0,
                total_steps=10,
                metric=losses[-1] if losses else None,
                reports=reports,
            )
            trials.save(session, job.id, 1, record)
        return job.id


def test_a_recipe_with_a_search_trains_by_a_search(client: TestClient, tmp_path: Path) -> None:
    body = {"recipe": recipe(tmp_path, tune=TUNE), "dry_run": True}
    steps = {step["step"]: step for step in client.post(f"{API}/pipelines", json=body).json()["steps"]}
    assert steps["train"]["kind"] == "tune"
    assert set(steps["train"]["config"]) == {"train", "tune"}
    assert steps["train"]["config"]["tune"]["over"] == TUNE["over"]


def test_a_field_that_cannot_be_searched_is_named(client: TestClient, tmp_path: Path) -> None:
    wrong = TUNE | {"over": {"train.learning_rat": {"choice": [1]}}}
    answer = client.post(f"{API}/pipelines", json={"recipe": recipe(tmp_path, tune=wrong)})
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "tune.over.train.learning_rat"
    assert "did you mean learning_rate?" in answer.json()["error"]["message"]


def test_a_search_shows_its_trials_while_it_runs(client: TestClient, search: uuid.UUID) -> None:
    (listed,) = client.get(f"{API}/searches").json()["data"]
    assert (listed["id"], listed["size"], listed["over_trials"], listed["steps"]) == (str(search), 3, 3, 20)
    assert listed["trials"] == []
    found = client.get(f"{API}/searches/{search}").json()
    assert [trial["state"] for trial in found["trials"]] == ["finished", "stopped", "failed"]
    assert [trial["config"] for trial in found["trials"]] == list(VALUES)
    assert client.get(f"{API}/searches/{found['pipeline_id']}").json() == found
    assert client.get(f"{API}/searches/{uuid.UUID(int=1)}").status_code == 404


@pytest.mark.parametrize("kind", ["curves", "parallel"])
def test_a_search_is_drawn(client: TestClient, search: uuid.UUID, kind: str) -> None:
    svg = client.get(f"{API}/searches/{search}/plot", params={"kind": kind})
    assert svg.headers["content-type"] == "image/svg+xml"
    assert b"<svg" in svg.content
    assert (b"learning_rate" if kind == "parallel" else b"validation loss") in svg.content
    assert client.get(f"{API}/searches/{search}/plot", params={"kind": kind}).content == svg.content
    png = client.get(f"{API}/searches/{search}/plot", params={"kind": kind, "format": "png"})
    assert png.content.startswith(b"\x89PNG")


def test_a_search_without_trials_is_drawn_too(client: TestClient, tmp_path: Path, world: World) -> None:
    client.post(f"{API}/pipelines", json={"recipe": recipe(tmp_path, tune=TUNE)})
    with world.database.transaction() as session:
        job_id = session.scalars(select(Job.id).where(Job.kind == "tune")).one()
    for kind in ("curves", "parallel"):
        assert client.get(f"{API}/searches/{job_id}/plot", params={"kind": kind}).status_code == 200
