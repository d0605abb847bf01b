"""Triggers and hooks over HTTP, and the loop that fires them, on a real Postgres and without Ray."""

from __future__ import annotations

import datetime as dt
import json
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlalchemy import func, select, update
from tests.registry.making import World, claim_one, make_pipeline, succeed
from tests.registry.using import add as add_usage
from tests.registry.using import usage
from tests.serve.api_lab import recipe
from tests.serve.control_app import app_of

from raymill.cluster.settings import Settings
from raymill.registry import webhooks
from raymill.registry.jobs import Done, JobSpec, complete, enqueue, history, raw
from raymill.registry.tables import ApiKey, Job, Pipeline, Role, Trigger, TriggerEvent
from raymill.serve import triggers
from raymill.serve.api.context import Parts
from raymill.serve.triggers import TriggerLoop

API = "/api/v1"


@pytest.fixture
def settings(world: World) -> Settings:
    found = Settings(home=world.home)
    found.secret_box.create_if_missing()
    return found


@pytest.fixture
def client(world: World, settings: Settings) -> Iterator[TestClient]:
    app = app_of(Parts(settings=settings, database=world.database))
    with TestClient(app, raise_server_exceptions=False) as connected:
        connected.headers["authorization"] = f"Bearer {world.add_key(Role.OPERATOR)}"
        yield connected


@pytest.fixture
def loop(world: World, settings: Settings) -> TriggerLoop:
    return TriggerLoop(world.database, settings)


def error_of(response: Response) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


def add(client: TestClient, tmp_path: Path, name: str = "nightly", **given: Any) -> dict[str, Any]:
    body = {"name": name, "on": "webhook", "recipe": recipe(tmp_path), **given}
    made: dict[str, Any] = client.post(f"{API}/triggers", json=body).raise_for_status().json()
    return made


def post_signed(client: TestClient, name: str, secret: str, body: bytes = b"{}", **headers: str) -> Response:
    given = {"x-raymill-signature": webhooks.sign(secret, body), "authorization": "", **headers}
    return client.post(f"{API}/triggers/{name}/webhook", content=body, headers=given)


def count(world: World, table: type[Pipeline | TriggerEvent]) -> int:
    with world.database.transaction() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


# --- triggers ---------------------------------------------------------------------------------------------


def test_a_trigger_lives_its_life_over_http(client: TestClient, tmp_path: Path) -> None:
    made = add(client, tmp_path, on="cron", config={"schedule": "0 3 * * *", "timezone": "Europe/Berlin"})
    assert (made["secret"], made["created_by"], made["enabled"]) == (None, "operator", True)
    assert made["next_at"] is not None
    shown = client.get(f"{API}/triggers/nightly").json()
    assert shown == {key: value for key, value in made.items() if key != "secret"}
    assert client.get(f"{API}/triggers?on=cron").json()["data"] == [shown]
    assert client.get(f"{API}/triggers?on=drift").json()["data"] == []
    off = client.patch(f"{API}/triggers/nightly", json={"enabled": False}).json()
    assert (off["enabled"], off["next_at"]) == (False, None)
    assert error_of(client.post(f"{API}/triggers/nightly/fire"))[:2] == (409, "conflict")
    assert client.delete(f"{API}/triggers/nightly").json()["name"] == "nightly"
    assert error_of(client.get(f"{API}/triggers/nightly"))[:2] == (404, "not_found")


def test_the_list_comes_in_pages(client: TestClient, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        add(client, tmp_path, name, on="drift")
    first = client.get(f"{API}/triggers?limit=2").json()
    second = client.get(f"{API}/triggers?limit=2&cursor={first['next_cursor']}").json()
    assert [row["name"] for row in first["data"] + second["data"]] == ["c", "b", "a"]
    assert second["next_cursor"] is None


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": "A b"}, "name"),
        ({"on": "moon"}, "on"),
        ({"on": "cron", "config": {"schedule": "soon"}}, "config.schedule"),
        ({"on": "dataset"}, "config.name"),
        ({"recipe": {"model": "x"}}, "base"),
        ({"recipe_dir": "here"}, "recipe_dir"),
        ({"when": "now"}, "when"),
    ],
)
def test_a_trigger_that_makes_no_sense_is_the_callers_fault(
    client: TestClient, tmp_path: Path, body: dict[str, Any], param: str
) -> None:
    whole = {"name": "x", "on": "webhook", "recipe": recipe(tmp_path), **body}
    assert error_of(client.post(f"{API}/triggers", json=whole)) == (422, "invalid", param)


