"""The calls of logins and passwords as data, for both clients. Sends nothing."""

from __future__ import annotations

from raymill.client import identity_types as types
from raymill.client.endpoints import Call, Id, at
from raymill.client.types import Page

REWRAP_TIMEOUT_S = 600.0
"""Sealing hundreds of thousands of secrets anew takes minutes."""


def log_in(body: types.LoginRequest) -> Call[types.Tokens]:
    return Call(method="POST", path=at("sessions"), body=body, returns=types.Tokens, repeatable=False)


def sessions(account: str | None) -> Call[Page[types.LoginSession]]:
    return Call(path=at("sessions"), query={"account": account}, returns=Page[types.LoginSession])


def end_session(session_id: Id) -> Call[types.LoginSession]:
    return Call(method="DELETE", path=at("sessions", session_id), returns=types.LoginSession)


def whoami() -> Call[types.Me]:
    return Call(path=at("whoami"), returns=types.Me)


def set_password(account: str, body: types.PasswordRequest) -> Call[types.PasswordSet]:
    path = at("accounts", account, "password")
    return Call(method="PUT", path=path, body=body, returns=types.PasswordSet, repeatable=False)


def change_password(body: types.PasswordChange) -> Call[types.PasswordSet]:
    return Call(method="PUT", path=at("password"), body=body, returns=types.PasswordSet, repeatable=False)


def start_oidc(body: types.OidcStart) -> Call[types.OidcStarted]:
    return Call(method="POST", path=at("oidc", "start"), body=body, returns=types.OidcStarted)


def finish_oidc(body: types.OidcFinish) -> Call[types.Tokens]:
    path = at("oidc", "finish")
    return Call(method="POST", path=path, body=body, returns=types.Tokens, repeatable=False)


def link_identity(account: str, body: types.IdentityRequest) -> Call[types.Identity]:
    return Call(method="PUT", path=at("accounts", account, "identity"), body=body, returns=types.Identity)


def unlink_identity(account: str, subject: str) -> Call[types.Identity]:
    path = at("accounts", account, "identity")
    return Call(method="DELETE", path=path, query={"subject": subject}, returns=types.Identity)


def master_keys() -> Call[Page[types.MasterKey]]:
    return Call(path=at("master-keys"), returns=Page[types.MasterKey])


def rotate_master_key() -> Call[types.Resealed]:
    path = at("master-keys", "rotate")
    return Call(
        method="POST", path=path, returns=types.Resealed, repeatable=False, timeout_s=REWRAP_TIMEOUT_S
    )


def rewrap() -> Call[types.Resealed]:
    path = at("master-keys", "rewrap")
    return Call(method="POST", path=path, returns=types.Resealed, timeout_s=REWRAP_TIMEOUT_S)


def retire_master_key(key_id: str) -> Call[Page[types.MasterKey]]:
    path = at("master-keys", key_id)
    return Call(method="DELETE", path=path, returns=Page[types.MasterKey], repeatable=False)


def person(account: str) -> Call[types.Person]:
    return Call(path=at("accounts", account, "person"), returns=types.Person)


def set_person(account: str, body: types.PersonUpdate) -> Call[types.Person]:
    path = at("accounts", account, "person")
    return Call(method="PATCH", path=path, body=body, returns=types.Person)


def export(account: str) -> Call[types.Export]:
    path = at("accounts", account, "export")
    return Call(path=path, returns=types.Export, timeout_s=REWRAP_TIMEOUT_S)


def erase(account: str) -> Call[types.Erased]:
    return Call(method="POST", path=at("accounts", account, "erase"), returns=types.Erased)
