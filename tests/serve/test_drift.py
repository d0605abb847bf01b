"""Watches for drift over HTTP, their looks as the engine runs them, and what follows; only the served model is a twin."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from ray.exceptions import ActorDiedError, GetTimeoutError, RayTaskError
from ray.serve.exceptions import RayServeException
from sqlalchemy import select, update
from tests.lines import write_lines
from tests.registry.making import ADA, World, claim
from tests.registry.using import make_account, usage
from tests.serve.dataset_lab import API, connected, error_of

from raymill.cluster.attempt import open_attempt
from raymill.cluster.settings import Settings
from raymill.policies.errors import Conflict
from raymill.registry import canary_looks, promotion
from raymill.registry.canary_config import CanaryConfig
from raymill.registry.tables import (
    Alias,
    AuditEvent,
    Deployment,
    DeploymentState,
    DriftWatch,
    Job,
    Promotion,
    PromotionState,
    Role,
    Trace,
    TriggerEvent,
)
from raymill.serve import drift
from raymill.serve.canary import is_away
from raymill.serve.llm.answer import Reply, encode
from raymill.serve.triggers import TriggerLoop

NAME = "support-triage"
WORDS = ["parcel", "invoice", "screen", "refund", "order", "broken", "late", "wrong"]


class Model:
    """Answers with the last word of what it is asked, or not."""

    def __init__(self) -> None:
        self.right = 1.0
        self.worse: dict[str, float] = {}
        """Of single applications."""
        self.asked: list[dict[str, Any]] = []

    def __call__(self, application: str, body: dict[str, Any]) -> Reply:
        self.asked.append({"application": application, **body})
        number = int(body["messages"][-1]["content"].split()[0])
        right = self.worse.get(application, self.right)
        said = body["messages"][-1]["content"].split()[-1] if number < 60 * right else "no idea"
        return encode({"choices": [{"message": {"role": "assistant", "content": said}}]})


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    made = Model()
    monkeypatch.setattr(drift, "ask_engine", lambda: made)
    return made


@pytest.fixture
def served(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Two versions; production went from the first to the second, which is served."""
    monkeypatch.setenv("RAYMILL_HOME", str(world.home))
    for number in (world.make_version(), world.make_version()):
        assert world.promote(number).allowed
    world.serve()
    with world.database.transaction() as session:
        row = session.scalars(select(Deployment)).one()
        row.serving_version_id = session.scalars(select(Alias)).one().version_id
    return world


@pytest.fixture
def client(served: World) -> Iterator[TestClient]:
    with connected(served, Role.APPROVER) as found:
        yield found


@pytest.fixture
def canaries(tmp_path: Path) -> Path:
    path = tmp_path / "canaries.jsonl"
    rows = []
    for number in range(60):
        word = WORDS[number % len(WORDS)]
        turns = [("user", f"{number} say {word}"), ("assistant", word)]
        rows.append({"messages": [{"role": role, "content": content} for role, content in turns]})
    return write_lines(path, rows)


def add(client: TestClient, name: str = "watch", **config: Any) -> dict[str, Any]:
    answer = client.post(f"{API}/drift", json={"name": name, "config": config})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def run_all(world: World) -> None:
    settings = Settings(home=world.home)
    for queue in ("short", "hooks"):
        for job in claim(world.database, queue=queue, limit=10):
            if job.kind.startswith("drift"):
                open_attempt(world.database, settings, job.id, job.epoch, "w1").run()


def look(client: TestClient, world: World, name: str = "watch", **body: Any) -> dict[str, Any]:
    job_id = client.post(f"{API}/drift/{name}/run", json=body).raise_for_status().json()["job_id"]
    run_all(world)
    with world.database.transaction() as session:
        job = session.scalars(select(Job).where(Job.id == job_id)).one()
        assert job.state == "succeeded", job.error
    found: dict[str, Any] = client.get(f"{API}/drift/{name}/runs").json()["data"][0]
    assert found["job_id"] == job_id
    return found


def told(world: World) -> list[str]:
    with world.database.transaction() as session:
        rows = session.scalars(select(TriggerEvent).where(TriggerEvent.on == "drift"))
        return [row.data["about"]["severity"] for row in rows]


def production(world: World) -> tuple[int, str | None]:
    with world.database.transaction() as session:
        row = session.scalars(select(Alias)).one()
        return row.version.number, row.frozen_reason