def test_relative_paths_start_at_the_recipes_folder(
    client: TestClient, tmp_path: Path, loop: TriggerLoop
) -> None:
    whole = recipe(tmp_path)
    whole["dataset"] = {"train": "train.jsonl", "test": "test.jsonl"}
    add(client, tmp_path, recipe=whole, recipe_dir=str(tmp_path))
    client.post(f"{API}/triggers/nightly/fire").raise_for_status()
    assert [fired.error for fired in loop.step()] == [None]


def test_firing_by_hand_is_safe_to_repeat_and_starts_the_recipe(
    client: TestClient, tmp_path: Path, loop: TriggerLoop
) -> None:
    made = add(client, tmp_path)
    for _ in range(2):
        assert (
            client.post(f"{API}/triggers/nightly/fire", headers={"idempotency-key": "k"}).status_code == 202
        )
    (fired,) = loop.step()
    assert loop.step() == []
    shown = client.get(f"{API}/triggers/nightly").json()
    assert (shown["last_pipeline_id"], shown["last_error"]) == (str(fired.pipeline_id), None)
    pipeline = client.get(f"{API}/pipelines/{fired.pipeline_id}").json()
    assert (pipeline["created_by"], pipeline["name"]) == ("operator", "triage")
    assert "train" in [job["step"] for job in pipeline["jobs"]]
    assert made["id"]


def test_a_file_that_is_gone_is_the_triggers_last_error(
    client: TestClient, tmp_path: Path, world: World, loop: TriggerLoop
) -> None:
    add(client, tmp_path)
    (tmp_path / "train.jsonl").unlink()
    client.post(f"{API}/triggers/nightly/fire")
    loop.step()
    assert "no such file" in client.get(f"{API}/triggers/nightly").json()["last_error"]
    assert count(world, Pipeline) == 0


def test_drift_is_told_once_for_each_key(client: TestClient, tmp_path: Path, loop: TriggerLoop) -> None:
    add(client, tmp_path, on="drift", config={"subject": "route/smart"})
    body = {"on": "drift", "subject": "route/smart", "key": "2026-11-25", "data": {"z": 4.2}}
    assert [client.post(f"{API}/triggers/events", json=body).json()["new"] for _ in range(2)] == [True, False]
    assert len(loop.step()) == 1
    assert error_of(client.post(f"{API}/triggers/events", json={**body, "on": "cron"})) == (
        422,
        "invalid",
        "on",
    )


# --- webhooks in ------------------------------------------------------------------------------------------


def test_whoever_has_the_secret_needs_no_account(
    client: TestClient, tmp_path: Path, world: World, loop: TriggerLoop
) -> None:
    secret = add(client, tmp_path)["secret"]
    body = json.dumps({"ref": "main"}).encode()
    answers = [post_signed(client, "nightly", secret, body, **{"x-raymill-delivery": "d1"}) for _ in range(2)]
    assert [(answer.status_code, answer.json()) for answer in answers] == [
        (202, {"new": True}),
        (202, {"new": False}),
    ]
    with world.database.transaction() as session:
        assert session.scalars(select(TriggerEvent)).one().data["about"] == {"ref": "main"}
    assert len(loop.step()) == 1


def test_a_recorded_request_starts_nothing_again(client: TestClient, tmp_path: Path) -> None:
    secret = add(client, tmp_path)["secret"]
    signature = webhooks.sign(secret, b"{}")
    answers = [
        post_signed(client, "nightly", secret, b"{}", **{"x-raymill-signature": signature}) for _ in range(2)
    ]
    assert [answer.json()["new"] for answer in answers] == [True, False]


