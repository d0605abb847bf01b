"""The keys that sign: versions when they are promoted, and roots of the audit log."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter

from raymill.client import types
from raymill.registry import audit
from raymill.registry.aliases import ALIAS_CHANNEL
from raymill.registry.jobs import notify
from raymill.registry.signing_keys import KeyRing, KnownKey
from raymill.serve.api.context import Parts, PartsDep, SessionDep, Who
from raymill.serve.api.threads import ThreadRoute

router = APIRouter(prefix="/signing", tags=["signing"], route_class=ThreadRoute)


@router.get("/keys")
def keys(_: Who, found: PartsDep) -> types.Page[types.SigningKey]:
    """Every key that ever signed here, the oldest first, with its public half."""
    return types.Page(data=[_shown(key) for key in _ring(found).known()])


@router.post("/rotate", status_code=201)
def rotate(body: types.RotateRequest, who: Who, opened: SessionDep, found: PartsDep) -> types.SigningKey:
    """Sign with a new key from now on. What the old one signed stays valid."""
    ring = _ring(found)
    before = ring.key_id()
    after = ring.rotate(body.algorithm)
    audit.record(
        opened,
        who.actor,
        "signing_key.rotate",
        f"signing_key/{after}",
        before={"id": before},
        after={"id": after},
    )
    return next(_shown(key) for key in ring.known() if key.id == after)


@router.post("/keys/{key_id}/revoke")
def revoke(
    key_id: str, body: types.RevokeRequest, who: Who, opened: SessionDep, found: PartsDep
) -> types.SigningKey:
    """What the key signed counts no more: versions that only it vouches for are no longer served. Today's key is
    replaced first."""
    key = _ring(found).revoke(key_id, reason=body.reason, by=who.actor.name)
    audit.record(
        opened,
        who.actor,
        "signing_key.revoke",
        f"signing_key/{key.id}",
        after={"state": key.state},
        reason=body.reason,
    )
    notify(opened, ALIAS_CHANNEL, key.id)
    return _shown(key)


def _ring(found: Parts) -> KeyRing:
    return KeyRing(found.settings.signing_dir)


def _shown(key: KnownKey) -> types.SigningKey:
    return types.SigningKey.model_validate(asdict(key))
