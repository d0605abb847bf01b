"""The commands of promotions that wait, environments, aliases and policies, and the clients' calls behind them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from raymill.client.cli.main import run
from raymill.client.retry import Retry
from raymill.client.sdk import AsyncRaymill

if TYPE_CHECKING:
    from tests.client.conftest import Reply, Service

MOMENT = "2026-01-02T03:04:05Z"
ID = "11111111-1111-1111-1111-111111111111"
WAITING: dict[str, Any] = {
    "id": ID,
    "llm": "tiny",
    "version": 3,
    "alias": "production",
    "allowed": True,
    "reasons": [],
    "input": {},
    "input_digest": "i",
    "bundle_digest": "b",
    "requested_by": "ada",
    "created_at": MOMENT,
    "state": "pending",
    "approvals_needed": 2,
    "approver_roles": ["approver", "admin"],
    "approvals": [{"account": "grace", "role": "approver", "created_at": MOMENT}],
    "expires_at": MOMENT,
}
EXECUTED = {**WAITING, "state": "executed"}
TRYING = {
    **WAITING,
    "state": "canary",
    "canary": {
        "state": "running",
        "share": 0.1,
        "shares": [0.1, 0.5],
        "canary": {"version": 3, "requests": 10, "errors": 1, "error_rate": 0.1, "p95_ms": 250.0},
        "current": {"version": 2, "requests": 90},
        "since": MOMENT,
        "measured_at": MOMENT,
        "left_s": 60.0,
        "decides": "after 60 s, 190 requests of version 3 more it takes 50%",
        "config": {"steps": [0.1, 0.5]},
    },
}
FROZEN = {
    "llm": "tiny",
    "alias": "production",
    "version": 3,
    "updated_at": MOMENT,
    "frozen_at": MOMENT,
    "frozen_by": "ada",
    "frozen_reason": "an incident",
}


@pytest.fixture
def raymill(service: Service, home: Path, monkeypatch: pytest.MonkeyPatch) -> Service:  # noqa: ARG001 (an empty home)
    """The scripted service, which `run` then asks."""
    monkeypatch.setenv("RAYMILL_URL", service.url)
    monkeypatch.setenv("RAYMILL_API_KEY", "rk-test")
    return service


def test_a_request_that_waits_says_what_it_waits_for(
    raymill: Service, reply: type[Reply], capsys: pytest.CaptureFixture[str]
) -> None:
    raymill.on("POST", "/api/v1/promotions", reply(status=201, data=WAITING))
    raymill.on("POST", f"/api/v1/promotions/{ID}/approve", reply(data=EXECUTED))
    raymill.on("GET", f"/api/v1/promotions/{ID}", reply(data=WAITING))
    raymill.on("GET", "/api/v1/promotions", reply(data={"data": [WAITING]}))
    assert run(["promotion", "create", "tiny", "3"]) == 0
    assert capsys.readouterr().out == (
        "tiny version 3 waits for production: 1 of 2 approvals of approver or admin "
        f"(`raymill promotion approve {ID}`)\n"
    )
    assert run(["promotion", "approve", ID]) == 0
    assert capsys.readouterr().out == "tiny production is version 3\n"
    assert run(["promotion", "show", ID]) == 0
    assert "approved by grace" in capsys.readouterr().out
    assert run(["promotion", "list", "--waiting"]) == 0
    assert raymill.seen[-1].query["waiting"] == "true"


def test_a_canary_is_asked_for_watched_and_ended(
    raymill: Service, reply: type[Reply], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raymill.on("POST", "/api/v1/promotions", reply(status=201, data=TRYING))
    raymill.on("GET", f"/api/v1/promotions/{ID}", reply(data=TRYING))
    raymill.on("POST", f"/api/v1/promotions/{ID}/advance", reply(data=EXECUTED))
    raymill.on("POST", f"/api/v1/promotions/{ID}/abort", reply(data={**TRYING, "state": "aborted"}))
    (tmp_path / "canary.yaml").write_text("limits: {latency_ratio: 2}\nfor_s: 5\n")
    given = ["--canary", "0.1", "--canary", "0.5", "--canary-for-h", "0.5", "--canary-config"]
    assert run(["promotion", "create", "tiny", "3", *given, str(tmp_path / "canary.yaml")]) == 0
    asked = raymill.seen[-1].body["canary"]
    assert (asked["steps"], asked["for_s"], asked["limits"]["latency_ratio"]) == ([0.1, 0.5], 1800.0, 2.0)
    assert capsys.readouterr().out == (
        f"tiny version 3 tries itself on 10% of production (`raymill promotion show {ID}`)\n"
    )
    assert run(["promotion", "show", ID]) == 0
    told = capsys.readouterr().out
    for line in (
        "running, 0.1 of the requests, of 0.1, 0.5",
        "3: 10 requests, 1 errors (10.00%), p95 250 ms",
        "60 s",
    ):
        assert line in told
    assert run(["promotion", "advance", ID]) == 0
    assert run(["promotion", "abort", ID, "--reason", "too slow"]) == 0
    assert raymill.seen[-1].body == {"reason": "too slow"}
    assert "stays where it is" in capsys.readouterr().out
    assert run(["promotion", "create", "tiny", "3", "--canary", "1.5"]) == 2
    assert "steps" in capsys.readouterr().err


def test_aliases_are_frozen_and_read_as_they_were(
    raymill: Service, reply: type[Reply], capsys: pytest.CaptureFixture[str]
) -> None:
    raymill.on("POST", "/api/v1/llms/tiny/aliases/production/freeze", reply(data=FROZEN))
    raymill.on("POST", "/api/v1/llms/tiny/aliases/production/rollback", reply(data=EXECUTED))
    raymill.on("GET", "/api/v1/llms", reply(data={"data": []}))
    assert run(["alias", "freeze", "tiny", "production", "--reason", "an incident"]) == 0
    assert raymill.seen[-1].body == {"reason": "an incident"}
    assert run(["alias", "rollback", "tiny", "production"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "tiny@production is version 3 again"
    assert run(["alias", "list", "--as-of", "2026-03-01T12:00:00+01:00"]) == 0
    assert raymill.seen[-1].query["as_of"].startswith("2026-03-01T1")
    assert run(["alias", "list", "--as-of", "long ago"]) == 2


def test_an_environment_and_its_rules_are_set(
    raymill: Service, reply: type[Reply], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {
        "name": "production",
        "approvals": 2,
        "roles": ["admin"],
        "after": "governed",
        "expires_after_s": 60,
    }
    raymill.on("PUT", "/api/v1/environments/production", reply(data=made))
    arguments = [
        "environment",
        "set",
        "production",
        "--approvals",
        "2",
        "--role",
        "admin",
        "--after",
        "governed",
    ]
    assert run([*arguments, "--policy", "house"]) == 0
    assert raymill.seen[-1].body == {
        "approvals": 2,
        "roles": ["admin"],
        "after": "governed",
        "expires_after_s": 604800,
        "policy": "house",
        "canary": None,
    }
    assert run([*arguments, "--role", "king"]) == 2
    (tmp_path / "x.rego").write_text("package x\n")
    failed = {"passed": False, "tests": [{"name": "test_a", "passed": False, "message": "allow is true"}]}
    raymill.on("POST", "/api/v1/policies/test", reply(data=failed))
    assert run(["policy", "test", str(tmp_path)]) == 1
    assert raymill.seen[-1].body == {"files": {"x.rego": "package x\n"}}
    assert "1 of 1 tests fail" in capsys.readouterr().err
    assert run(["policy", "test", str(tmp_path / "nowhere")]) == 2


def test_the_asyncio_client_does_the_same(raymill: Service, reply: type[Reply], fast: Retry) -> None:
    raymill.on("POST", f"/api/v1/promotions/{ID}/approve", reply(data=EXECUTED))
    raymill.on("POST", "/api/v1/llms/tiny/aliases/production/freeze", reply(data=FROZEN))

    async def ask() -> tuple[str, str | None]:
        async with AsyncRaymill(raymill.url, "rk-test", retry=fast) as client:
            done = await client.promotions.approve(ID)
            held = await client.aliases.freeze("tiny", "production", reason="an incident")
            return done.state, held.frozen_reason

    assert asyncio.run(ask()) == ("executed", "an incident")