def test_a_drop_of_canaries_is_told_once_and_freezes_the_alias(
    client: TestClient, served: World, model: Model, canaries: Path
) -> None:
    target = f"{NAME}@production"
    canary = {"file": str(canaries), "measure": "exact_match"}
    made = add(client, target=target, canary=canary, on_major="freeze")
    assert len(made["config"]["canary"]["sha256"]) == 64
    first = look(client, served)
    assert (first["severity"], first["baseline"], first["version"]) == ("none", True, 2)
    assert (first["canary"]["mean"], first["canary"]["prompts"]) == (1.0, 60)
    assert {each["application"] for each in model.asked} == {f"llm-{NAME}-2"}
    assert model.asked[0]["temperature"] == 0

    model.right = 0.6
    second = look(client, served)
    assert (second["severity"], second["news"], second["action"]) == ("major", True, "freeze")
    assert second["canary"]["compared"]["difference"] == pytest.approx(-0.4)
    low, high = second["canary"]["compared"]["interval"]
    assert -0.55 < low < -0.4 < high < -0.25
    assert "canary exact_match is 0.600 and was 1.000" in second["reasons"][0]
    assert production(served)[0] == 2
    assert (production(served)[1] or "").startswith("major drift by watch: canary exact_match is 0.600")
    with pytest.raises(Conflict, match=r"support-triage@production was frozen by approver .major drift"):
        served.promote(1)
    third = look(client, served)  # no worse than before: nobody is told again
    assert (third["severity"], third["news"], third["action"]) == ("major", False, "")
    assert told(served) == ["major"]
    events = client.get(f"{API}/drift/events").json()["data"]
    assert [each["id"] for each in events] == [third["id"], second["id"]]

    client.post(f"{API}/llms/{NAME}/aliases/production/unfreeze").raise_for_status()
    assert served.promote(1).allowed
    assert look(client, served, baseline=True)["severity"] == "none"
    assert look(client, served)["canary"]["compared"]["difference"] == 0
    asked = [
        client.post(f"{API}/drift/watch/run", json={"baseline": baseline}).json()["job_id"]
        for baseline in (False, True, False, True)
    ]
    assert asked[0] == asked[2] != asked[1] == asked[3]  # a look that has not begun is none of a new baseline
    with served.database.transaction() as session:
        actions = session.scalars(select(AuditEvent.action).order_by(AuditEvent.seq)).all()
    assert [each for each in actions if each.startswith(("drift", "alias.f", "alias.u"))] == [
        "drift.create",
        "drift.find",
        "alias.freeze",
        "alias.unfreeze",
        "drift.find",
    ]


def test_an_engine_that_fails_at_a_question_is_not_away() -> None:
    away = (
        ActorDiedError(),
        GetTimeoutError(),
        RayServeException("no instance"),
        ConnectionError(),
        TimeoutError(),
    )
    assert all(map(is_away, away))
    failed = RayTaskError("chat", "traceback", ValueError("too long")).as_instanceof_cause()
    assert not any(map(is_away, (failed, TypeError("ours"))))


def test_drift_rolls_the_alias_back_through_policy_and_signature(
    client: TestClient, served: World, model: Model, canaries: Path
) -> None:
    add(client, target=f"{NAME}@production", canary={"file": str(canaries)}, on_major="rollback")
    look(client, served)
    model.right = 0.0
    assert look(client, served)["action"] == "rollback"
    run_all(served)
    assert production(served) == (1, None)
    with served.database.transaction() as session:
        job = session.scalars(select(Job).where(Job.kind == "drift_rollback")).one()
        assert job.state == "succeeded", job.error
        assert job.result is not None
        assert job.result["reason"].startswith("major drift by watch: canary f1 is 0.000 and was 1.000")
        assert job.result["promotion_id"]


def test_a_canary_is_asked_beside_its_alias_and_taken_back_when_it_does_worse(
    client: TestClient, served: World, model: Model, canaries: Path
) -> None:
    add(client, target=f"{NAME}@production", canary={"file": str(canaries)}, on_major="freeze")
    look(client, served)
    number = served.make_version()
    model.worse[f"llm-{NAME}-{number}"] = 0.2
    asked = promotion.promote(
        served.database,
        served.store,
        served.keys_dir,
        llm=NAME,
        number=number,
        alias="production",
        require={},
        actor=ADA,
        canary=CanaryConfig(share=0.1),
    )
    with served.database.transaction() as session:
        canary_looks.report(session, asked.id, DeploymentState.STARTING, "")
        canary_looks.report(session, asked.id, DeploymentState.READY, "")
    run_all(served)
    tried, present, _ = client.get(f"{API}/drift/watch/runs").json()["data"]
    if tried["version"] == 2:  # they run side by side
        tried, present = present, tried
    assert (present["version"], present["severity"], present["promotion_id"]) == (2, "none", None)
    assert (tried["version"], tried["severity"], tried["promotion_id"]) == (number, "major", str(asked.id))
    assert (tried["news"], tried["action"], tried["baseline"]) == (False, "", False)
    assert production(served) == (2, None)  # not frozen: the alias is at the version that does well
    canary_looks.due(served.database)
    with served.database.transaction() as session:
        row = session.get_one(Promotion, asked.id)
        assert row.state is PromotionState.ABORTED
        assert (row.note or "").startswith("major drift by watch: canary f1 is 0.200 and was 1.000")
    assert look(client, served)["promotion_id"] is None  # the alias alone is asked now


