"""Keys, the audit log and the keys that sign, over HTTP."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from tests.registry.making import World
from tests.serve.api_lab import API, admin, error_of, stranger

from raymill.client import types
from raymill.cluster.settings import FRONT_HEADER, Settings
from raymill.registry.audit_chain import verify_lines
from raymill.registry.audit_roots import verify_root
from raymill.serve.registry_source import RegistrySource

__all__ = ["admin", "stranger"]  # fixtures


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
    told[FRONT_HEADER] = Settings(home=world.home).front_key
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
