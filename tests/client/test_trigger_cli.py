"""The commands of triggers and hooks, run as a user runs them, and the clients' calls behind them."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from raymill.client.retry import Retry
from raymill.client.sdk import AsyncRaymill, Raymill

if TYPE_CHECKING:
    from tests.client.conftest import Reply, Service

    Replies = type[Reply]
    Command = Callable[..., subprocess.CompletedProcess[str]]

MOMENT = "2026-01-02T03:04:05Z"
ID = "11111111-1111-1111-1111-111111111111"
TRIGGER: dict[str, Any] = {
    "id": ID,
    "name": "nightly",
    "on": "cron",
    "config": {"schedule": "0 3 * * *", "timezone": "UTC"},
    "recipe": {"model": "tiny"},
    "recipe_dir": None,
    "enabled": True,
    "next_at": MOMENT,
    "last_fired_at": None,
    "last_pipeline_id": None,
    "last_error": "no such file",
    "created_by": "ada",
    "created_at": MOMENT,
}
HOOK: dict[str, Any] = {
    "id": ID,
    "name": "tell",
    "on": ["pipeline.failed"],
    "subject": None,
    "action": "webhook",
    "config": {"url": "https://h/"},
    "enabled": True,
    "created_by": "ada",
    "created_at": MOMENT,
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    for name in ("corpus.txt", "train.jsonl", "test.jsonl"):
        (tmp_path / name).write_text("x\n")
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "model: tiny\nbase: {pretrain: {text: corpus.txt}}\ndataset: {train: train.jsonl, test: test.jsonl}\n"
    )
    return file


def test_a_trigger_is_added_with_the_recipe_resolved_and_its_secret_shown_once(
    raymill: Command, service: Service, reply: Replies, recipe: Path
) -> None:
    made = {**TRIGGER, "on": "webhook", "config": {}, "secret": "rmwh-1"}
    service.on("POST", "/api/v1/triggers", reply(status=201, data=made))
    done = raymill("trigger", "add", "nightly", str(recipe), "--webhook")
    assert done.returncode == 0, done.stderr
    assert f"{service.url}/api/v1/triggers/nightly/webhook" in done.stdout
    assert "rmwh-1" in done.stdout
    (seen,) = service.seen
    assert (seen.body["on"], seen.body["config"], seen.body["enabled"]) == ("webhook", {}, True)
    assert seen.body["recipe"]["dataset"]["train"] == str(recipe.parent / "train.jsonl")


@pytest.mark.parametrize(
    ("options", "on", "config"),
    [
        (("--cron", "0 3 * * *", "--timezone", "UTC"), "cron", {"schedule": "0 3 * * *", "timezone": "UTC"}),
        (("--dataset", "tickets"), "dataset", {"name": "tickets"}),
        (("--promotion", "tiny"), "promotion", {"model": "tiny", "alias": "production"}),
        (("--promotion", "tiny@staging"), "promotion", {"model": "tiny", "alias": "staging"}),
        (("--drift", "any"), "drift", {"subject": ""}),
        (("--drift", "route/a"), "drift", {"subject": "route/a"}),
    ],
)
def test_what_a_trigger_waits_for_is_sent(
    raymill: Command,
    service: Service,
    reply: Replies,
    recipe: Path,
    options: tuple[str, ...],
    on: str,
    config: dict[str, str],
) -> None:
    service.on("POST", "/api/v1/triggers", reply(status=201, data={**TRIGGER, "secret": None}))
    done = raymill("trigger", "add", "nightly", str(recipe), *options, "--json")
    assert json.loads(done.stdout)["name"] == "nightly"
    assert (service.seen[0].body["on"], service.seen[0].body["config"]) == (on, config)


@pytest.mark.parametrize(
    "arguments",
    [
        ("trigger", "add", "x", "RECIPE"),
        ("trigger", "add", "x", "RECIPE", "--webhook", "--dataset", "a"),
        ("trigger", "add", "x", "/no/such.yaml", "--webhook"),
        ("trigger", "list", "--on", "moon"),
        ("hook", "add", "x", "--webhook", "http://h/"),
        ("hook", "add", "x", "--on", "job.exploded", "--webhook", "http://h/"),
        ("hook", "add", "x", "--on", "job.dead"),
        ("hook", "add", "x", "--on", "job.dead", "--promote", "a", "--rollback", "b"),
        ("hook", "add", "x", "--on", "job.dead", "--rollback", "b", "--require", "f"),
    ],
)
def test_a_command_that_makes_no_sense_ends_with_2_and_sends_nothing(
    raymill: Command, service: Service, recipe: Path, arguments: tuple[str, ...]
) -> None:
    done = raymill(*(str(recipe) if each == "RECIPE" else each for each in arguments))
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert service.seen == []


def test_lists_show_what_matters(raymill: Command, service: Service, reply: Replies) -> None:
    service.on("GET", "/api/v1/triggers", reply(data={"data": [TRIGGER], "next_cursor": None}))
    service.on("GET", "/api/v1/hooks", reply(data={"data": [HOOK], "next_cursor": None}))
    triggers = raymill("trigger", "list").stdout
    assert "0 3 * * * UTC" in triggers
    assert "no such file" in triggers
    assert "webhook https://h/" in raymill("hook", "list").stdout
    assert json.loads(raymill("hook", "list", "--json").stdout)[0]["name"] == "tell"


@pytest.mark.parametrize(
    ("arguments", "method", "path", "row", "words"),
    [
        (("trigger", "show", "nightly"), "GET", "triggers/nightly", TRIGGER, "0 3 * * *"),
        (("trigger", "disable", "nightly"), "PATCH", "triggers/nightly", TRIGGER, "nightly is"),
        (("trigger", "fire", "nightly"), "POST", "triggers/nightly/fire", TRIGGER, "nightly fires"),
        (("trigger", "delete", "nightly"), "DELETE", "triggers/nightly", TRIGGER, "nightly is deleted"),
        (("trigger", "drift", "route/a", "k"), "POST", "triggers/events", {"new": False}, "told of before"),
        (("hook", "show", "tell"), "GET", "hooks/tell", HOOK, "pipeline.failed"),
        (("hook", "enable", "tell"), "PATCH", "hooks/tell", HOOK, "tell is enabled"),
        (("hook", "delete", "tell"), "DELETE", "hooks/tell", HOOK, "tell is deleted"),
    ],
)
def test_each_verb_makes_its_call(
    raymill: Command,
    service: Service,
    reply: Replies,
    arguments: tuple[str, ...],
    method: str,
    path: str,
    row: dict[str, Any],
    words: str,
) -> None:
    service.on(method, f"/api/v1/{path}", reply(data=row))
    done = raymill(*arguments)
    assert done.returncode == 0, done.stderr
    assert words in done.stdout
    assert json.loads(raymill(*arguments, "--json").stdout)


def test_a_hook_that_promotes_sends_its_gates(
    raymill: Command, service: Service, reply: Replies, tmp_path: Path
) -> None:
    service.on("POST", "/api/v1/hooks", reply(status=201, data={**HOOK, "secret": None}))
    (tmp_path / "gates.yaml").write_text("heldout: {at_least: 0.9}\n")
    options = ["--promote", "staging", "--require", str(tmp_path / "gates.yaml"), "--model", "tiny"]
    done = raymill("hook", "add", "stage", "--on", "pipeline.succeeded", *options)
    assert done.returncode == 0, done.stderr
    assert service.seen[0].body == {
        "name": "stage",
        "on": ["pipeline.succeeded"],
        "subject": "tiny",
        "action": "promote",
        "config": {"alias": "staging", "require": {"heldout": {"at_least": 0.9}}},
        "enabled": True,
    }


def test_both_clients_have_the_same_resources(service: Service, reply: Replies, fast: Retry) -> None:
    service.on("GET", "/api/v1/triggers", reply(data={"data": [TRIGGER], "next_cursor": None}))
    service.on("GET", "/api/v1/hooks/tell", reply(data=HOOK))

    async def ask() -> tuple[list[str], str]:
        async with AsyncRaymill(service.url, "rk", retry=fast) as client:
            names = [trigger.name async for trigger in client.triggers.list()]
            return names, (await client.hooks.get("tell")).name

    assert asyncio.run(ask()) == (["nightly"], "tell")
    with Raymill(service.url, "rk", retry=fast) as blocking:
        assert [trigger.name for trigger in blocking.triggers.list()] == ["nightly"]
        assert blocking.hooks.get("tell").name == "tell"
