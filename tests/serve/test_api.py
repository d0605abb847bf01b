"""The control plane's HTTP, on a real Postgres and without Ray."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlalchemy import func, select, text
from tests.registry.making import (
    HELDOUT,
    World,
    claim_one,
    job_of,
    make_pipeline,
    step,
    succeed,
)

from raymill.client import types
from raymill.cluster.job_logs import job_log
from raymill.cluster.settings import Settings
from raymill.policies.engine import RULES, read_rules
from raymill.registry import canary_looks, jobs
from raymill.registry.audit_chain import verify_lines
from raymill.registry.audit_roots import verify_root
from raymill.registry.tables import (
    Account,
    Alias,
    AuditEvent,
    Deployment,
    DeploymentState,
    Job,
    Pipeline,
    Role,
)
from raymill.serve.api.access import ACCESS, OPEN, check_complete, row_of
from raymill.serve.api.app import create_app
from raymill.serve.api.context import Parts, caller
from raymill.serve.registry_source import RegistrySource

API = "/api/v1"
NOBODY = str(uuid.UUID(int=1))


@pytest.fixture
def stranger(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def admin(stranger: TestClient, world: World) -> TestClient:
    """A client with an admin's key; `as_` gives it another one's."""
    stranger.headers["authorization"] = f"Bearer {world.add_key(Role.ADMIN)}"
    return stranger


def error_of(response: Response) -> dict[str, Any]:
    """The error's body, after its shape was checked."""
    body: dict[str, Any] = response.json()["error"]
    assert sorted(body) == ["code", "message", "param", "request_id", "type"]
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["message"]
    return body


def recipe(tmp_path: Path, **changes: object) -> dict[str, Any]:
    for name in ("corpus.txt", "train.jsonl", "test.jsonl"):
        (tmp_path / name).write_text("x\n")
    found: dict[str, Any] = {
        "model": "triage",
        "base": {"pretrain": {"text": str(tmp_path / "corpus.txt")}},
        "dataset": {"train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl")},
        "evaluate": {"tasks": [HELDOUT]},
        "quantize": ["Q8_0"],
        "promote": {"to": "production", "require": {HELDOUT: {"at_least": 0.9}}},
        "serve": {"engine": "llama_cpp", "quantization": "Q8_0"},
    }
    return {**found, **changes}


def count(world: World, table: type[Pipeline | Job | AuditEvent | Account]) -> int:
    with world.database.transaction() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


# --- who may do what --------------------------------------------------------------------------------------


def operations(client: TestClient) -> list[tuple[str, str]]:
    paths: dict[str, dict[str, Any]] = client.get(f"{API}/openapi.json").json()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


def call(client: TestClient, method: str, path: str, key: str | None) -> Response:
    """The operation with ids of nothing and an empty body: past the door it finds nothing."""
    for name in ("pipeline_id", "job_id", "run_id", "key_id", "upload_id", "promotion_id", "session_id"):
        path = path.replace(f"{{{name}}}", NOBODY)
    for name in ("name", "key", "provider", "model", "alias"):
        path = path.replace(f"{{{name}}}", "nobody")
    path = path.replace("{number}", "1")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return client.request(method, path, headers=headers, json={} if method == "POST" else None)


def test_every_route_lets_in_exactly_whom_the_table_says(stranger: TestClient, world: World) -> None:
    keys = {role: world.add_key(role) for role in Role}
    found: dict[str, Role | None] = {}
    for method, path in operations(stranger):
        row = row_of(method, path)
        if path == "/readyz":  # asks Ray Serve, which would be started for it: see tests/e2e
            found[row] = OPEN
            continue
        without = call(stranger, method, path, None)
        if without.status_code != 401 or (method != "HEAD" and "send the header" not in without.text):
            found[row] = OPEN
            continue
        assert call(stranger, method, path, "rm-wrong").status_code == 401, row
        answers = {role: call(stranger, method, path, keys[role]) for role in Role}
        # Past its door a route may say no for another reason.
        allowed = [
            role
            for role, each in answers.items()
            if each.status_code != 403 or (method != "HEAD" and "this takes" not in each.text)
        ]
        assert allowed == list(Role)[-len(allowed) :], row  # the ones above may too
        found[row] = allowed[0]
    assert found == ACCESS


