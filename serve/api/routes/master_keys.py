"""Master keys, which seal secrets: versions, rotation, and putting an old one away."""

from __future__ import annotations

from fastapi import APIRouter
from sqlalchemy.orm import Session

from raymill.client import identity_types as types
from raymill.client.types import Page
from raymill.registry import master_keys
from raymill.registry.secrets import SecretBox
from raymill.serve.api.context import PartsDep, SessionDep, Who
from raymill.serve.api.threads import ThreadRoute

router = APIRouter(prefix="/master-keys", tags=["master keys"], route_class=ThreadRoute)

QUIET_S = 60.0
"""A process that read which key is current has sealed with it by then."""


@router.get("")
def list_versions(_: Who, opened: SessionDep, found: PartsDep) -> Page[types.MasterKey]:
    """The newest first, with how many secrets each seals."""
    return _versions(opened, found.settings.secret_box)


@router.post("/rotate")
def rotate(who: Who, found: PartsDep) -> types.Resealed:
    """Make a new master key and seal every secret with it. The old ones stay, so nothing becomes unreadable."""
    box = found.settings.secret_box
    count = master_keys.rotate(found.database, box, who.actor)
    return types.Resealed(id=box.current_id(), resealed=count)


@router.post("/rewrap")
def rewrap(who: Who, found: PartsDep) -> types.Resealed:
    """Seal with the current master key what is still under an older one."""
    box = found.settings.secret_box
    count = master_keys.rewrap(found.database, box, who.actor)
    return types.Resealed(id=box.current_id(), resealed=count)


@router.delete("/{key_id}")
def retire(key_id: str, who: Who, opened: SessionDep, found: PartsDep) -> Page[types.MasterKey]:
    """Delete an old master key under which nothing is sealed any more. Answers those that are left."""
    settings = found.settings
    quiet_s = max(QUIET_S, settings.access_token_s)
    master_keys.retire(opened, settings.secret_box, key_id, who.actor, quiet_s=quiet_s)
    return _versions(opened, settings.secret_box)


def _versions(opened: Session, box: SecretBox) -> Page[types.MasterKey]:
    found = master_keys.list_versions(opened, box)
    return Page(data=[types.MasterKey.model_validate(each, from_attributes=True) for each in found])