def test_without_the_secret_nothing_is_let_in_and_nothing_is_learnt(
    client: TestClient, tmp_path: Path, world: World
) -> None:
    secret = add(client, tmp_path)["secret"]
    add(client, tmp_path, "clock", on="cron", config={"schedule": "* * * * *"})
    old = webhooks.sign(secret, b"{}", at=int(time.time()) - 301)
    answers = [
        post_signed(client, "nightly", "wrong"),
        post_signed(client, "nightly", secret, b"{}", **{"x-raymill-signature": old}),
        post_signed(
            client, "nightly", secret, b"{}", **{"x-raymill-signature": webhooks.sign(secret, b"[]")}
        ),
        post_signed(client, "nightly", secret, b"{}", **{"x-raymill-signature": ""}),
        post_signed(client, "clock", secret),
        post_signed(client, "nobody", secret),
        client.post(f"{API}/triggers/nightly/webhook", json={}),  # an account opens nothing here
    ]
    assert {(answer.status_code, answer.json()["error"]["message"]) for answer in answers} == {
        (401, answers[0].json()["error"]["message"])
    }
    assert count(world, TriggerEvent) == 0


@pytest.mark.parametrize("body", [b"[]", b"{", b"\xff", b"7", b"x" * (256 << 10) + b"x"])
def test_a_body_that_is_no_object_or_too_long_is_refused(
    client: TestClient, tmp_path: Path, world: World, body: bytes
) -> None:
    secret = add(client, tmp_path)["secret"]
    assert error_of(post_signed(client, "nightly", secret, body))[:2] == (422, "invalid")
    assert count(world, TriggerEvent) == 0


def test_a_webhook_that_is_disabled_says_so_to_its_sender(client: TestClient, tmp_path: Path) -> None:
    secret = add(client, tmp_path)["secret"]
    client.patch(f"{API}/triggers/nightly", json={"enabled": False})
    assert error_of(post_signed(client, "nightly", secret))[:2] == (409, "conflict")


# --- hooks ------------------------------------------------------------------------------------------------


def test_a_hook_lives_its_life_over_http(client: TestClient, world: World) -> None:
    body = {"name": "tell", "on": ["pipeline.succeeded"], "action": "webhook", "config": {"url": "http://h/"}}
    made = client.post(f"{API}/hooks", json=body).raise_for_status().json()
    assert made["secret"].startswith("rmwh-")
    shown = client.get(f"{API}/hooks/tell").json()
    assert shown == {key: value for key, value in made.items() if key != "secret"}
    assert client.get(f"{API}/hooks").json()["data"] == [shown]
    make_pipeline(world.database)
    succeed(world.database, claim_one(world.database))
    (delivery,) = client.get(f"{API}/hooks/tell/deliveries").json()["data"]
    assert (delivery["kind"], delivery["config"]["event"]) == ("hook_webhook", "pipeline.succeeded")
    assert client.patch(f"{API}/hooks/tell", json={"enabled": False}).json()["enabled"] is False
    assert client.delete(f"{API}/hooks/tell").status_code == 200
    assert error_of(client.get(f"{API}/hooks/tell"))[:2] == (404, "not_found")
    again = client.post(f"{API}/hooks", json=body).raise_for_status().json()
    assert again["id"] != made["id"]
    assert client.get(f"{API}/hooks/tell/deliveries").json()["data"] == []


def test_a_hook_that_moves_aliases_takes_an_approver(client: TestClient, world: World) -> None:
    body = {
        "name": "stage",
        "on": ["pipeline.succeeded"],
        "action": "promote",
        "config": {"alias": "staging"},
    }
    approver = {"authorization": f"Bearer {world.add_key(Role.APPROVER)}"}
    assert error_of(client.post(f"{API}/hooks", json=body))[:2] == (403, "denied")
    assert client.post(f"{API}/hooks", json=body, headers=approver).json()["config"]["require"] == {}
    assert error_of(client.patch(f"{API}/hooks/stage", json={"enabled": False}))[:2] == (403, "denied")
    assert error_of(client.delete(f"{API}/hooks/stage"))[:2] == (403, "denied")
    assert client.delete(f"{API}/hooks/stage", headers=approver).status_code == 200


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"on": ["job.exploded"]}, "on.0"),
        ({"config": {"url": "http://169.254.169.254/"}}, "config.url"),
        ({"action": "dance"}, "action"),
    ],
)
def test_a_hook_that_makes_no_sense_is_the_callers_fault(
    client: TestClient, change: dict[str, Any], param: str
) -> None:
    body = {"name": "x", "on": ["job.dead"], "action": "webhook", "config": {"url": "http://h/"}, **change}
    assert error_of(client.post(f"{API}/hooks", json=body)) == (422, "invalid", param)


