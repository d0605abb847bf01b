"""Personal data: who is behind an account, everything that is kept of it, and erasing that."""

from __future__ import annotations

from fastapi import APIRouter

from raymill.client import identity_types as types
from raymill.client.types import JsonObject
from raymill.registry import identity, personal
from raymill.registry.tables import Role
from raymill.serve.api.context import PartsDep, SessionDep, Who
from raymill.serve.api.scope import account_in_reach
from raymill.serve.api.threads import ThreadRoute

router = APIRouter(prefix="/accounts/{name}", tags=["personal data"], route_class=ThreadRoute)


@router.get("/person")
def get_person(name: str, who: Who, opened: SessionDep, found: PartsDep) -> types.Person:
    """Who is behind an account; one's own, or any for administrators."""
    account = account_in_reach(opened, who, name, Role.ADMIN)
    fields = personal.person_of(opened, found.settings.secret_box, account)
    return types.Person(account=account.name, **fields)


@router.patch("/person")
def set_person(
    name: str, body: types.PersonUpdate, who: Who, opened: SessionDep, found: PartsDep
) -> types.Person:
    """Say who is behind an account; kept under a key of the subject's own. What is left out stays as it is."""
    account = account_in_reach(opened, who, name, Role.ADMIN)
    given = {key: value for key, value in body if key in body.model_fields_set}
    fields = personal.set_person(opened, found.settings.secret_box, account, given, who.actor)
    return types.Person(account=account.name, **fields)


@router.get("/export")
def export(name: str, who: Who, opened: SessionDep, found: PartsDep) -> JsonObject:
    """All that is kept of an account."""
    account = account_in_reach(opened, who, name, Role.ADMIN)
    return personal.export(opened, found.settings.secret_box, account)


@router.post("/erase")
def erase(name: str, who: Who, opened: SessionDep) -> types.Erased:
    """Destroy the key of what is personal, and delete the rest; the account is disabled for good."""
    account = identity.find_account(opened, name, lock=True)
    row = personal.erase(opened, account, who.actor)
    assert row.erased_at is not None
    return types.Erased(account=account.name, erased_at=row.erased_at)
