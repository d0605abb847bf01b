"""Providers, prices, routes and presets over HTTP, with a scripted provider on the loopback interface."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from tests.registry.making import World
from tests.serve.control_app import app_of

from raymill.client import gateway_types as types
from raymill.client import identity_types
from raymill.cluster.settings import Settings
from raymill.registry.provider_settings import ProviderSettings
from raymill.registry.tables import Role
from raymill.serve.api.context import Parts
from raymill.serve.gateway import probe

API = "/api/v1"
SECRET = "sk-test-0123456789abcdef"


@dataclass
class Upstream:
    """A provider that answers a GET as `answer` says."""

    answer: Callable[[str, dict[str, str]], tuple[int, Any]] = lambda _path, _query: (404, {})
    seen: list[tuple[str, dict[str, str], dict[str, str]]] = field(default_factory=list)
    """Path, query and headers (in lower case) of each request."""
    url: str = ""
    drip_s: float = 0.0
    """Pause after each byte of an answer."""


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    script = Upstream()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = dict(parse_qsl(parts.query))
            script.seen.append((parts.path, query, {k.lower(): v for k, v in self.headers.items()}))
            status, content = script.answer(parts.path, query)
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Location", "http://169.254.169.254/")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                for number in range(len(body) if script.drip_s else 0):
                    self.wfile.write(body[number : number + 1])
                    self.wfile.flush()
                    time.sleep(script.drip_s)
                if not script.drip_s:
                    self.wfile.write(body)
            except (BrokenPipeError, ConnectionResetError):
                pass

        def log_message(self, format: str, *args: Any) -> None:
            """Tests are quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    script.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield script
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def admin(world: World) -> Iterator[TestClient]:
    """A client with an admin's key."""
    settings = Settings(home=world.home)
    settings.secret_box.create_if_missing()
    with TestClient(app_of(Parts(settings=settings, database=world.database))) as client:
        client.headers["authorization"] = f"Bearer {world.add_key(Role.ADMIN)}"
        yield client


@pytest.fixture
def operator(admin: TestClient, world: World) -> dict[str, str]:
    """Headers with an operator's key."""
    assert admin is not None
    return {"authorization": f"Bearer {world.add_key(Role.OPERATOR)}"}


def error_of(response: Response) -> dict[str, Any]:
    body: dict[str, Any] = response.json()["error"]
    return body


def add(admin: TestClient, preset: str, **body: object) -> types.Provider:
    made = admin.post(f"{API}/providers", json={"preset": preset, **body})
    assert made.status_code == 201, made.text
    return types.Provider.model_validate(made.json())


def set_key(admin: TestClient, provider: str, key: str = "main", secret: str = SECRET) -> Response:
    return admin.put(f"{API}/providers/{provider}/keys/{key}", json={"secret": secret})


def refusing(status: int, _path: str, _query: dict[str, str]) -> tuple[int, Any]:
    return status, {}


def models(*names: str) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": name} for name in names]}


# --- providers --------------------------------------------------------------------------------------------


def test_presets_say_what_they_are(admin: TestClient) -> None:
    found = {each["name"]: each for each in admin.get(f"{API}/provider-presets").json()["data"]}
    assert found["openai"]["base_url"] == "https://api.openai.com/v1"
    assert found["anthropic"]["wire"] == "anthropic"
    assert found["azure-openai"]["base_url"] is None
    assert found["ollama"]["settings"]["needs_key"] is False


def test_a_provider_is_added_changed_listed_and_removed(admin: TestClient) -> None:
    made = add(admin, "openai", settings={"headers": {"OpenAI-Organization": "org-1"}, "drop": ["user"]})
    assert (made.name, made.preset, made.wire, made.enabled) == ("openai", "openai", "openai", True)
    assert made.settings["headers"] == {"OpenAI-Organization": "org-1"}
    assert made.settings["paths"]["chat"] == "/chat/completions"  # the preset's
    other = add(admin, "vllm", name="gpu-1", base_url="http://gpu-1:8000/v1/")
    assert other.base_url == "http://gpu-1:8000/v1"
    listed = admin.get(f"{API}/providers").json()["data"]
    assert [each["name"] for each in listed] == ["gpu-1", "openai"]
    patch = {"enabled": False, "settings": {"drop": None, "paths": {"responses": None}}}
    changed = types.Provider.model_validate(admin.patch(f"{API}/providers/openai", json=patch).json())
    assert (changed.enabled, changed.settings["drop"]) == (False, [])
    assert "responses" not in changed.settings["paths"]
    assert changed.settings["headers"] == {"OpenAI-Organization": "org-1"}
    assert admin.get(f"{API}/providers/openai").json() == changed.model_dump(mode="json")
    assert admin.delete(f"{API}/providers/openai").json()["name"] == "openai"
    missing = admin.get(f"{API}/providers/openai")
    assert (missing.status_code, "`raymill provider list`" in error_of(missing)["message"]) == (404, True)