def test_a_route_without_a_row_or_that_does_not_ask_keeps_the_application_from_starting(app: FastAPI) -> None:
    with pytest.raises(RuntimeError, match=r"\['GET /nobodys'\]"):
        check_complete([*app.routes, APIRoute(f"{API}/nobodys", lambda: None)], caller)
    others = [route for route in app.routes if getattr(route, "path", "") != f"{API}/whoami"]
    with pytest.raises(RuntimeError, match=r"\['GET /whoami'\]"):
        check_complete(others, caller)
    with pytest.raises(RuntimeError, match=r"these routes ask who calls .*\['GET /whoami'\]"):
        check_complete([*others, APIRoute(f"{API}/whoami", lambda: None)], caller)


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic YTpi", "rm-wrong", "Bearer é"])
def test_no_header_but_a_bearer_key_opens(stranger: TestClient, header: str) -> None:
    response = stranger.get(f"{API}/jobs", headers={b"authorization": header.encode("latin-1")})
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert error_of(response)["code"] == "unauthenticated"


def test_health_needs_no_key(stranger: TestClient) -> None:
    assert stranger.get("/healthz").json() == {"status": "ok"}


def test_answers_are_hardened_and_large_bodies_refused(stranger: TestClient) -> None:
    answer = stranger.get("/healthz", headers={"origin": "https://evil.example"})
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert answer.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in answer.headers
    assert "strict-transport-security" not in answer.headers
    by_tls = stranger.get("/healthz", headers={"x-forwarded-proto": "https"})
    assert by_tls.headers["strict-transport-security"] == "max-age=31536000"
    large = b"{" + b" " * (16 << 20) + b"}"
    for body in (large, iter([large[: 9 << 20], large[9 << 20 :]])):
        refused = stranger.post(f"{API}/sessions", content=body)
        assert (refused.status_code, error_of(refused)["code"]) == (413, "too_large")
    pieces = iter([b'{"account": "nobody", ', b'"password": "x"}'])
    json_type = {"content-type": "application/json"}
    assert stranger.post(f"{API}/sessions", content=pieces, headers=json_type).status_code == 401


def test_only_the_web_pages_that_are_named_may_call(world: World) -> None:
    settings = Settings(home=world.home, cors_origins=("https://console.example",))
    with TestClient(create_app(Parts(settings=settings, database=world.database))) as client:
        for origin, allowed in (("https://console.example", True), ("https://evil.example", False)):
            asked = {"origin": origin, "access-control-request-method": "GET"}
            answer = client.options(f"{API}/jobs", headers=asked)
            assert (answer.headers.get("access-control-allow-origin") == origin) is allowed


# --- errors -----------------------------------------------------------------------------------------------


