"""Recipes become pipelines over HTTP, and their progress is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from tests.registry.making import World, claim_one, make_pipeline, step, succeed
from tests.serve.api_lab import API, NOBODY, admin, count, error_of, recipe, stranger

from raymill.client import types
from raymill.cluster.job_logs import job_log
from raymill.cluster.settings import Settings
from raymill.registry import jobs
from raymill.registry.tables import AuditEvent, Job, Pipeline

__all__ = ["admin", "stranger"]  # fixtures


def test_a_recipe_becomes_a_pipeline_whose_jobs_are_written(
    admin: TestClient, world: World, tmp_path: Path
) -> None:
    response = admin.post(f"{API}/pipelines", json={"recipe": recipe(tmp_path)})
    assert response.status_code == 202
    made = types.Pipeline.model_validate(response.json())
    assert [job.step for job in made.jobs] == [
        "dataset",
        "base",
        "evaluate-base",
        "train",
        "evaluate",
        "quantize",
        "evaluate-quantized",
        "promote",
        "serve",
    ]
    assert made.created_by == "admin"
    assert made.recipe["train"]["epochs"] == 3  # resolved
    assert admin.get(f"{API}/pipelines/{made.id}").json() == response.json()
    cancelled = types.Pipeline.model_validate(admin.post(f"{API}/pipelines/{made.id}/cancel").json())
    assert {job.state for job in cancelled.jobs} == {"cancelled"}
    assert admin.get(f"{API}/pipelines/{made.id}").json()["state"] == "cancelled"
    assert count(world, Pipeline) == 1


def test_a_key_makes_a_submission_safe_to_repeat(admin: TestClient, world: World, tmp_path: Path) -> None:
    headers = {"idempotency-key": "k1"}
    body = {"recipe": recipe(tmp_path)}
    first = admin.post(f"{API}/pipelines", json=body, headers=headers)
    assert admin.post(f"{API}/pipelines", json=body, headers=headers).json()["id"] == first.json()["id"]
    other = {"recipe": recipe(tmp_path, model="other")}
    refused = admin.post(f"{API}/pipelines", json=other, headers=headers)
    assert (refused.status_code, error_of(refused)["code"]) == (409, "conflict")
    assert count(world, Pipeline) == 1


def test_a_dry_run_shows_everything_and_writes_nothing(
    admin: TestClient, world: World, tmp_path: Path
) -> None:
    before = count(world, AuditEvent)
    response = admin.post(f"{API}/pipelines", json={"recipe": recipe(tmp_path), "dry_run": True})
    assert response.status_code == 200
    plan = types.Plan.model_validate(response.json())
    assert plan.steps[-1].step == "serve"
    assert len(plan.steps[0].config["train_sha256"]) == 64
    assert (count(world, Pipeline), count(world, Job), count(world, AuditEvent)) == (0, 0, before)


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"train": {"epochs": 0}}, "train.epochs", "0"),
        ({"train": {"epoch": 3}}, "train.epoch", ""),
        ({"base": {}}, "base", "needs exactly one of pretrain, path and hub"),
        ({"base": {"pretrain": {"text": "corpus.txt"}}}, "base.pretrain.text", "must be an absolute path"),
        ({"base": {"pretrain": {"text": "/x", "heads": "x"}}}, "base.pretrain.heads", "x"),
        ({"dataset": {"train": "/no/such", "test": "/no/such"}}, "dataset.train", "no such file: /no/such"),
        ({"model": "Triage!"}, "model", "Triage!"),
        ({"promote": {"require": {"other": {"at_least": 1}}}}, "promote.require.other", "is not measured"),
        (
            {"serve": {"engine": "llama_cpp", "quantization": "Q6_K"}},
            "serve.quantization",
            "add it to quantize",
        ),
    ],
)
def test_a_broken_recipe_is_refused_with_the_key_the_value_and_the_cure(
    admin: TestClient, world: World, tmp_path: Path, changes: dict[str, Any], param: str, words: str
) -> None:
    response = admin.post(f"{API}/pipelines", json={"recipe": recipe(tmp_path, **changes)})
    assert response.status_code == 422
    error = error_of(response)
    assert error["param"] == param
    assert words in error["message"]
    assert count(world, Pipeline) == 0


def test_a_data_set_must_lie_where_the_server_sees_it(
    admin: TestClient, world: World, tmp_path: Path
) -> None:
    recipe(tmp_path)
    body = {"name": "mine", "train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl")}
    for key, path in (("train", "/no/such"), ("test", "test.jsonl"), ("train", str(tmp_path))):
        refused = admin.post(f"{API}/datasets", json={**body, key: path})
        assert (refused.status_code, error_of(refused)["param"]) == (422, key)
    assert count(world, Pipeline) == 0
    made = admin.post(f"{API}/datasets", json=body)
    assert made.status_code == 202
    assert [(job["step"], job["kind"]) for job in made.json()["jobs"]] == [("dataset", "dataset")]


def frames(response: Response) -> list[dict[str, str]]:
    return [
        dict(line.split(": ", 1) for line in frame.splitlines())
        for frame in response.text.strip().split("\n\n")
    ]


def test_a_stream_tells_all_ends_and_resumes_after_the_last_id(admin: TestClient, world: World) -> None:
    pipeline = make_pipeline(world.database, step("a"))
    job = claim_one(world.database)
    with world.database.transaction() as session:
        jobs.add_events(session, job, [("step", {"step": 1, "loss": 0.5}), ("log", {"text": "two\nlines"})])
    succeed(world.database, job)
    for path in (f"pipelines/{pipeline.id}", f"jobs/{job.id}"):
        response = admin.get(f"{API}/{path}/events")
        assert response.headers["content-type"].startswith("text/event-stream")
        told = frames(response)
        assert [frame["event"] for frame in told] == ["state", "state", "step", "log", "state", "end"]
        events = [types.JobEvent.model_validate(json.loads(frame["data"])) for frame in told[:-1]]
        assert [str(event.id) for event in events] == [frame["id"] for frame in told[:-1]]
        assert events[3].data == {"text": "two\nlines"}
        rest = frames(admin.get(f"{API}/{path}/events", headers={"last-event-id": told[2]["id"]}))
        assert rest == told[3:]
        again = frames(admin.get(f"{API}/{path}/events", headers={"last-event-id": "nonsense"}))
        assert again == told
    assert admin.get(f"{API}/jobs/{NOBODY}/events").status_code == 404


def test_a_log_is_read_piece_by_piece(admin: TestClient, world: World) -> None:
    make_pipeline(world.database)
    job = claim_one(world.database)
    url = f"{API}/jobs/{job.id}/logs"
    assert admin.get(url).json() == {"text": "", "next": 0, "ended": False}
    log = job_log(Settings(home=world.home), job.id, 1)
    log.parent.mkdir(parents=True)
    log.write_text("één\n")
    assert admin.get(url).json() == {"text": "één\n", "next": 6, "ended": False}
    succeed(world.database, job)
    assert admin.get(url, params={"after": 6}).json() == {"text": "", "next": 6, "ended": True}
    assert admin.get(url, params={"attempt": 7}).json() == {"text": "", "next": 0, "ended": True}
