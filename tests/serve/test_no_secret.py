"""Every kind of secret goes in, is used and misused; then nothing that the service says, logs or keeps holds one.

Asked for are answers, errors, logs down to DEBUG, every row of every table, files of the home (apart from the folder of
keys), and what the gateway leaves of a traced request: its spool, its metrics.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tests.registry.making import World
from tests.serve.api_lab import recipe
from tests.serve.gateway_lab import lab
from tests.serve.gateway_tools import KEY, provider, route, source_of
from tests.serve.scripted_upstream import Seen, Writer, error, says, scripted

from raymill.cluster.settings import Settings
from raymill.registry import webhooks
from raymill.registry.database import Database
from raymill.registry.tables import Role
from raymill.serve.api.access import ACCESS

API = "/api/v1"
PASSWORD = "tangerine staircase 71"
WRONG_PASSWORD = "tangerine staircase 17"
PROVIDER_KEY = "sk-proj-5up3rS3cr3tV4lu3"
BAD_PROVIDER_KEY = "sk-with a space 8842"
STRANGERS_KEY = "rm-of-somebody-elses-service"
MAIL = "ada.lovelace@analytical.example"


def rows_of(database: Database) -> str:
    """Every row of every table, as text."""
    with database.engine.connect() as connection:
        tables = connection.exec_driver_sql(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        ).scalars()
        return "\n".join(
            row
            for table in tables.all()
            for row in connection.exec_driver_sql(f'SELECT to_jsonb(t)::text FROM "{table}" t').scalars()
        )


def files_of(folder: Path) -> str:
    return "\n".join(
        path.read_bytes().decode(errors="replace")
        for path in folder.rglob("*")
        if path.is_file() and folder / "keys" not in path.parents
    )


def found(secrets: dict[str, str], places: dict[str, str]) -> list[tuple[str, str]]:
    assert all(places.values())  # a place where nothing was written proves nothing
    return [
        (name, place) for name, secret in secrets.items() for place, text in places.items() if secret in text
    ]


def test_no_secret_is_in_answers_errors_logs_rows_or_files(
    app: FastAPI, world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    Settings(home=world.home).secret_box.create_if_missing()
    admin_key = world.add_key(Role.ADMIN)
    said: list[str] = []
    with TestClient(app, raise_server_exceptions=False) as client:

        def call(method: str, path: str, body: object = None, *, well: bool = True, **headers: str) -> Any:
            """A call whose answer must hold no secret."""
            sent = {"authorization": f"Bearer {admin_key}", **headers}
            answer = client.request(method, f"{API}/{path}", json=body, headers=sent)
            assert answer.is_success is well, (path, answer.text)
            assert answer.status_code < 500
            said.append(f"{answer.headers} {answer.text}")
            return answer.json()

        def told(path: str, body: object, *fields: str, **headers: str) -> list[str]:
            """A call whose answer is the one that tells a secret; it is not looked at."""
            sent = {"authorization": f"Bearer {admin_key}", **headers}
            answer = client.post(f"{API}/{path}", json=body, headers=sent)
            return [str(answer.raise_for_status().json()[name]) for name in fields]

        call("POST", "accounts", {"name": "ada", "role": "operator"})
        call("PATCH", "accounts/ada/person", {"display_name": "Ada", "email": MAIL})
        call("PUT", "accounts/ada/password", {"password": PASSWORD})
        call("PUT", "accounts/ada/password", {"password": [PASSWORD]}, well=False)
        (key,) = told("keys", {"account": "ada", "name": "laptop"}, "key")
        access, refresh = told(
            "sessions", {"account": "ada", "password": PASSWORD}, "access_token", "refresh_token"
        )
        call("POST", "sessions", {"account": "ada", "password": WRONG_PASSWORD}, well=False)
        call("POST", "sessions/refresh", {"refresh_token": f"{refresh}x"}, well=False)
        call("GET", "whoami", authorization=f"Bearer {access}")
        call("GET", "whoami", authorization=f"Bearer {key}")
        call("GET", "whoami", well=False, authorization=f"Bearer {STRANGERS_KEY}")
        call("POST", "providers", {"preset": "openai"})
        call("PUT", "providers/openai/keys/main", {"secret": PROVIDER_KEY})
        call("PUT", "providers/openai/keys/bad", {"secret": BAD_PROVIDER_KEY}, well=False)
        call("PUT", "providers/openai/keys/bad", {"secret": {"value": BAD_PROVIDER_KEY}}, well=False)
        call("PUT", "providers/openai/keys/bad", [BAD_PROVIDER_KEY], well=False)
        (trigger,) = told("triggers", {"name": "t", "on": "webhook", "recipe": recipe(tmp_path)}, "secret")
        hook_body = {
            "name": "h",
            "on": ["pipeline.failed"],
            "action": "webhook",
            "config": {"url": "http://h/"},
        }
        (hook,) = told("hooks", hook_body, "secret")
        call("POST", "hooks", hook_body, well=False)
        signed = {"x-raymill-signature": webhooks.sign(trigger, b"{}"), "authorization": f"Bearer {trigger}"}
        call("POST", "triggers/t/webhook", {"not": "what was signed"}, well=False, **signed)
        call("POST", "master-keys/rotate")
        for method, path in (row.split(" /", 1) for row in ACCESS):
            if method == "GET" and "{" not in path and path not in ("metrics", "ws", "events"):
                answer = client.get(f"{API}/{path}", headers={"authorization": f"Bearer {admin_key}"})
                said.append(answer.text)
    secrets = {
        "password": PASSWORD,
        "wrong password": WRONG_PASSWORD,
        "provider's key": PROVIDER_KEY,
        "provider's key that was refused": BAD_PROVIDER_KEY,
        "stranger's key": STRANGERS_KEY,
        "administrator's key": admin_key,
        "API key": key,
        "access token": access,
        "refresh token": refresh,
        "trigger's secret": trigger,
        "hook's secret": hook,
    }
    logs = "\n".join(f"{record.getMessage()} {record.exc_text or ''}" for record in caplog.records)
    rows = rows_of(world.database)
    assert (
        found(
            secrets, {"answers": "\n".join(said), "logs": logs, "rows": rows, "files": files_of(world.home)}
        )
        == []
    )
    assert found({"mail": MAIL}, {"logs": logs, "rows": rows}) == []


def test_the_gateway_passes_no_key_on_that_a_provider_repeats(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def repeats(seen: Seen, writer: Writer) -> None:
        message = f"Incorrect API key provided: {seen.headers['authorization']}"
        await says(401, error(message))(seen, writer)

    with scripted() as upstream:
        providers = [provider("up", upstream.url)]
        source = source_of(
            providers, route("traced", providers, [{"provider": "up", "model": "m"}], keep_traces=True)
        )
        with lab(upstream, source, tmp_path) as made:
            upstream.on("m", repeats)
            answer = made.ask("traced", id="told")
            made.closed("told")
            places = {
                "answer": f"{answer.headers} {answer.text}",
                "files": files_of(tmp_path),
                "metrics": made.metrics(),
                "logs": "\n".join(record.getMessage() for record in caplog.records) or "none",
            }
    assert answer.status_code >= 400, json.dumps(places)
    assert found({"provider's key": "sk-up-0", "caller's key": KEY}, places) == []