@pytest.mark.parametrize(
    ("body", "status", "param", "words"),
    [
        ({"preset": "opnai"}, 422, "preset", "did you mean openai?"),
        ({"preset": "vllm"}, 422, "base_url", "give base_url"),
        ({"preset": "openai", "base_url": "http://169.254.169.254/x"}, 422, "base_url", "link-local"),
        ({"preset": "openai", "base_url": "https://a:b@c/"}, 422, "base_url", "a user or a password"),
        ({"preset": "openai", "name": "raymill"}, 422, "name", "means our own versions"),
        ({"preset": "openai", "settings": {"auht": "none"}}, 422, "auht", "did you mean auth?"),
        (
            {"preset": "openai", "settings": {"headers": {"Cookie": "x"}}},
            422,
            "headers",
            "looks like a secret",
        ),
        ({"preset": "openai", "secret": SECRET}, 422, "secret", "Extra inputs"),
        ({"preset": "mistral"}, 409, None, "exists already"),
    ],
)
def test_a_provider_that_makes_no_sense_is_refused_with_the_cure(
    admin: TestClient, body: dict[str, Any], status: int, param: str | None, words: str
) -> None:
    add(admin, "mistral")
    refused = admin.post(f"{API}/providers", json=body)
    assert refused.status_code == status
    assert (error_of(refused)["param"], words in error_of(refused)["message"]) == (param, True), refused.text
    assert SECRET not in refused.text


def test_a_removed_provider_must_not_be_missed(admin: TestClient) -> None:
    add(admin, "openai")
    config = {"targets": [{"provider": "openai", "model": "gpt-4o"}]}
    assert admin.put(f"{API}/routes/smart", json={"config": config}).status_code == 200
    refused = admin.delete(f"{API}/providers/openai")
    assert (refused.status_code, "a target of smart" in error_of(refused)["message"]) == (409, True)


# --- keys -------------------------------------------------------------------------------------------------