def test_errors_have_one_shape_and_name_the_cure(admin: TestClient, world: World) -> None:
    assert "`raymill jobs list`" in error_of(admin.get(f"{API}/jobs/{NOBODY}"))["message"]
    missing = admin.get(f"{API}/llms/nobody")
    assert (missing.status_code, error_of(missing)["code"]) == (404, "not_found")
    elsewhere = admin.get(f"{API}/nowhere")
    assert (elsewhere.status_code, error_of(elsewhere)["type"]) == (404, "invalid_request_error")
    assert admin.put(f"{API}/jobs").status_code == 405
    taken = admin.post(f"{API}/accounts", json={"name": "admin"})
    assert (taken.status_code, error_of(taken)["code"]) == (409, "conflict")
    wrong = admin.post(f"{API}/accounts", json={"name": "Ada!", "role": "king"})
    assert (wrong.status_code, error_of(wrong)["param"]) == (422, "name")
    assert count(world, Account) == 1


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b'"x"', b"\xff\xfe", b"NaN"])
def test_a_body_that_is_no_object_is_refused(admin: TestClient, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = admin.post(f"{API}/pipelines", content=body, headers=headers)
    assert response.status_code in {400, 422}
    error_of(response)


def test_malformed_json_is_called_that(admin: TestClient) -> None:
    headers = {"content-type": "application/json"}
    response = admin.post(f"{API}/pipelines", content=b'{"recipe": ', headers=headers)
    assert response.status_code == 422
    assert error_of(response)["message"].startswith("the body is no JSON (")


@pytest.mark.parametrize(
    "path",
    [
        "/pipelines?name=%00",
        "/llms/%00",
        "/jobs?state=asleep",
        "/jobs?limit=0",
        "/jobs?limit=501",
        "/jobs/none",
        "/llms/x/versions/one",
        f"/jobs/{NOBODY}/logs?after=99999999999999999999",
        f"/jobs/{NOBODY}/logs?attempt=0",
        *(
            f"/{what}?cursor={cursor}"
            for what in ("jobs", "audit")
            for cursor in ("x", "NQ", "W10", "é", "a" * 300)
        ),
    ],
)
def test_values_that_make_no_sense_are_the_callers_fault(admin: TestClient, path: str) -> None:
    response = admin.get(f"{API}{path}")
    if path != "/audit?cursor=NQ":  # which is the number 5
        assert response.status_code == 422, response.text
        error_of(response)


def test_a_database_error_tells_nobody_what_the_database_said(admin: TestClient, world: World) -> None:
    with world.database.transaction() as session:
        session.execute(text("ALTER TABLE dataset RENAME TO secret_name"))
    response = admin.get(f"{API}/datasets")
    assert response.status_code == 500
    assert "secret_name" not in response.text
    assert error_of(response)["type"] == "server_error"


def test_a_request_id_is_given_back_unless_it_could_do_harm(admin: TestClient) -> None:
    assert admin.get(f"{API}/jobs", headers={"x-request-id": "r-1"}).headers["x-request-id"] == "r-1"
    given = admin.get(f"{API}/jobs", headers={"x-request-id": "r 1<script>"}).headers["x-request-id"]
    assert len(given) == 32


# --- lists ------------------------------------------------------------------------------------------------


def test_pages_show_every_row_once_newest_first_while_rows_are_added(admin: TestClient, world: World) -> None:
    made = [str(make_pipeline(world.database).id) for _ in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        params = {"limit": "2", **({"cursor": cursor} if cursor else {})}
        found = types.Page[types.Pipeline].model_validate(
            admin.get(f"{API}/pipelines", params=params).raise_for_status().json()
        )
        seen += [str(each.id) for each in found.data]
        make_pipeline(world.database)
        cursor = found.next_cursor
        if cursor is None:
            break
    assert seen == made[::-1]


def test_lists_can_be_narrowed(admin: TestClient, world: World) -> None:
    first = make_pipeline(world.database, step("a"), step("b", "a"), name="one")
    make_pipeline(world.database, name="two")
    succeed(world.database, claim_one(world.database))
    assert [each["name"] for each in admin.get(f"{API}/pipelines?name=one").json()["data"]] == ["one"]
    assert [each["step"] for each in admin.get(f"{API}/jobs?state=succeeded").json()["data"]] == ["a"]
    of_first = admin.get(f"{API}/jobs?pipeline_id={first.id}").json()["data"]
    assert [each["step"] for each in of_first] == ["b", "a"]


# --- pipelines --------------------------------------------------------------------------------------------


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


# --- progress ---------------------------------------------------------------------------------------------


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


# --- models and promotions --------------------------------------------------------------------------------


def test_a_promotion_over_http_signs_moves_and_can_be_followed_back(admin: TestClient, world: World) -> None:
    number = world.make_version()
    body = {"llm": "support-triage", "version": number, "to": "production"}
    # The key ring of the service lies under its home.
    made = admin.post(f"{API}/promotions", json=body)
    assert made.status_code == 201
    promotion = types.Promotion.model_validate(made.json())
    assert (promotion.allowed, promotion.requested_by) == (True, "admin")
    assert admin.get(f"{API}/llms/support-triage").json()["aliases"] == {"production": 1}
    lineage = types.Lineage.model_validate(
        admin.get(f"{API}/llms/support-triage/versions/1/lineage").raise_for_status().json()
    )
    assert lineage.version.scores == {HELDOUT: 0.95}
    assert lineage.quantizations[0].scores == {HELDOUT: 0.95}
    assert [each["artifact_name"] for each in lineage.attestations] == [
        lineage.model.name,
        lineage.quantized[0].name,
    ]
    history = admin.get(f"{API}/llms/support-triage/aliases/history").json()["data"]
    assert [(move["previous_version"], move["version"]) for move in history] == [(None, 1)]
    verified = types.Verification.model_validate(
        admin.get(f"{API}/llms/support-triage/versions/1/verify").raise_for_status().json()
    )
    assert [each["signed"] for each in verified.artifacts] == [True, True]


def test_changed_bytes_are_answered_with_409(admin: TestClient, world: World) -> None:
    number = world.make_version()
    file = next(world.store.root.glob("model/*/*/model.safetensors"))
    file.write_bytes(b"x")
    body = {"llm": "support-triage", "version": number}
    for response in (
        admin.get(f"{API}/llms/support-triage/versions/1/verify"),
        admin.post(f"{API}/promotions", json=body),
    ):
        assert (response.status_code, error_of(response)["code"]) == (409, "tampered")
        assert "model.safetensors" in error_of(response)["message"]
    assert admin.get(f"{API}/promotions").json()["data"] == []


def test_a_refused_promotion_is_an_answer_with_reasons(admin: TestClient, world: World) -> None:
    world.make_version(score=0.2)
    made = admin.post(f"{API}/promotions", json={"llm": "support-triage", "version": 1})
    assert made.status_code == 201
    assert made.json()["allowed"] is False
    assert made.json()["reasons"]


def test_a_promotion_waits_for_the_approvals_that_its_environment_asks_for(
    admin: TestClient, world: World
) -> None:
    number = world.make_version()
    approver = {"authorization": f"Bearer {world.add_key(Role.APPROVER)}"}
    wanted = {"approvals": 1, "roles": ["approver"]}
    assert admin.put(f"{API}/environments/production", json=wanted).json()["approvals"] == 1
    assert admin.put(f"{API}/environments/production", json={"approvals": -1}).status_code == 422
    body = {"llm": "support-triage", "version": number}
    asked = types.Promotion.model_validate(admin.post(f"{API}/promotions", json=body).json())
    assert (asked.state, asked.approvals_needed) == ("pending", 1)
    assert admin.post(f"{API}/promotions/{asked.id}/approve").status_code == 403  # one's own
    assert len(admin.get(f"{API}/promotions", params={"waiting": True}).json()["data"]) == 1
    before = dt.datetime.now(dt.UTC).isoformat()
    done = admin.post(f"{API}/promotions/{asked.id}/approve", headers=approver).raise_for_status().json()
    assert (done["state"], done["closed_by"]) == ("executed", "approver")
    model = f"{API}/llms/support-triage"
    assert admin.get(model).json()["aliases"] == {"production": 1}
    assert admin.get(model, params={"as_of": before}).json()["aliases"] == {}
    assert admin.get(model, params={"as_of": "yesterday"}).status_code == 422
    frozen = admin.post(f"{model}/aliases/production/freeze", json={"reason": "an incident"})
    assert frozen.json()["frozen_reason"] == "an incident"
    again = admin.post(f"{API}/promotions", json=body)
    assert (again.status_code, "an incident" in error_of(again)["message"]) == (409, True)
    assert admin.post(f"{model}/aliases/production/unfreeze").json()["frozen_at"] is None
    back = admin.post(f"{model}/aliases/production/rollback", json={})
    assert (back.status_code, "never at a version before" in error_of(back)["message"]) == (409, True)
    other = admin.post(f"{API}/promotions", json=body).json()["id"]
    rejected = admin.post(f"{API}/promotions/{other}/reject", json={"reason": "no need"}).json()
    assert (rejected["state"], rejected["note"]) == ("rejected", "no need")


def test_a_canary_is_begun_told_and_ended_by_hand(admin: TestClient, world: World) -> None:
    world.promote(world.make_version())
    world.serve()
    operator = {"authorization": f"Bearer {world.add_key(Role.OPERATOR)}"}
    body = {"llm": "support-triage", "version": world.make_version(), "canary": {"steps": [0.2, 0.5]}}
    nobody = admin.post(f"{API}/promotions", json=body)
    assert (nobody.status_code, "does not answer for production" in error_of(nobody)["message"]) == (
        409,
        True,
    )
    wrong = admin.post(f"{API}/promotions", json={**body, "canary": {"share": 2}})
    assert (wrong.status_code, error_of(wrong)["param"]) == (422, "canary.share")
    with world.database.transaction() as session:
        row = session.scalars(select(Deployment)).one()
        row.serving_version_id = session.scalars(select(Alias)).one().version_id
    begun = types.Promotion.model_validate(admin.post(f"{API}/promotions", json=body).json())
    assert begun.canary is not None
    assert (begun.state, begun.canary.share, begun.canary.decides) == ("canary", 0.2, "it is being deployed")
    path = f"{API}/promotions/{begun.id}"
    assert admin.post(f"{path}/abort", json={}, headers=operator).status_code == 403
    ended = types.Promotion.model_validate(admin.post(f"{path}/abort", json={"reason": "no need"}).json())
    assert (ended.state, ended.note) == ("aborted", "aborted by admin: no need")
    assert admin.post(f"{path}/advance").status_code == 409
    again = types.Promotion.model_validate(admin.post(f"{API}/promotions", json=body).json())
    with world.database.transaction() as session:
        canary_looks.report(session, again.id, DeploymentState.STARTING, "")
        canary_looks.report(session, again.id, DeploymentState.READY, "")
    shown = types.Promotion.model_validate(admin.get(f"{API}/promotions/{again.id}").json())
    assert shown.canary is not None
    assert "200 requests of version 2, 200 requests of version 1 more it takes 50%" in shown.canary.decides
    moved = types.Promotion.model_validate(admin.post(f"{API}/promotions/{again.id}/advance").json())
    assert moved.canary is not None
    assert (moved.state, moved.canary.state, moved.closed_by) == ("executed", "advanced", "admin")
    wanted = {"canary": {"share": 0.1}}
    made = admin.put(f"{API}/environments/production", json=wanted).raise_for_status().json()
    assert made["canary"]["share"] == 0.1


def test_rules_of_ones_own_are_tested_saved_and_decide(admin: TestClient, world: World) -> None:
    number = world.make_version()
    body = {"llm": "support-triage", "version": number}
    first = admin.post(f"{API}/promotions", json=body).json()
    again = admin.get(f"{API}/promotions/{first['id']}/replay").raise_for_status().json()
    assert (again["same"], again["policy"]) == (True, "raymill")
    files = {
        **read_rules(RULES),
        "never.rego": "package raymill.promotion\n\nimport rego.v1\n\n"
        'refused contains "never" if {\n\tinput.name == "support-triage"\n}\n',
    }
    tested = admin.post(f"{API}/policies/test", json={"files": files}).raise_for_status().json()
    assert (tested["passed"], len(tested["tests"])) == (False, 5)  # the shipped test of a good version fails
    refused = admin.post(f"{API}/policies", json={"name": "house", "files": files})
    assert (refused.status_code, "tests of the rules fail" in error_of(refused)["message"]) == (422, True)
    del files["promotion_test.rego"]
    ran = admin.post(f"{API}/policies/dry-run", json={"files": files}).raise_for_status().json()
    assert [(each["promotion_id"], each["allowed"], each["reasons"]) for each in ran["changed"]] == [
        (first["id"], False, ["never"])
    ]
    assert admin.post(f"{API}/policies", json={"name": "house", "files": files}).json()["number"] == 1
    settings = {"policy": "house"}
    assert admin.put(f"{API}/environments/production", json=settings).json()["policy"] == "house"
    second = admin.post(f"{API}/promotions", json=body).json()
    assert (second["state"], second["reasons"]) == ("refused", ["never"])
    found = admin.get(f"{API}/promotions/{second['id']}/explanation").raise_for_status().json()
    assert [(each["rule"], each["looked_at"]) for each in found["findings"]] == [
        ("never.rego:5", {"name": "support-triage"})
    ]


# --- accounts, keys, audit --------------------------------------------------------------------------------


def test_a_key_is_made_used_and_revoked(admin: TestClient) -> None:
    assert admin.post(f"{API}/accounts", json={"name": "bob", "role": "operator"}).status_code == 201
    made = admin.post(f"{API}/keys", json={"account": "bob", "name": "laptop", "expires_in_days": 1})
    assert made.status_code == 201
    new = types.NewApiKey.model_validate(made.json())
    headers = {"authorization": f"Bearer {new.key}"}
    assert admin.get(f"{API}/jobs", headers=headers).status_code == 200
    assert new.key not in admin.get(f"{API}/keys").text
    for _ in range(2):
        assert admin.delete(f"{API}/keys/{new.id}").json()["revoked_at"] is not None
    assert admin.get(f"{API}/jobs", headers=headers).status_code == 401
    assert admin.post(f"{API}/keys", json={"account": "eve", "name": "x"}).status_code == 404
    assert admin.post(f"{API}/keys", json={"account": "e\0", "name": "x"}).status_code == 422


def test_a_key_is_used_for_its_scopes_alone_and_tells_when(
    admin: TestClient, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers(*scopes: str) -> list[int]:
        body = {"account": "admin", "name": "narrow", "scopes": scopes}
        key = admin.post(f"{API}/keys", json=body).raise_for_status().json()["key"]
        headers = {"authorization": f"Bearer {key}"}
        read = admin.get(f"{API}/jobs", headers=headers)
        return [read.status_code, admin.post(f"{API}/teams", json={}, headers=headers).status_code]

    assert answers() == answers("read", "write") == answers("write") == [200, 422]
    assert answers("read") == [200, 403]
    assert answers("gateway") == [403, 403]
    assert (
        admin.post(f"{API}/keys", json={"account": "admin", "name": "x", "scopes": ["all"]}).status_code
        == 422
    )
    found = admin.get(f"{API}/keys").json()["data"]
    assert [each["used_at"] is None for each in found if each["scopes"] == ["gateway"]] == [True]
    assert [each["used_at"] is None for each in found if each["scopes"] == ["read"]] == [False]
    monkeypatch.setenv("RAYMILL_HOME", str(world.home))
    monkeypatch.setenv("RAYMILL_DATABASE_URL", world.database.url.render_as_string(hide_password=False))
    Settings().secret_box.create_if_missing()

    async def known_to_gateways() -> set[uuid.UUID]:
        source = RegistrySource()
        try:
            snapshot = await source.load()
        finally:
            await source.close()
        return {each.key_id for each in snapshot.keys.values()}

    assert asyncio.run(known_to_gateways()) == {
        uuid.UUID(each["id"]) for each in found if each["scopes"] in ([], ["gateway"])
    }


def test_the_audit_log_names_the_caller_and_can_be_checked(admin: TestClient, world: World) -> None:
    admin.post(f"{API}/accounts", json={"name": "bob"}, headers={"x-request-id": "r-7"})
    newest = types.AuditEvent.model_validate(admin.get(f"{API}/audit?limit=1").json()["data"][0])
    assert (newest.actor, newest.action, newest.request_id) == ("admin", "account.create", "r-7")
    checked = types.AuditCheck.model_validate(admin.get(f"{API}/audit/verify").json())
    assert (checked.ok, checked.rows, checked.head) == (True, 3, newest.hash)
    with world.database.transaction() as session:
        session.execute(text("ALTER TABLE audit_event DISABLE TRIGGER ALL"))
        session.execute(text("GRANT UPDATE ON audit_event TO CURRENT_USER"))
        session.execute(text("UPDATE audit_event SET actor = 'eve' WHERE seq = 2"))
    broken = admin.get(f"{API}/audit/verify")
    assert (broken.status_code, error_of(broken)["code"]) == (409, "audit_broken")
    assert "audit row 2" in error_of(broken)["message"]


def test_the_log_is_exported_with_a_signed_root_that_outlives_a_rotation(
    admin: TestClient, world: World
) -> None:
    told = {"x-request-id": "r-8", "x-forwarded-for": "10.0.0.1, 192.0.2.7"}
    old = types.SigningKey.model_validate(admin.get(f"{API}/signing/keys").json()["data"][0])
    envelope = types.AuditRoot.model_validate(admin.post(f"{API}/audit/roots").json()).envelope
    new = admin.post(f"{API}/signing/rotate", json={"algorithm": "ecdsa-p256"}, headers=told).json()
    assert (new["algorithm"], new["state"]) == ("ecdsa-p256", "signing")
    lines = [each.encode() for each in admin.get(f"{API}/audit/lines").json()["lines"]]
    root = verify_root(envelope, [old.public_key])
    assert verify_lines(lines, [root]).vouched == root.rows == len(lines) - 1
    newest = types.AuditEvent.model_validate(admin.get(f"{API}/audit?limit=1").json()["data"][0])
    assert (newest.action, newest.address) == ("signing_key.rotate", "192.0.2.7")
    assert (newest.before, newest.after) == ({"id": old.id}, {"id": new["id"]})
    assert admin.get(f"{API}/audit/verify").json()["vouched"] == root.rows
    with world.database.transaction() as session:
        session.execute(text("ALTER TABLE audit_event DISABLE TRIGGER ALL"))
        session.execute(text("GRANT DELETE ON audit_event TO CURRENT_USER"))
        session.execute(text("DELETE FROM audit_event WHERE seq > 1"))
    assert "restore the missing rows" in error_of(admin.get(f"{API}/audit/verify"))["message"]


def test_a_revoked_key_is_replaced_and_what_it_signed_counts_no_more(admin: TestClient, world: World) -> None:
    world.promote(world.make_version())
    path = f"{API}/llms/support-triage/versions/1/verify"
    assert admin.get(path).status_code == 200
    (key,) = admin.get(f"{API}/signing/keys").json()["data"]
    assert admin.post(f"{API}/signing/keys/abc/revoke", json={"reason": "lost"}).status_code == 404
    revoked = admin.post(f"{API}/signing/keys/{key['id'][:12]}/revoke", json={"reason": "lost"}).json()
    assert (revoked["state"], revoked["reason"][:4]) == ("revoked", "lost")
    assert [each["state"] for each in admin.get(f"{API}/signing/keys").json()["data"]] == [
        "revoked",
        "signing",
    ]
    refused = admin.get(path)
    assert (refused.status_code, error_of(refused)["code"]) == (409, "key_revoked")
    world.promote(1)
    assert admin.get(path).status_code == 200


def test_the_status_counts_jobs(admin: TestClient, world: World) -> None:
    pipeline = make_pipeline(world.database, step("a"), step("b", "a"))
    claim_one(world.database)
    found = types.Status.model_validate(admin.get(f"{API}/status").json())
    assert found.jobs == {"queued": 1, "running": 1}
    assert found.database.startswith("18")
    assert job_of(world.database, pipeline, "b").attempt == 0
