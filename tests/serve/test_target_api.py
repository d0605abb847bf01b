"""Targets over HTTP: what is asked for, who may, the job from its claim to its scores, and how they stand beside versions."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select
from tests.evaluate.remote import number_of, right, rows, says
from tests.lines import json_lines
from tests.registry.making import ADA, HELDOUT, World, claim_one, make_pipeline, succeed
from tests.serve.scripted_upstream import Script, scripted

from raymill.cluster.context import LocalContext
from raymill.cluster.kinds import KINDS
from raymill.evaluate import target_job
from raymill.registry import identity
from raymill.registry.catalog import scores_of
from raymill.registry.comparison import find_version_target
from raymill.registry.database import Database
from raymill.registry.identity import key_sha256
from raymill.registry.jobs import StepSpec
from raymill.registry.tables import ApiKey, Evaluation, Role, Usage

API = "/api/v1/evaluations"
LLM = "support-triage"


@pytest.fixture
def client(app: FastAPI, world: World) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as connected:
        connected.headers["authorization"] = f"Bearer {world.add_key(Role.OPERATOR)}"
        yield connected


@pytest.fixture
def upstream() -> Iterator[Script]:
    with scripted() as script:
        yield script


class Running(LocalContext):
    """As the engine gives it: with a database, and checks between."""

    opened: Database

    @property
    def database(self) -> Database:
        return self.opened


def registered(world: World, count: int) -> str:
    """A data set for measuring, of so many held-out rows."""
    step = StepSpec(step="dataset", kind="dataset", queue="short", config={})
    pipeline = make_pipeline(world.database, step, name="colours")
    lines = json_lines(rows(count)).encode()
    data = world.publish("dataset", "colours", {"test.jsonl": lines})
    about = {"train_rows": 0, "test_rows": count, "format": "messages", "purpose": "evaluation"}
    world.end(pipeline, "dataset", data, artifact=data.name, **about)
    return "colours"


def run_one(world: World, job_id: str) -> dict[str, Any]:
    """Claim the job, do its work and end it, as the engine does. Its result."""
    claimed = claim_one(world.database, queue="heavy")
    assert str(claimed.id) == job_id
    context = Running(
        world.home, job_id=job_id, name=claimed.name, address=claimed.address or "", config=claimed.config
    )
    context.opened = world.database
    outcome = KINDS[claimed.kind].load()(context)
    succeed(world.database, claimed, dict(outcome.result), outcome.artifacts)
    return dict(outcome.result)


def record_usage(world: World, seen: Any, cost: int) -> None:
    """What the gateway records of a request."""
    digest = key_sha256(seen.headers["authorization"].removeprefix("Bearer "))
    with world.database.transaction() as session:
        key = session.scalars(select(ApiKey).where(ApiKey.key_sha256 == digest)).one()
        assert key.account.name == "operator"
        assert key.revoked_at is None
        session.add(
            Usage(
                id=uuid.uuid4(), request_id=seen.headers["x-request-id"], at=dt.datetime.now(dt.UTC),
                replica_id=uuid.uuid4(), key_id=key.id, account_id=key.account_id, operation="chat", route="m",
                provider="p", model="m", status=200, outcome="ok", stream=False, attempts=1, prompt_tokens=10,
                cached_tokens=0, completion_tokens=5, estimated=False, cost_micro_usd=cost, priced=True,
                latency_ms=1.0, overhead_ms=0.1,
            )
        )  # fmt: skip


def judged(client: TestClient, world: World, upstream: Script) -> None:
    """A judge prefers what is not mauve, and marks it so."""

    def prefers(seen: Any) -> str:
        record_usage(world, seen, 2)
        text = seen.body["messages"][1]["content"]
        if "<answer>" in text:
            return json.dumps({"reason": "so", "mark": 1 if "mauve" in text else 5})
        first = text.partition("<second_answer>")[0]
        word = "tie" if "mauve" not in text else "second" if "mauve" in first else "first"
        return json.dumps({"reason": "mauve is wrong", "verdict": word})

    upstream.on("judge", says(prefers))
    asked = {"a": "gateway:openai/gpt", "b": "gateway:small", "judge": "judge", "task": HELDOUT}
    pairwise = client.post(f"{API}/judge", json=asked)
    assert pairwise.status_code == 202, pairwise.text
    result = run_one(world, pairwise.json()["jobs"][0]["id"])
    assert (result["wins"], result["ties"], result["losses"], result["verdict"]) == (9, 3, 0, "better")
    assert (result["position_bias"]["rate"], result["win_rate"]) == (0.0, 10.5 / 12)
    assert result["usage"]["cost_micro_usd"] == 2 * 24
    rubric = {"a": "gateway:small", "judge": "judge", "kind": "rubric", "rubric": "Right?", "name": "right"}
    run_one(world, client.post(f"{API}/judge", json=rubric).json()["jobs"][0]["id"])
    (standing,) = client.get(f"{API}/leaderboard", params={"task": "right"}).json()["standings"]
    assert (standing["version"], standing["score"], standing["note"]) == ("gateway:small", 0.25, None)
    missing = client.post(f"{API}/judge", json={**asked, "task": "mmlu"})
    assert (missing.status_code, "evaluate it on mmlu first" in missing.text) == (404, True)


def test_a_model_behind_the_gateway_is_measured_compared_and_paid_for(
    client: TestClient, world: World, upstream: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = registered(world, 12)
    monkeypatch.setattr(target_job, "gateway_url", lambda: f"{upstream.url}/v1")

    def answer(cost: int, wrong: int) -> Any:
        def said(seen: Any) -> str:
            assert seen.headers["idempotency-key"] == seen.headers["x-request-id"]
            record_usage(world, seen, cost)
            return "mauve" if number_of(seen) < wrong else right(seen)

        return says(said)

    for model, cost, wrong in (("openai/gpt", 7, 0), ("small", 1, 9)):
        upstream.on(model, answer(cost, wrong))
        body = {"target": f"gateway:{model}", "tasks": [HELDOUT, "heldout_f1"], "dataset": data}
        sent = client.post(API, json={**body, "ask": {"concurrency": 4}})
        assert sent.status_code == 202, sent.text
        (job,) = sent.json()["jobs"]
        assert (job["kind"], job["queue"], sent.json()["name"]) == (
            "evaluate_target",
            "heavy",
            model.replace("/", "-"),
        )
        result = run_one(world, job["id"])
        assert result["usage"]["cost_micro_usd"] == 12 * cost
        assert result["tasks"][HELDOUT]["cost_micro_usd"] == 12 * cost
    with world.database.transaction() as session:
        made = session.scalars(select(ApiKey).where(ApiKey.name.like("job %"))).all()
        assert len(made) == 2
        assert all(key.revoked_at and key.expires_at for key in made)
        keys = [key.key_sha256 for key in made]
    kept = b"".join(path.read_bytes() for path in world.home.rglob("*") if path.is_file())
    assert not any(digest.encode() in kept for digest in keys)
    board = client.get(f"{API}/leaderboard", params={"task": HELDOUT}).json()["standings"]
    assert [(each["version"], each["score"], each["cost_micro_usd"]) for each in board] == [
        ("gateway:openai/gpt", 1.0, 84),
        ("gateway:small", 0.25, 12),
    ]
    assert board[0]["low"] is not None
    assert (board[0]["backend"], board[0]["prompt_tokens"], board[0]["dataset"]) == (
        "generation",
        120,
        "colours@1",
    )
    both = client.get(f"{API}/compare", params={"a": "gateway:openai/gpt", "b": "gateway:small"}).json()
    assert {each["task"]: each["verdict"] for each in both["tasks"]}[HELDOUT] == "better"

    judged(client, world, upstream)
    unknown = client.get(f"{API}/compare", params={"a": "gateway:other", "b": "gateway:small"})
    assert (unknown.status_code, "was never measured" in unknown.text) == (404, True)


def test_only_an_admin_names_an_address_and_what_cannot_be_is_refused(
    client: TestClient, world: World
) -> None:
    world.make_version()
    url = "http://10.0.0.1:8001/v1#m"
    refused = [
        ({"target": url, "dataset": LLM}, 403, "only an admin's word names an address"),
        ({"target": "gateway:m"}, 422, "gateway:m has none of its own: name a data set"),
        ({"target": "gateway:m", "dataset": "nobody"}, 404, "no data set 'nobody'"),
        (
            {"target": "gateway:m", "tasks": [{"benchmark": "mmlu", "file": "/m.jsonl"}]},
            422,
            "mmlu needs likelihoods of given text, and gateway:m only answers",
        ),
        ({"target": "gateway:m", "tasks": [{"bfcl": "/nowhere.jsonl"}]}, 422, "no such file: /nowhere.jsonl"),
        ({"target": f"{LLM}@9"}, 404, "its newest version is 1"),
        ({"target": f"{LLM}@1:Q8_0", "tasks": [{"lm_eval": "arc_easy"}]}, 422, "is not run on GGUF files"),
    ]
    for body, status, reason in refused:
        answer = client.post(API, json=body)
        assert (answer.status_code, reason in answer.text) == (status, True), answer.text
    with world.database.transaction() as session:
        identity.create_account(session, "root", Role.ADMIN, ADA)
        client.headers["authorization"] = f"Bearer {identity.create_key(session, 'root', 'k', ADA)[1]}"
    made = client.post(API, json={"target": url, "dataset": LLM, "key_env": "RAYMILL_TARGET_KEY_A"})
    assert made.status_code == 202, made.text
    metadata = client.post(API, json={"target": "http://169.254.169.254/v1#m", "dataset": LLM})
    assert (metadata.status_code, "link-local" in metadata.text) == (422, True)


def test_what_is_measured_beside_a_recipe_has_no_say_in_a_promotion(client: TestClient, world: World) -> None:
    world.make_version(right=[True] * 10 + [False] * 30)
    sent = client.post(API, json={"target": f"{LLM}@1", "tasks": [HELDOUT], "limit": 10})
    assert sent.status_code == 202, sent.text
    claimed = claim_one(world.database, queue="heavy")
    config = claimed.config
    assert (config["version"]["number"], config["version"]["file"], config["dataset"]["name"]) == (1, "", LLM)
    quantized = client.post(API, json={"target": f"{LLM}@1:Q8_0", "tasks": [HELDOUT]})
    assert quantized.status_code == 202, quantized.text
    told = {"metrics": {HELDOUT: 1.0}, "samples": {HELDOUT: 10}, "backends": {HELDOUT: "generation"}}
    succeed(world.database, claimed, {"digest": "0" * 64, **told, "tasks": {}})
    with world.database.transaction() as session:
        target = find_version_target(session, f"{LLM}@1")
        newest = session.scalars(select(Evaluation).order_by(Evaluation.id.desc())).first()
        assert newest is not None
        assert (newest.artifact_name, newest.score) == (target.artifact_name, 1.0)
        assert scores_of(session, target.artifact_name)[""] == {HELDOUT: 0.25}
    board = client.get(f"{API}/leaderboard", params={"model": LLM}).json()["standings"]
    assert {each["version"]: each["score"] for each in board}[f"{LLM}@1"] == 1.0
    assert not world.promote(1, require={HELDOUT: {"at_least": 0.9}}).allowed