def test_a_secret_goes_in_and_is_in_no_answer(admin: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    add(admin, "openai")
    made = set_key(admin, "openai")
    key = types.ProviderKey.model_validate(made.json())
    assert (key.name, key.hint, key.enabled, key.rotated_at) == ("main", "…cdef", True, None)
    rotated = types.ProviderKey.model_validate(set_key(admin, "openai", secret=f"{SECRET}-2").json())
    assert rotated.rotated_at is not None
    disabled = admin.patch(f"{API}/providers/openai/keys/main", json={"enabled": False})
    assert disabled.json()["enabled"] is False
    seen = [
        made.text,
        admin.get(f"{API}/providers").text,
        admin.get(f"{API}/providers/openai/keys").text,
        admin.get(f"{API}/audit").text,
        admin.delete(f"{API}/providers/openai/keys/main").text,
        caplog.text,
    ]
    assert all(SECRET[:-4] not in text for text in seen)
    assert admin.get(f"{API}/providers/openai/keys").json()["data"] == []


@pytest.mark.parametrize("secret", ["", "two words", 7, None, ["x"]])
def test_a_wrong_secret_is_not_repeated(admin: TestClient, secret: object) -> None:
    add(admin, "openai")
    refused = admin.put(f"{API}/providers/openai/keys/main", json={"secret": secret})
    assert refused.status_code == 422
    assert "two words" not in refused.text


def test_a_new_master_key_seals_all_keys_and_they_go_on_working(
    admin: TestClient, upstream: Upstream
) -> None:
    add(admin, "openai", base_url=upstream.url)
    before = set_key(admin, "openai").json()["master_key"]
    made = identity_types.Resealed.model_validate(admin.post(f"{API}/master-keys/rotate").json())
    assert made.resealed == 1
    after = admin.get(f"{API}/providers/openai").json()["keys"][0]["master_key"]
    assert after == made.id != before
    upstream.answer = lambda _path, _query: (200, models())
    assert admin.post(f"{API}/providers/openai/test").json()["ok"] is True


# --- tests and syncs --------------------------------------------------------------------------------------


def test_a_test_calls_the_provider_with_its_key_and_is_kept(admin: TestClient, upstream: Upstream) -> None:
    add(admin, "openai", base_url=f"{upstream.url}/v1", settings={"query": {"v": "1"}})
    without = admin.post(f"{API}/providers/openai/test")
    assert (without.status_code, "has no enabled key" in error_of(without)["message"]) == (409, True)
    set_key(admin, "openai", "first", "sk-first")
    set_key(admin, "openai", "second", "sk-second")
    upstream.answer = lambda _path, _query: (200, models("a"))
    found = types.ProviderCheck.model_validate(admin.post(f"{API}/providers/openai/test").json())
    assert (found.ok, found.status, found.message) == (True, 200, "")
    assert 0 < found.latency_ms < 10_000
    path, query, headers = upstream.seen[-1]
    assert (path, query) == ("/v1/models", {"v": "1"})
    assert headers["authorization"] == "Bearer sk-first"
    upstream.answer = lambda _path, _query: (401, {"error": {"message": "bad key sk-second\nreally"}})
    found = types.ProviderCheck.model_validate(admin.post(f"{API}/providers/openai/test?key=second").json())
    assert (found.ok, found.status) == (False, 401)
    assert found.message == "it answers 401 (bad key … really): check its key"
    history = admin.get(f"{API}/providers/openai/checks?limit=1").json()
    assert (history["data"][0]["status"], history["next_cursor"] is not None) == (401, True)
    assert admin.get(f"{API}/providers/openai").json()["last_check"]["status"] == 401
    assert admin.post(f"{API}/providers/openai/test?key=third").status_code == 404


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (500, b"<html>", "it answers 500 (Internal Server Error)"),
        (403, {"detail": "no"}, "it answers 403 (no): check its key"),
        (429, {"message": "slow down"}, "it answers 429 (slow down)"),
        (404, [{"error": {"message": "where?"}}], "it answers 404 (where?)"),
        (302, b"", "it answers 302, a redirect: check base_url"),
        (200, b"<html>", "its answer is no JSON: check base_url"),
        (200, b"", "its answer is no JSON: check base_url"),
        (200, {"data": {}}, "its answer is no list of models: check base_url and paths.models"),
        (200, 7, "its answer is no list of models: check base_url and paths.models"),
    ],
)
def test_an_answer_that_is_none_is_a_failed_test(
    admin: TestClient, upstream: Upstream, status: int, content: Any, message: str
) -> None:
    add(admin, "openai", base_url=upstream.url)
    set_key(admin, "openai")
    upstream.answer = lambda _path, _query: (status, content)
    found = admin.post(f"{API}/providers/openai/test").json()
    assert (found["ok"], found["status"], found["message"]) == (False, status, message)
    assert len(upstream.seen) == 1  # no redirect is followed


def test_no_answer_is_a_failed_test_without_a_status(admin: TestClient) -> None:
    add(admin, "ollama", base_url="http://127.0.0.1:9/v1")
    found = admin.post(f"{API}/providers/ollama/test").json()
    assert (found["ok"], found["status"]) == (False, None)
    assert found["message"].startswith("no answer (")


def test_a_provider_that_drips_is_given_up_at_the_deadline(upstream: Upstream) -> None:
    upstream.answer = lambda _path, _query: (200, models(*(f"model-{n}" for n in range(100))))
    upstream.drip_s = 0.05
    settings = ProviderSettings(paths={"models": "/models"})
    probed = probe.Probed(wire="openai", base_url=upstream.url, settings=settings)
    started_s = time.monotonic()
    found = probe.check(probed, timeout_s=0.3)
    assert time.monotonic() - started_s < 30  # all of it takes longer
    assert (found.ok, "not answered within 0.3 s" in found.message) == (False, True)


def test_a_probe_shows_its_secret_to_nobody() -> None:
    probed = probe.Probed(wire="openai", base_url="http://h", settings=ProviderSettings(), secret=SECRET)
    assert SECRET not in repr(probed)


