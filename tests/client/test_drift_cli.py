"""`raymill drift`, run in this process against a scripted service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from raymill.client.cli.main import run

if TYPE_CHECKING:
    from tests.client.conftest import Reply, Service

    Replies = type[Reply]

MOMENT = "2026-01-02T03:04:05Z"
ID = "11111111-1111-1111-1111-111111111111"
WATCH: dict[str, Any] = {
    "id": ID,
    "name": "nightly",
    "config": {
        "target": "support@production",
        "canary": {"dataset": "canaries@3"},
        "traffic": {"route": "support"},
        "schedule": "0 3 * * *",
        "on_major": "freeze",
    },
    "enabled": True,
    "next_at": MOMENT,
    "last_job_id": ID,
    "severity": "minor",
    "looked_at": MOMENT,
    "created_by": "ada",
    "created_at": MOMENT,
}
RUN: dict[str, Any] = {
    "id": ID,
    "watch": "nightly",
    "job_id": ID,
    "severity": "major",
    "news": True,
    "action": "freeze",
    "reasons": ["canary f1 is 0.600 and was 1.000"],
    "version": 2,
    "canary": {"mean": 0.6},
    "traffic": None,
    "baseline": False,
    "at": MOMENT,
}


@pytest.fixture(autouse=True)
def connected(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYMILL_URL", service.url)
    monkeypatch.setenv("RAYMILL_API_KEY", "rk")


def test_a_watch_is_made_of_options_and_a_file(service: Service, reply: Replies, tmp_path: Path) -> None:
    service.on("POST", "/api/v1/drift", reply(status=201, data=WATCH))
    (tmp_path / "watch.yaml").write_text("canary: {limit: 50}\non_major: rollback\n")
    options = ["--target", "support@production", "--canary", "canaries", "--route", "support"]
    options += ["--cron", "0 3 * * *", "--on-major", "freeze", "--config", str(tmp_path / "watch.yaml")]
    assert run(["drift", "add", "nightly", *options]) == 0
    body = service.seen[0].body
    assert (body["name"], body["enabled"]) == ("nightly", True)
    config = body["config"]
    assert (config["target"], config["schedule"]) == ("support@production", "0 3 * * *")
    assert (config["canary"]["dataset"], config["canary"]["limit"]) == ("canaries", 50)
    assert config["traffic"]["route"] == "support"
    assert config["on_major"] == "freeze"  # an option goes before the file


@pytest.mark.parametrize(
    ("arguments", "method", "path", "data", "words"),
    [
        (
            ("list",),
            "GET",
            "drift",
            {"data": [WATCH], "next_cursor": None},
            "support@production by canaries@3",
        ),
        (("show", "nightly"), "GET", "drift/nightly", WATCH, "0 3 * * * UTC"),
        (("run", "nightly", "--baseline"), "POST", "drift/nightly/run", {"job_id": ID}, f"job {ID}"),
        (("runs", "nightly"), "GET", "drift/nightly/runs", {"data": [RUN], "next_cursor": None}, "0.600"),
        (("events",), "GET", "drift/events", {"data": [RUN], "next_cursor": None}, "freeze"),
        (("disable", "nightly"), "PATCH", "drift/nightly", WATCH, "nightly is"),
        (("delete", "nightly"), "DELETE", "drift/nightly", WATCH, "nightly is deleted"),
    ],
)
def test_each_verb_makes_its_call(
    service: Service,
    reply: Replies,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    method: str,
    path: str,
    data: dict[str, Any],
    words: str,
) -> None:
    service.on(method, f"/api/v1/{path}", reply(data=data))
    assert run(["drift", *arguments]) == 0
    assert words in capsys.readouterr().out
    assert run(["drift", *arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
