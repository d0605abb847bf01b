"""The commands of the gateway, run as a user runs them, and the clients' calls behind them."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from raymill.client import gateway_types as types
from raymill.client.cli.given import dollars, micro_usd, pairs
from raymill.client.cli.route import read, written
from raymill.client.retry import Retry
from raymill.client.sdk import AsyncRaymill, Raymill

if TYPE_CHECKING:
    from tests.client.conftest import Reply, Service

    Replies = type[Reply]
    Refusal = Callable[..., Reply]
    Command = Callable[..., subprocess.CompletedProcess[str]]

MOMENT = "2026-01-02T03:04:05Z"
ID = "11111111-1111-1111-1111-111111111111"
SECRET = "sk-0123456789abcdef"
CHECK = {"id": ID, "ok": True, "status": 200, "latency_ms": 12.4, "message": "", "at": MOMENT}
KEY = {
    "name": "main",
    "hint": "…cdef",
    "enabled": True,
    "master_key": "0a1b2c3d4e5f6071",
    "created_at": MOMENT,
    "rotated_at": None,
}
PROVIDER = {
    "id": ID,
    "name": "openai",
    "preset": "openai",
    "wire": "openai",
    "base_url": "https://api.openai.com/v1",
    "settings": {"auth": "bearer", "needs_key": True},
    "enabled": True,
    "keys": [KEY],
    "models": 2,
    "last_check": CHECK,
    "created_at": MOMENT,
}
PRICE = {
    "provider": "openai",
    "model": "gpt-4o",
    "input_micro_usd": 2_500_000,
    "cached_input_micro_usd": 1_250_000,
    "output_micro_usd": 10_000_000,
    "max_output_tokens": 16_384,
    "source": "table",
    "as_of": "2026-01-01",
}
TARGETS = [
    {"provider": "openai", "model": "gpt-4o", "weight": 3, "order": 0},
    {"provider": "anthropic", "model": "claude-x", "weight": 1, "order": 1},
]
ROUTE = {
    "id": ID,
    "name": "smart",
    "config": {"targets": TARGETS, "strategy": "weighted"},
    "enabled": True,
    "created_at": MOMENT,
}
PRESET = {
    "id": ID,
    "name": "tutor",
    "model": "smart",
    "system": "Be kind.",
    "params": {"temperature": 0.2},
    "created_at": MOMENT,
}


@pytest.fixture(autouse=True)
def my_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """MY_KEY holds a secret."""
    monkeypatch.setenv("MY_KEY", SECRET)


def listing(*items: dict[str, Any]) -> dict[str, Any]:
    return {"data": list(items), "next_cursor": None}


def sent(service: Service) -> list[tuple[str, str, Any]]:
    return [(seen.method, seen.path.removeprefix("/api/v1/"), seen.body) for seen in service.seen]


# --- providers and keys -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"arguments": ("--key-env", "MY_KEY")}, {"input": f"{SECRET}\n"}])
def test_a_provider_is_added_with_its_key_which_is_not_an_argument(
    raymill: Command, service: Service, reply: Replies, options: dict[str, Any]
) -> None:
    service.on("POST", "/api/v1/providers", reply(status=201, data=PROVIDER))
    service.on("PUT", "/api/v1/providers/openai/keys/main", reply(data=KEY))
    service.on("GET", "/api/v1/providers/openai", reply(data=PROVIDER))
    arguments = options.get("arguments", ("--key-stdin",))
    done = raymill("provider", "add", "openai", *arguments, input=options.get("input", ""))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "openai is at https://api.openai.com/v1; `raymill provider test openai` asks it\n"
    body: dict[str, Any] = {
        "preset": "openai",
        "name": None,
        "base_url": None,
        "settings": {},
        "enabled": True,
    }
    assert sent(service)[:2] == [
        ("POST", "providers", body),
        ("PUT", "providers/openai/keys/main", {"secret": SECRET}),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["provider", "add", "openai", "--key-env", "NOT_SET"], "the environment has no NOT_SET: export it"),
        (["provider", "add", "openai", "--key-stdin"], "standard input holds no secret: pipe it in"),
        (["provider", "add", "x", "--key-stdin", "--key-env", "MY_KEY"], "use one of them"),
        (["provider", "add", "openai", "--key", SECRET], "No such option"),
        (["provider", "key", "set", "openai", "main"], "no secret: give --key-env or --key-stdin"),
        (["provider", "change", "openai"], "nothing to change: give --base-url or --settings"),
        (
            ["provider", "change", "openai", "--settings", "none.yaml"],
            "none.yaml cannot be read (No such file",
        ),
        (["route", "set", "smart"], "nobody to answer: give --target or --file"),
        (
            ["route", "set", "smart", "--target", "gpt-4o"],
            "'gpt-4o' is no target: write it as openai/gpt-4o:3@1",
        ),
        (["route", "set", "smart", "--target", "a/b:0"], "error: no target of order 0 has a weight"),
        (["route", "set", "smart", "--target", "raymill/x@3"], "can mean version 3 or order 3"),
        (["route", "set", "s", "--file", "x", "--target", "a/b"], "--file holds the whole route"),
        (["preset", "set", "tutor", "--model", "m"], "give the system prompt once"),
        (
            ["preset", "set", "tutor", "--model", "m", "--system", "x", "--param", "nonsense"],
            "'nonsense' is no pair",
        ),
        (["price", "set", "openai", "m", "--input", "-1", "--output", "1"], "cannot be paid"),
        (["price", "set", "openai", "m", "--input", "1", "--output", "cheap"], "is no amount of dollars"),
    ],
)
def test_bad_usage_is_exit_2_and_nothing_is_sent(
    raymill: Command, service: Service, arguments: list[str], message: str
) -> None:
    done = raymill(*arguments, input="")
    assert done.returncode == 2, done.stderr
    assert message in " ".join(done.stderr.split())
    assert service.seen == []


def test_providers_are_a_table_or_json(raymill: Command, service: Service, reply: Replies) -> None:
    service.on("GET", "/api/v1/providers", reply(data=listing(PROVIDER)))
    shown = raymill("provider", "list").stdout.splitlines()
    assert shown[0].split() == ["NAME", "PRESET", "ENABLED", "KEYS", "MODELS", "HEALTH", "ADDRESS"]
    assert shown[1].split() == ["openai", "openai", "yes", "1", "2", "ok", PROVIDER["base_url"]]
    assert json.loads(raymill("provider", "list", "--json").stdout)[0]["keys"][0]["hint"] == "…cdef"


def test_a_provider_is_shown_with_its_keys_and_settings(
    raymill: Command, service: Service, reply: Replies
) -> None:
    service.on("GET", "/api/v1/providers/openai", reply(data=PROVIDER))
    lines = raymill("provider", "show", "openai").stdout.splitlines()
    assert "key main           …cdef" in lines
    assert "setting auth       bearer" in lines


def test_settings_come_from_a_file(
    raymill: Command, service: Service, reply: Replies, tmp_path: Path
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("drop: [user]\nquery: {api-version: '2024-10-21'}\nauth:\n")
    service.on("PATCH", "/api/v1/providers/openai", reply(data=PROVIDER))
    assert raymill("provider", "change", "openai", "--settings", str(file)).returncode == 0
    assert raymill("provider", "disable", "openai").returncode == 0
    settings = {"drop": ["user"], "query": {"api-version": "2024-10-21"}, "auth": None}
    assert [body for _, _, body in sent(service)] == [
        {"base_url": None, "settings": settings, "enabled": None},
        {"base_url": None, "settings": None, "enabled": False},
    ]


def test_a_failed_test_is_exit_1_with_what_the_provider_said(
    raymill: Command, service: Service, reply: Replies
) -> None:
    failed = {**CHECK, "ok": False, "status": 401, "message": "it answers 401 (no): check its key"}
    service.on("POST", "/api/v1/providers/openai/test", reply(data=CHECK), reply(data=failed))
    fine = raymill("provider", "test", "openai")
    assert (fine.returncode, fine.stdout) == (0, "openai answers 200 in 12 ms\n")
    bad = raymill("provider", "test", "openai", "--key", "spare")
    assert bad.returncode == 1
    assert bad.stderr == "error: openai failed its test: it answers 401 (no): check its key\n"
    assert service.seen[-1].query == {"key": "spare"}


def test_a_sync_is_sent_once_even_when_it_fails(raymill: Command, service: Service, refusal: Refusal) -> None:
    service.on("POST", "/api/v1/providers/openai/sync", refusal(503, "unavailable", "openai gave no list"))
    done = raymill("provider", "sync", "openai")
    assert (done.returncode, done.stderr) == (1, "error: openai gave no list\n")
    assert len(service.seen) == 1


def test_models_show_what_they_cost(raymill: Command, service: Service, reply: Replies) -> None:
    priced = {"model": "gpt-4o", "seen_at": MOMENT, "price": PRICE}
    unknown = {"model": "new", "seen_at": MOMENT, "price": None}
    service.on("GET", "/api/v1/providers/openai/models", reply(data=listing(priced, unknown)))
    lines = [line.split()[:4] for line in raymill("provider", "models", "openai").stdout.splitlines()[1:]]
    assert lines == [["gpt-4o", "2.50", "10.00", "table"], ["new", "?", "?", "-"]]


def test_keys_are_set_listed_switched_and_removed(raymill: Command, service: Service, reply: Replies) -> None:
    path = "/api/v1/providers/openai/keys"
    service.on("GET", path, reply(data=listing(KEY)))
    for method in ("PUT", "PATCH", "DELETE"):
        service.on(method, f"{path}/main", reply(data={**KEY, "enabled": method != "PATCH"}))
    made = raymill("provider", "key", "set", "openai", "main", "--key-env", "MY_KEY")
    assert made.stdout == "openai has key main, ending in …cdef\n"
    assert raymill("provider", "key", "list", "openai").stdout.splitlines()[1].split()[:3] == [
        "main",
        "…cdef",
        "yes",
    ]
    assert (
        raymill("provider", "key", "disable", "openai", "main").stdout == "key main of openai is disabled\n"
    )
    assert raymill("provider", "key", "remove", "openai", "main").returncode == 0
    assert [method for method, _, _ in sent(service)] == ["PUT", "GET", "PATCH", "DELETE"]


def test_a_secret_is_printed_as_asterisks_and_sent_as_it_is() -> None:
    body = types.SecretBody.model_validate({"secret": SECRET})
    assert SECRET not in repr(body)
    assert SECRET not in str(body.model_dump())
    assert body.model_dump(mode="json") == {"secret": SECRET}


# --- routes, presets, prices ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("openai/gpt-4o", {"provider": "openai", "model": "gpt-4o"}),
        ("openai/gpt-4o:3", {"provider": "openai", "model": "gpt-4o", "weight": 3}),
        ("openai/gpt-4o@1", {"provider": "openai", "model": "gpt-4o", "order": 1}),
        ("openai/gpt-4o:3@1", {"provider": "openai", "model": "gpt-4o", "weight": 3, "order": 1}),
        ("together/org/model", {"provider": "together", "model": "org/model"}),
        ("ollama/qwen3:8b", {"provider": "ollama", "model": "qwen3:8b"}),
        ("ollama/qwen3:8b:2@1", {"provider": "ollama", "model": "qwen3:8b", "weight": 2, "order": 1}),
        ("ollama/qwen:70:1", {"provider": "ollama", "model": "qwen:70", "weight": 1}),
        ("raymill/triage@3:2", {"provider": "raymill", "model": "triage@3", "weight": 2}),
        ("raymill/triage@production", {"provider": "raymill", "model": "triage@production"}),
        ("raymill/triage@3@0", {"provider": "raymill", "model": "triage@3", "order": 0}),
        ("raymill/triage@production@1", {"provider": "raymill", "model": "triage@production", "order": 1}),
    ],
)
def test_a_target_is_written_in_one_word(text: str, target: dict[str, Any]) -> None:
    assert read(text) == target
    whole = {"weight": 1, "order": 0, **target}
    assert {"weight": 1, "order": 0, **read(written(whole))} == whole


def test_a_route_is_set_from_targets_or_from_a_file(
    raymill: Command, service: Service, reply: Replies, tmp_path: Path
) -> None:
    service.on("PUT", "/api/v1/routes/smart", reply(data=ROUTE))
    targets = ("--target", "openai/gpt-4o:3", "--target", "anthropic/claude-x@1")
    done = raymill("route", "set", "smart", *targets, "--sticky", "user", "--cache-ttl-s", "60")
    assert (done.returncode, done.stdout) == (0, "smart goes to 2 targets\n")
    config = service.seen[-1].body["config"]
    assert [(t["provider"], t["model"], t["weight"], t["order"]) for t in config["targets"]] == [
        ("openai", "gpt-4o", 3, 0),
        ("anthropic", "claude-x", 1, 1),
    ]
    assert (config["sticky"], config["cache_ttl_s"], config["retries"]["attempts"]) == ("user", 60.0, 2)
    file = tmp_path / "route.yaml"
    file.write_text("targets:\n- {provider: openai, model: gpt-4o}\nretries: {attempts: 5}\n")
    assert raymill("route", "set", "smart", "--file", str(file)).returncode == 0
    assert service.seen[-1].body["config"]["retries"]["attempts"] == 5
    file.write_text("targets: 7\n")
    wrong = raymill("route", "set", "smart", "--file", str(file))
    assert (wrong.returncode, wrong.stderr) == (2, "error: targets: must be a list, got 7\n")


def test_routes_are_listed_as_they_are_written(raymill: Command, service: Service, reply: Replies) -> None:
    service.on("GET", "/api/v1/routes", reply(data=listing(ROUTE)))
    service.on("GET", "/api/v1/routes/smart", reply(data=ROUTE))
    line = raymill("route", "list").stdout.splitlines()[1]
    assert line.split() == ["smart", "yes", "weighted", "openai/gpt-4o:3,", "anthropic/claude-x@1"]
    shown = raymill("route", "show", "smart").stdout
    assert shown.startswith("targets:\n- provider: openai\n")


def test_a_name_with_a_slash_stays_one_name(raymill: Command, service: Service, reply: Replies) -> None:
    for method in ("PATCH", "DELETE"):
        service.on(method, "/api/v1/routes/team%2Fsmart", reply(data={**ROUTE, "name": "team/smart"}))
    assert raymill("route", "enable", "team/smart").stdout == "team/smart is enabled\n"
    assert raymill("route", "remove", "team/smart").stdout == "team/smart is removed\n"


def test_a_preset_is_set_with_parameters_that_are_what_they_say(
    raymill: Command, service: Service, reply: Replies, tmp_path: Path
) -> None:
    service.on("PUT", "/api/v1/presets/tutor", reply(data=PRESET))
    service.on("GET", "/api/v1/presets/tutor", reply(data=PRESET))
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Be kind.\n")
    done = raymill(
        *("preset", "set", "tutor", "--model", "smart", "--system-file", str(prompt)),
        *("--param", "temperature=0.2", "--param", "stop=[END]"),
    )
    assert (done.returncode, done.stdout) == (0, "tutor speaks through smart\n")
    params = {"temperature": 0.2, "stop": ["END"]}
    assert service.seen[-1].body == {"model": "smart", "system": "Be kind.\n", "params": params}
    assert raymill("preset", "show", "tutor").stdout.splitlines()[-1] == "Be kind."


def test_prices_are_dollars_for_people_and_micro_dollars_for_programs(
    raymill: Command, service: Service, reply: Replies
) -> None:
    service.on("GET", "/api/v1/prices", reply(data=listing(PRICE)))
    service.on("PUT", "/api/v1/prices/openai/org%2Fm", reply(data=PRICE))
    service.on("DELETE", "/api/v1/prices/%2A/m", reply(data=PRICE))
    line = raymill("price", "list").stdout.splitlines()[1]
    assert line.split() == ["openai", "gpt-4o", "2.50", "1.25", "10.00", "16384", "table", "2026-01-01"]
    done = raymill("price", "set", "openai", "org/m", "--input", "2.5", "--output", "10")
    assert done.stdout == "gpt-4o of openai: 2.50 in, 10.00 out, dollars per 1,000,000 tokens\n"
    assert service.seen[-1].body == {
        "input_micro_usd": 2_500_000,
        "output_micro_usd": 10_000_000,
        "cached_input_micro_usd": None,
        "max_output_tokens": None,
    }
    assert raymill("price", "remove", "*", "m").returncode == 0


def test_amounts_keep_every_millionth() -> None:
    texts = ["0", "2.5", "$0.000001", "10", "0.0375"]
    assert [micro_usd(text) for text in texts] == [0, 2_500_000, 1, 10_000_000, 37_500]
    assert [dollars(micro_usd(text)) for text in texts] == ["0.00", "2.50", "0.000001", "10.00", "0.0375"]


def test_pairs_are_read_as_yaml() -> None:
    found = pairs(["a=1", "b=true", "c=x=y", "d=", "e=[1, two]", "f=@x"])
    assert found == {"a": 1, "b": True, "c": "x=y", "d": "", "e": [1, "two"], "f": "@x"}


# --- the clients ------------------------------------------------------------------------------------------


def test_both_clients_make_the_same_calls(service: Service, reply: Replies, fast: Retry) -> None:
    answers: dict[str, dict[str, Any]] = {
        "providers": PROVIDER,
        "prices": PRICE,
        "routes": ROUTE,
        "presets": PRESET,
    }
    for noun, item in answers.items():
        service.on("GET", f"/api/v1/{noun}", reply(data=listing(item)))
    service.on("POST", "/api/v1/providers", reply(status=201, data=PROVIDER))
    service.on("PUT", "/api/v1/providers/openai/keys/main", reply(data=KEY))
    service.on("POST", "/api/v1/master-keys/rotate", reply(data={"id": "0a", "resealed": 1}))
    with Raymill(service.url, "rk-test", retry=fast) as client:
        client.providers.add("openai")
        client.providers.keys.set("openai", "main", SECRET)
        assert client.master_keys.rotate().resealed == 1
        names = [
            [each.name for each in client.providers.list()],
            [each.model for each in client.prices.list()],
            [each.name for each in client.routes.list()],
            [each.name for each in client.presets.list()],
        ]
    blocking = sent(service)
    service.seen.clear()

    async def again() -> None:
        async with AsyncRaymill(service.url, "rk-test", retry=fast) as other:
            await other.providers.add("openai")
            await other.providers.keys.set("openai", "main", SECRET)
            await other.master_keys.rotate()
            assert [each.name async for each in other.providers.list()] == names[0]
            assert [each.model async for each in other.prices.list()] == names[1]
            assert [each.name async for each in other.routes.list()] == names[2]
            assert [each.name async for each in other.presets.list()] == names[3]

    asyncio.run(again())
    assert sent(service) == blocking
    assert names == [["openai"], ["gpt-4o"], ["smart"], ["tutor"]]