def test_where_the_list_is_open_to_everyone_a_test_asks_for_something_else(
    admin: TestClient, upstream: Upstream
) -> None:
    add(admin, "openrouter", base_url=upstream.url)
    set_key(admin, "openrouter")
    upstream.answer = lambda path, _query: (200, models("a/b")) if path == "/models" else (401, {})
    assert admin.post(f"{API}/providers/openrouter/test").json()["ok"] is False
    assert admin.post(f"{API}/providers/openrouter/sync").json()["models"] == ["a/b"]


def test_a_sync_keeps_the_models_and_shows_what_each_costs(admin: TestClient, upstream: Upstream) -> None:
    add(admin, "openai", base_url=upstream.url)
    set_key(admin, "openai")
    upstream.answer = lambda _path, _query: (200, models("gpt-4o-2024-08-06", "new-model", "mine"))
    body = {"input_micro_usd": 1, "output_micro_usd": 2}
    admin.put(f"{API}/prices/*/mine", json=body).raise_for_status()
    found = types.Sync.model_validate(admin.post(f"{API}/providers/openai/sync").json())
    assert (found.check.ok, found.models) == (True, ["gpt-4o-2024-08-06", "mine", "new-model"])
    shown = [
        types.ProviderModel.model_validate(each)
        for each in admin.get(f"{API}/providers/openai/models").json()["data"]
    ]
    assert [each.model for each in shown] == found.models
    dated, mine, new = [each.price for each in shown]
    assert dated is not None
    assert (dated.model, dated.source, dated.input_micro_usd) == ("gpt-4o", "table", 2_500_000)
    assert mine is not None
    assert (mine.provider, mine.model, mine.source) == ("*", "mine", "override")
    assert new is None
    assert admin.get(f"{API}/providers/openai").json()["models"] == 3


def test_a_sync_that_fails_keeps_what_is_known_and_the_check(admin: TestClient, upstream: Upstream) -> None:
    add(admin, "openai", base_url=upstream.url)
    set_key(admin, "openai")
    upstream.answer = lambda _path, _query: (200, models("a"))
    admin.post(f"{API}/providers/openai/sync").raise_for_status()
    for status, answered in ((401, 409), (500, 503), (429, 503)):
        upstream.answer = partial(refusing, status)
        refused = admin.post(f"{API}/providers/openai/sync")
        assert refused.status_code == answered
        assert f"openai gave no list of models: it answers {status}" in error_of(refused)["message"]
    assert admin.get(f"{API}/providers/openai").json()["models"] == 1
    assert len(admin.get(f"{API}/providers/openai/checks").json()["data"]) == 4


def test_anthropic_is_asked_in_its_own_way_page_by_page(admin: TestClient, upstream: Upstream) -> None:
    def answer(path: str, query: dict[str, str]) -> tuple[int, Any]:
        assert (path, query["limit"]) == ("/v1/models", "1000")
        if "after_id" not in query:
            return 200, {"data": [{"id": "claude-a"}], "has_more": True, "last_id": "claude-a"}
        assert query["after_id"] == "claude-a"
        return 200, {"data": [{"id": "claude-b"}], "has_more": False, "last_id": "claude-b"}

    upstream.answer = answer
    add(admin, "anthropic", base_url=upstream.url)
    set_key(admin, "anthropic")
    assert admin.post(f"{API}/providers/anthropic/sync").json()["models"] == ["claude-a", "claude-b"]
    headers = upstream.seen[0][2]
    assert (headers["x-api-key"], headers["anthropic-version"]) == (SECRET, "2023-06-01")
    assert "authorization" not in headers


def test_gemini_is_asked_in_its_own_way_page_by_page(admin: TestClient, upstream: Upstream) -> None:
    def answer(_path: str, query: dict[str, str]) -> tuple[int, Any]:
        if "pageToken" not in query:
            return 200, {"models": [{"name": "models/gemini-a"}], "nextPageToken": "p2"}
        return 200, {"models": [{"name": "models/gemini-b"}]}

    upstream.answer = answer
    add(admin, "gemini", base_url=f"{upstream.url}/v1beta")
    set_key(admin, "gemini")
    assert admin.post(f"{API}/providers/gemini/sync").json()["models"] == ["gemini-a", "gemini-b"]
    assert [seen[0] for seen in upstream.seen] == ["/v1beta/models"] * 2
    assert upstream.seen[0][2]["x-goog-api-key"] == SECRET