def test_a_new_master_key_seals_the_secrets_of_triggers_and_hooks_too(
    client: TestClient, tmp_path: Path, world: World, settings: Settings
) -> None:
    secret = add(client, tmp_path)["secret"]
    admin = {"authorization": f"Bearer {world.add_key(Role.ADMIN)}"}
    old = settings.secret_box.current_id()
    client.post(f"{API}/master-keys/rotate", headers=admin).raise_for_status()
    (settings.secret_box.directory / f"{old}.key").unlink()  # put away
    assert post_signed(client, "nightly", secret).status_code == 202


# --- the loop ---------------------------------------------------------------------------------------------


def test_the_loop_fires_schedules(
    client: TestClient, tmp_path: Path, world: World, loop: TriggerLoop
) -> None:
    add(client, tmp_path, on="cron", config={"schedule": "* * * * *"})
    assert loop.step() == []
    with world.database.transaction() as session:
        session.execute(update(Trigger).values(next_at=Trigger.created_at))
    assert [fired.error for fired in loop.step()] == [None]
    assert loop.step() == []
    assert count(world, Pipeline) == 1


def test_the_loop_tells_of_drift_once_a_day_where_a_trigger_waits_for_it(
    client: TestClient, tmp_path: Path, world: World, loop: TriggerLoop
) -> None:
    with world.database.transaction() as session:
        key = session.scalars(select(ApiKey)).one()
    now, minute = dt.datetime.now(dt.UTC), dt.timedelta(minutes=1)
    rows = [
        usage(key, at=now - minute - ago * dt.timedelta(days=1) - number * minute)
        for ago in range(29)
        for number in range(60 if ago else 300)
    ]
    add_usage(world.database, *rows)
    assert loop.watch() == 0
    add(client, tmp_path, on="drift", config={"subject": "route/support"})
    assert (loop.watch(), loop.watch()) == (1, 0)
    assert [fired.error for fired in loop.step()] == [None]


def test_the_loop_moves_what_has_ended_until_there_is_no_more(
    world: World, loop: TriggerLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triggers, "TIDY_BATCHES", 1)
    old = dt.datetime.now(dt.UTC) - dt.timedelta(days=20)
    young_id = uuid.UUID(int=int(old.timestamp() * 1000) << 80)
    with world.database.transaction() as session:
        enqueue(raw(session), [JobSpec(kind="note", id=young_id), JobSpec(kind="note")])
    for _ in range(2):
        job = claim_one(world.database)
        with world.database.transaction() as session:
            complete(raw(session), [Done(job.id, job.epoch, {})])
    with world.database.transaction() as session:
        session.execute(update(Job).where(Job.id == young_id).values(finished_at=old))
    assert [loop.tidy(), loop.tidy(), loop.tidy()] == [1, 0, 0]
    with world.database.transaction() as session:
        assert history.find(session, young_id) is not None
        assert session.scalar(select(func.count()).select_from(Job)) == 1


def test_the_loop_goes_on_after_a_step_that_failed(
    client: TestClient, tmp_path: Path, world: World, settings: Settings
) -> None:
    add(client, tmp_path)
    failing = TriggerLoop(world.database, settings)
    tried: list[int] = []
    tidy = failing.tidy

    def fail_once() -> int:
        tried.append(1)
        if len(tried) == 1:
            raise RuntimeError("once")
        return tidy()

    failing.tidy = fail_once  # type: ignore[method-assign]
    stopping = threading.Event()
    thread = threading.Thread(target=failing.run, args=(stopping,))
    thread.start()
    client.post(f"{API}/triggers/nightly/fire")
    deadline = time.monotonic() + 60
    while (count(world, Pipeline) == 0 or len(tried) < 2) and time.monotonic() < deadline:
        time.sleep(0.05)
    stopping.set()
    thread.join(60)
    assert (count(world, Pipeline), len(tried)) == (1, 2)
