"""Accounts and API keys."""

from __future__ import annotations

import datetime as dt
import uuid
from functools import partial

from fastapi import APIRouter
from sqlalchemy import select

from raymill.client import types
from raymill.registry import identity, tables
from raymill.registry.tables import Role
from raymill.serve.api import wire
from raymill.serve.api.context import SessionDep, Who
from raymill.serve.api.paging import Cursor, Limit, page
from raymill.serve.api.threads import ThreadRoute

router = APIRouter(tags=["identity"], route_class=ThreadRoute)


@router.get("/accounts")
def accounts(
    _: Who, opened: SessionDep, limit: Limit = 50, cursor: Cursor = None
) -> types.Page[types.Account]:
    """Newest first."""
    return page(opened, select(tables.Account), tables.Account.id, wire.account, limit=limit, cursor=cursor)


@router.post("/accounts", status_code=201)
def create_account(body: types.AccountRequest, who: Who, opened: SessionDep) -> types.Account:
    """A person or a service."""
    made = identity.create_account(
        opened, body.name, Role(body.role), who.actor, team=body.team, tier=body.tier
    )
    return wire.account(made)


@router.get("/keys")
def keys(_: Who, opened: SessionDep, limit: Limit = 50, cursor: Cursor = None) -> types.Page[types.ApiKey]:
    """Newest first; the keys themselves are not kept."""
    return page(
        opened,
        select(tables.ApiKey),
        tables.ApiKey.id,
        partial(wire.api_key, opened),
        limit=limit,
        cursor=cursor,
    )


@router.post("/keys", status_code=201)
def create_key(body: types.ApiKeyRequest, who: Who, opened: SessionDep) -> types.NewApiKey:
    """The key is in this answer and never again."""
    expires_at = None
    if body.expires_in_days is not None:
        expires_at = dt.datetime.now(dt.UTC) + dt.timedelta(days=body.expires_in_days)
    row, key = identity.create_key(
        opened, body.account, body.name, who.actor, expires_at=expires_at, scopes=body.scopes
    )
    opened.refresh(row)
    return types.NewApiKey(**wire.api_key(opened, row).model_dump(), key=key)


@router.delete("/keys/{key_id}")
def revoke_key(key_id: uuid.UUID, who: Who, opened: SessionDep) -> types.ApiKey:
    """It stops working within a second."""
    return wire.api_key(opened, identity.revoke_key(opened, key_id, who.actor))