def test_a_list_without_end_is_left_after_a_while(admin: TestClient, upstream: Upstream) -> None:
    upstream.answer = lambda _path, query: (
        200,
        {"models": [], "nextPageToken": query.get("pageToken", "") + "x"},
    )
    add(admin, "gemini", base_url=upstream.url)
    set_key(admin, "gemini")
    assert admin.post(f"{API}/providers/gemini/sync").json()["models"] == []
    assert len(upstream.seen) == probe.MAX_PAGES


def test_a_list_without_a_wrapper_is_read_too(admin: TestClient, upstream: Upstream) -> None:
    upstream.answer = lambda _path, _query: (200, [{"id": "b"}, {"id": "a"}, {"name": "c"}, 7])
    add(admin, "together", base_url=upstream.url)
    set_key(admin, "together")
    assert admin.post(f"{API}/providers/together/sync").json()["models"] == ["a", "b"]


# --- prices -----------------------------------------------------------------------------------------------


def test_prices_are_the_tables_until_they_are_overridden(admin: TestClient) -> None:
    assert admin.get(f"{API}/prices").json()["data"] == []  # of no provider
    add(admin, "groq", name="fast")

    def found() -> dict[tuple[str, str], types.ModelPrice]:
        data = admin.get(f"{API}/prices").json()["data"]
        prices = [types.ModelPrice.model_validate(each) for each in data]
        return {(each.provider, each.model): each for each in prices}

    model = "openai/gpt-oss-20b"
    table = found()["fast", model]
    assert (table.source, table.input_micro_usd, table.output_micro_usd) == ("table", 75_000, 300_000)
    body = {"input_micro_usd": 5, "output_micro_usd": 9, "max_output_tokens": 100}
    made = types.ModelPrice.model_validate(admin.put(f"{API}/prices/fast/{model}", json=body).json())
    assert (made.model, made.cached_input_micro_usd, made.source) == (model, 5, "override")
    assert found()["fast", model] == made
    admin.put(f"{API}/prices/*/openai%2Fgpt-oss-120b", json=body).raise_for_status()
    assert ("fast", "openai/gpt-oss-120b") not in found()  # the override for any provider holds
    assert ("*", "openai/gpt-oss-120b") in found()
    admin.delete(f"{API}/prices/fast/{model}").raise_for_status()
    assert found()["fast", model] == table
    assert admin.delete(f"{API}/prices/fast/{model}").status_code == 404


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input_micro_usd": -1, "output_micro_usd": 0}, "input_micro_usd"),
        ({"input_micro_usd": 0.5, "output_micro_usd": 0}, "input_micro_usd"),
        ({"input_micro_usd": 0}, "output_micro_usd"),
        ({"input_micro_usd": 0, "output_micro_usd": 10**13}, "output_micro_usd"),
        ({"input_micro_usd": 0, "output_micro_usd": 0, "max_output_tokens": 0}, "max_output_tokens"),
    ],
)
def test_a_price_is_a_whole_number_of_micro_dollars(
    admin: TestClient, body: dict[str, Any], param: str
) -> None:
    refused = admin.put(f"{API}/prices/*/m", json=body)
    assert (refused.status_code, error_of(refused)["param"]) == (422, param)
    assert (
        admin.put(f"{API}/prices/nobody/m", json={"input_micro_usd": 0, "output_micro_usd": 0}).status_code
        == 404
    )


# --- routes and presets -----------------------------------------------------------------------------------


def test_an_operator_makes_switches_and_removes_a_route(admin: TestClient, operator: dict[str, str]) -> None:
    add(admin, "openai")
    url = f"{API}/routes/team%2Fsmart:v1"
    config = {"targets": [{"provider": "openai", "model": "gpt-4o", "weight": 3}], "sticky": "user"}
    made = types.Route.model_validate(admin.put(url, json={"config": config}, headers=operator).json())
    assert (made.name, made.enabled) == ("team/smart:v1", True)
    assert made.config["timeouts"]["first_token_s"] == 60.0  # resolved
    assert admin.get(url).json() == made.model_dump(mode="json")
    again = admin.put(url, json={"config": {"targets": made.config["targets"]}}, headers=operator).json()
    assert (again["id"], again["config"]["sticky"]) == (str(made.id), None)
    assert admin.patch(url, json={"enabled": False}, headers=operator).json()["enabled"] is False
    assert [each["name"] for each in admin.get(f"{API}/routes").json()["data"]] == ["team/smart:v1"]
    assert admin.delete(url, headers=operator).json()["name"] == "team/smart:v1"
    assert admin.get(url).status_code == 404


