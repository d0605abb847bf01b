"""Models and promotions over HTTP."""

from __future__ import annotations

import datetime as dt

from fastapi.testclient import TestClient
from sqlalchemy import select
from tests.registry.making import HELDOUT, World
from tests.serve.api_lab import API, admin, error_of, stranger

from raymill.client import types
from raymill.policies.engine import RULES, read_rules
from raymill.registry import canary_looks
from raymill.registry.tables import Alias, Deployment, DeploymentState, Role

__all__ = ["admin", "stranger"]  # fixtures


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