def keep(key: Any, at: dt.datetime, asked: str, said: str, tokens: int) -> tuple[Any, Trace]:
    row = usage(key, at=at, prompt_tokens=len(asked.split()), completion_tokens=tokens)
    trace = Trace(
        usage_id=row.id,
        request_id=row.request_id,
        account_id=row.account_id,
        route=row.route,
        at=at,
        prompt={"model": "support", "messages": [{"role": "user", "content": asked}]},
        answer={
            "body": {
                "choices": [{"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}]
            }
        },
    )
    return row, trace


def test_a_shift_of_what_a_route_is_asked_is_found_on_a_schedule(client: TestClient, served: World) -> None:
    _, key = make_account(served.database, "ann")
    now, rng = dt.datetime.now(dt.UTC), np.random.default_rng(0)
    english = "please tell me where the {} is and when it will be here"
    german = (
        "bitte sag mir, wo die Bestellung ist und wann sie hier sein wird, denn ich habe lange gewartet {}"
    )
    with served.database.transaction() as session:
        for number in range(240):
            recent = number >= 120
            hours = rng.uniform(0.1, 23) if recent else rng.uniform(25, 160)
            words = " ".join(rng.choice(WORDS, int(rng.integers(1, 6))))
            asked = (german if recent and number % 2 else english).format(words)
            tokens = int(rng.integers(5, 30))
            session.add_all(keep(key, now - dt.timedelta(hours=hours), asked, "yes " * tokens, tokens))
    add(client, traffic={"route": "support"}, schedule="0 * * * *")
    with served.database.transaction() as session:
        session.execute(update(DriftWatch).values(next_at=now))
    loop = TriggerLoop(served.database, Settings(home=served.home))
    loop.step()
    loop.step()
    run_all(served)
    (run,) = client.get(f"{API}/drift/watch/runs").json()["data"]
    assert run["severity"] == "major"
    assert run["traffic"]["requests"] == [120, 120]
    shifts = {each["feature"]: each for each in run["traffic"]["shifts"]}
    assert shifts["language"]["severity"] == shifts["prompt_characters"]["severity"] == "major"
    assert shifts["language"]["reference_shares"]["en"] == 1.0
    assert {shifts[name]["severity"] for name in ("answer_tokens", "answer_characters", "finish_reason")} == {
        "none"
    }
    assert any(reason.startswith("language: PSI ") for reason in run["reasons"])
    assert told(served) == ["major"]
    next_at = client.get(f"{API}/drift/watch").json()["next_at"]
    assert dt.datetime.fromisoformat(next_at) > now

    add(client, "quiet", traffic={"route": "nobody"})
    run = look(client, served, "quiet")
    assert run["severity"] == "none"
    assert run["traffic"]["skipped"].startswith("0 requests in the reference and 0 in the recent window, 100")


def test_what_cannot_be_watched_is_refused(client: TestClient, served: World, canaries: Path) -> None:
    def refused(**config: Any) -> tuple[int, str]:
        answer = client.post(f"{API}/drift", json={"name": "bad", "config": config})
        return answer.status_code, answer.json()["error"]["message"]

    canary, traffic = {"file": str(canaries)}, {"route": "support"}
    assert "nothing is watched" in refused()[1]
    assert "canaries are asked of a served version" in refused(canary=canary)[1]
    assert "freeze and rollback are of an alias" in refused(traffic=traffic, on_major="freeze")[1]
    assert refused(target=f"{NAME}@gold", canary=canary)[0] == 404
    assert refused(target=f"{NAME}@1", canary={"file": "/no/such.jsonl"})[0] == 404
    assert refused(target=f"{NAME}@1", canary={"dataset": "none"})[0] == 404
    assert "minor comes first" in refused(traffic={**traffic, "minor": 0.5})[1]
    assert "fields" in refused(traffic=traffic, schedule="soon")[1]
    add(client, traffic=traffic)
    assert (
        error_of(client.post(f"{API}/drift", json={"name": "watch", "config": {"traffic": traffic}}))[0]
        == 409
    )
    with connected(served, Role.OPERATOR) as operator:
        acts = {"target": f"{NAME}@production", "traffic": traffic, "on_minor": "rollback"}
        assert operator.post(f"{API}/drift", json={"name": "x", "config": acts}).status_code == 403
        assert operator.patch(f"{API}/drift/watch", json={"enabled": False}).json()["next_at"] is None
        assert operator.delete(f"{API}/drift/watch").status_code == 200
        assert operator.get(f"{API}/drift").json()["data"] == []