@pytest.mark.parametrize(
    ("name", "config", "param", "words"),
    [
        ("smart", {"targets": []}, "targets", "a list of at least 1"),
        ("smart", {}, "targets", "is missing"),
        (
            "smart",
            {"targets": [{"provider": "nobody", "model": "m"}]},
            "targets[0].provider",
            "provider list",
        ),
        ("smart", {"targets": [{"provider": "openai"}]}, "targets[0].model", "is missing"),
        ("smart", {"targets": [{"provider": "openai", "model": "m", "weight": 0}]}, None, "has a weight"),
        (
            "smart",
            {"targets": [{"provider": "openai", "model": "m"}], "stategy": "weighted"},
            "stategy",
            "did you mean strategy?",
        ),
        ("smart@3", {"targets": [{"provider": "openai", "model": "m"}]}, "name", "@ is for served versions"),
        ("s%20t", {"targets": [{"provider": "openai", "model": "m"}]}, "name", "a route cannot be called"),
    ],
)
def test_a_route_that_makes_no_sense_is_refused_with_the_key_and_the_cure(
    admin: TestClient, name: str, config: dict[str, Any], param: str | None, words: str
) -> None:
    add(admin, "openai")
    refused = admin.put(f"{API}/routes/{name}", json={"config": config})
    assert refused.status_code == 422
    assert error_of(refused)["param"] == param
    assert words in error_of(refused)["message"]
    assert admin.get(f"{API}/routes").json()["data"] == []


def test_an_operator_makes_and_removes_a_preset(admin: TestClient, operator: dict[str, str]) -> None:
    url = f"{API}/presets/tutor"
    body = {"model": "openai/gpt-4o", "system": "Be kind.", "params": {"temperature": 0.2}}
    made = types.Preset.model_validate(admin.put(url, json=body, headers=operator).json())
    assert (made.name, made.model, made.params) == ("tutor", "openai/gpt-4o", {"temperature": 0.2})
    assert admin.get(url).json() == made.model_dump(mode="json")
    assert admin.get(f"{API}/presets").json()["data"] == [made.model_dump(mode="json")]
    wrong = admin.put(url, json={**body, "params": {"messages": []}}, headers=operator)
    assert (wrong.status_code, error_of(wrong)["param"]) == (422, "params.messages")
    chained = admin.put(f"{API}/presets/poet", json={**body, "model": "tutor"}, headers=operator)
    assert (chained.status_code, "is a preset itself" in error_of(chained)["message"]) == (409, True)
    assert admin.delete(url, headers=operator).status_code == 200
    assert admin.delete(url, headers=operator).status_code == 404


def test_every_change_is_in_the_audit_log_by_its_callers_name(
    admin: TestClient, operator: dict[str, str]
) -> None:
    add(admin, "openai")
    set_key(admin, "openai")
    config = {"targets": [{"provider": "openai", "model": "gpt-4o"}]}
    admin.put(f"{API}/routes/smart", json={"config": config}, headers={**operator, "x-request-id": "r-9"})
    newest = admin.get(f"{API}/audit").json()["data"][:3]
    assert [(each["actor"], each["action"]) for each in newest] == [
        ("operator", "route.set"),
        ("admin", "provider_key.set"),
        ("admin", "provider.add"),
    ]
    assert (newest[0]["object"], newest[0]["request_id"]) == ("route/smart", "r-9")

    def actions(**asked: str) -> list[str]:
        return [each["action"] for each in admin.get(f"{API}/audit", params=asked).json()["data"]]

    assert actions(kinds="route,preset") == actions(object="route/smart") == ["route.set"]
    assert actions(kinds="provider", actor="admin") == ["provider_key.set", "provider.add"]
    assert actions(actor="operator") == ["route.set"]
    assert actions(object="route/smar") == actions(kinds="rout") == []
    assert admin.get(f"{API}/audit", params={"kinds": "route/"}).status_code == 422
    assert admin.get(f"{API}/audit/verify").json()["ok"] is True
