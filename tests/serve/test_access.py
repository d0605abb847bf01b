"""Who may call what of the control plane."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from httpx2 import Response
from tests.registry.making import World
from tests.serve.api_lab import API, NOBODY, error_of, stranger

from raymill.cluster.settings import Settings
from raymill.registry.tables import Role
from raymill.serve.api.access import ACCESS, OPEN, check_complete, row_of
from raymill.serve.api.app import create_app
from raymill.serve.api.context import Parts, caller

__all__ = ["stranger"]  # fixtures


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
    if path == f"{API}/events":
        path += "?since=nothing"  # who gets in is told so, for the stream would not end
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
