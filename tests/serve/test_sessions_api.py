"""Logins over HTTP, and the command that keeps them."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlalchemy import select
from tests.registry.making import ADA, World
from tests.serve.listening import listening

from raymill.client.cli.main import run
from raymill.client.sdk import AsyncRaymill, Raymill
from raymill.client.session_auth import stored
from raymill.client.session_file import FILE, SessionFile, StoredSession
from raymill.cluster.settings import FRONT_HEADER
from raymill.registry import identity, passwords
from raymill.registry.secrets import SecretBox
from raymill.registry.tables import AuditEvent, Role

API = "/api/v1"
PASSWORD = "correct horse battery"


@pytest.fixture
def stranger(app: FastAPI, world: World) -> Iterator[TestClient]:
    """Nobody yet; `bob`, an operator, has a password."""
    SecretBox(world.home / "keys" / "secrets").create_if_missing()
    with world.database.transaction() as session:
        bob = identity.create_account(session, "bob", Role.OPERATOR, ADA)
        passwords.set_password(session, bob, PASSWORD, ADA)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def log_in(client: TestClient, account: str = "bob", password: str = PASSWORD, address: str = "") -> Response:
    app: Any = client.app
    front = {FRONT_HEADER: app.state.parts.settings.front_key}
    headers = {"x-forwarded-for": address, **front} if address else {}
    return client.post(f"{API}/sessions", json={"account": account, "password": password}, headers=headers)


def bearer(tokens: dict[str, str]) -> dict[str, str]:
    return {"authorization": f"Bearer {tokens['access_token']}"}


def test_a_login_opens_what_its_role_may_and_ends_with_logout(stranger: TestClient, world: World) -> None:
    made = log_in(stranger, address="192.0.2.9")
    assert made.status_code == 201
    headers = bearer(made.json())
    me = stranger.get(f"{API}/whoami", headers=headers).json()
    assert (me["account"], me["role"], me["session_id"]) == ("bob", "operator", made.json()["session_id"])
    assert stranger.get(f"{API}/accounts", headers=headers).status_code == 403
    (kept,) = stranger.get(f"{API}/sessions", headers=headers).json()["data"]
    assert (kept["address"], kept["current"]) == ("192.0.2.9", True)
    admin = {"authorization": f"Bearer {world.add_key(Role.ADMIN)}"}
    assert stranger.get(f"{API}/whoami", headers=admin).json()["session_id"] is None
    assert len(stranger.get(f"{API}/sessions?account=bob", headers=admin).json()["data"]) == 1
    assert stranger.get(f"{API}/sessions?account=admin", headers=headers).status_code == 403
    with stranger.websocket_connect(f"{API}/ws", headers=headers) as socket:
        assert socket.receive_json() == {"type": "ready"}
    assert stranger.delete(f"{API}/sessions/{me['session_id']}", headers=headers).status_code == 200
    assert stranger.get(f"{API}/whoami", headers=headers).status_code == 401
    with world.database.transaction() as session:
        row = session.scalars(select(AuditEvent).where(AuditEvent.action == "session.open")).one()
    assert (row.actor, row.address) == ("bob", "192.0.2.9")


def test_nothing_tells_whether_an_account_exists_and_guessing_is_stopped(
    stranger: TestClient, world: World
) -> None:
    def wrong(account: str) -> list[tuple[int, str]]:
        answers = [log_in(stranger, account, "wrong", "192.0.2.1") for _ in range(6)]
        assert answers[-1].headers["retry-after"] == "30"
        return [(each.status_code, each.json()["error"]["message"]) for each in answers]

    assert wrong("bob") == wrong("nobody")
    assert [each[0] for each in wrong("eve")] == [401] * 5 + [429]
    assert log_in(stranger).status_code == 429  # the right password has to wait too
    admin = {"authorization": f"Bearer {world.add_key(Role.ADMIN)}"}
    body = {"password": PASSWORD}
    stranger.put(f"{API}/accounts/bob/password", json=body, headers=admin).raise_for_status()
    assert log_in(stranger).status_code == 201


def test_a_used_refresh_token_ends_the_session_for_both(stranger: TestClient) -> None:
    first = log_in(stranger).json()
    body = {"refresh_token": first["refresh_token"]}
    second = stranger.post(f"{API}/sessions/refresh", json=body)
    assert second.status_code == 200
    assert stranger.get(f"{API}/whoami", headers=bearer(second.json())).status_code == 200
    assert stranger.post(f"{API}/sessions/refresh", json=body).status_code == 401
    time.sleep(0.6)  # what was known of a token is kept for half a second
    assert stranger.get(f"{API}/whoami", headers=bearer(second.json())).status_code == 401


def test_a_new_password_ends_the_other_sessions(stranger: TestClient, world: World) -> None:
    mine, other = log_in(stranger).json(), log_in(stranger).json()
    change = {"current": PASSWORD, "password": "another long enough one"}
    refused = stranger.put(f"{API}/password", json={**change, "current": "wrong"}, headers=bearer(mine))
    assert refused.status_code == 401
    done = stranger.put(f"{API}/password", json=change, headers=bearer(mine))
    assert done.json() == {"account": "bob", "ended_sessions": 1}
    assert stranger.get(f"{API}/whoami", headers=bearer(mine)).status_code == 200
    assert stranger.get(f"{API}/whoami", headers=bearer(other)).status_code == 401
    admin = {"authorization": f"Bearer {world.add_key(Role.ADMIN)}"}
    set_ = stranger.put(f"{API}/accounts/bob/password", json={"password": PASSWORD}, headers=admin)
    assert set_.json()["ended_sessions"] == 1
    assert log_in(stranger).status_code == 201


def test_a_role_is_changed_from_now_on_but_not_ones_own(stranger: TestClient, world: World) -> None:
    headers = bearer(log_in(stranger).json())
    admin = {"authorization": f"Bearer {world.add_key(Role.ADMIN)}"}
    assert (
        stranger.patch(f"{API}/accounts/bob", json={"role": "viewer"}, headers=admin).json()["role"]
        == "viewer"
    )
    assert stranger.get(f"{API}/whoami", headers=headers).json()["role"] == "viewer"
    own = stranger.patch(f"{API}/accounts/admin", json={"role": "viewer"}, headers=admin)
    assert (own.status_code, "your own account" in own.text) == (409, True)


# --- the command ------------------------------------------------------------------------------------------


@pytest.fixture
def url(stranger: TestClient) -> Iterator[str]:
    """The control plane behind a real socket."""
    with listening(stranger.app) as found:
        yield found


def test_the_command_logs_in_renews_by_itself_and_logs_out(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "client"
    monkeypatch.setenv("RAYMILL_HOME", str(home))
    monkeypatch.setenv("RAYMILL_URL", url)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))
    assert run(["login", "bob", "--password-stdin"]) == 0
    assert "bob is operator, until" in capsys.readouterr().out
    assert (home / FILE).stat().st_mode & 0o777 == 0o600
    file = SessionFile(home)
    first = file.get(url)
    assert first is not None
    file.put(url, StoredSession(**{**vars(first), "expires_at": time.time() + 5}))
    assert run(["whoami"]) == 0
    assert "bob is operator, by login" in capsys.readouterr().out
    second = file.get(url)
    assert second is not None
    assert second.refresh_token != first.refresh_token
    assert run(["session", "list", "--json"]) == 0
    assert [each["id"] for each in json.loads(capsys.readouterr().out)] == [first.session_id]
    monkeypatch.setenv("RAYMILL_API_KEY", "rm-of-nobody")
    assert run(["logout"]) == 1
    assert "is not valid" in capsys.readouterr().err
    assert file.get(url) == second  # it has not ended, so it is not forgotten
    monkeypatch.delenv("RAYMILL_API_KEY")
    assert run(["logout"]) == 0
    assert file.get(url) is None
    assert run(["whoami"]) == 1
    assert "no API key" in capsys.readouterr().err
    file.put(url, StoredSession(**{**vars(second), "expires_at": 0.0}))
    assert run(["whoami"]) == 1
    assert "has ended: log in again" in capsys.readouterr().err


def test_clients_that_share_a_login_renew_it_once(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYMILL_HOME", str(tmp_path))
    file = SessionFile(tmp_path)
    with Raymill(url, "none") as client:
        tokens = client.sessions.create("bob", PASSWORD)
    file.put(url, StoredSession(**{**vars(stored(tokens)), "expires_at": 0.0}))

    async def all_at_once() -> list[str]:
        async with AsyncRaymill(url) as one, AsyncRaymill(url) as other:
            asked = [one.sessions.whoami(), other.sessions.whoami(), one.sessions.whoami()]
            return [me.account for me in await asyncio.gather(*asked)]

    assert asyncio.run(all_at_once()) == ["bob"] * 3
    with Raymill(url) as client:
        assert [str(each.id) for each in client.sessions.list()] == [str(tokens.session_id)]
