"""What every route of the control plane is given: the service's parts, and who is calling."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request
from sqlalchemy.orm import Session

from raymill.cluster.settings import Settings
from raymill.policies.errors import Denied, RaymillError
from raymill.registry import identity
from raymill.registry.audit import Actor
from raymill.registry.database import Database
from raymill.registry.tables import Role

RANK = {role: rank for rank, role in enumerate(Role)}
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Unauthenticated(RaymillError):
    """No key, or one that is not valid."""

    code = "unauthenticated"


@dataclass(frozen=True)
class Parts:
    """Made once for a replica."""

    settings: Settings
    database: Database


@dataclass(frozen=True)
class Caller:
    actor: Actor
    role: Role


def parts(request: Request) -> Parts:
    found: Parts = request.app.state.parts
    return found


def session(found: Annotated[Parts, Depends(parts)]) -> Iterator[Session]:
    """One transaction for the request; it commits before the answer is sent."""
    with found.database.transaction() as opened:
        yield opened


PartsDep = Annotated[Parts, Depends(parts)]
SessionDep = Annotated[Session, Depends(session, scope="function")]


def caller(
    request: Request, opened: SessionDep, authorization: Annotated[str | None, Header()] = None
) -> Caller:
    """The account behind the bearer key.

    Raises:
        Unauthenticated: there is none.
    """
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise Unauthenticated("no API key: send the header `Authorization: Bearer rm-…`")
    account = identity.authenticate(opened, key.strip())
    if account is None:
        raise Unauthenticated(f"API key {key[:6]}… is not valid: `raymill key create` makes a new one")
    return Caller(actor=Actor(name=account.name, request_id=request.state.request_id), role=account.role)


def at_least(role: Role) -> Callable[[Caller], Caller]:
    """A dependency that lets in `role` and the ones above it."""

    def check(who: Annotated[Caller, Depends(caller)]) -> Caller:
        if RANK[who.role] < RANK[role]:
            raise Denied(
                f"{who.actor.name} is {who.role.value}, this takes {role.value}: ask an admin for the role"
            )
        return who

    return check


Viewer = Annotated[Caller, Depends(at_least(Role.VIEWER))]
Operator = Annotated[Caller, Depends(at_least(Role.OPERATOR))]
Approver = Annotated[Caller, Depends(at_least(Role.APPROVER))]
Admin = Annotated[Caller, Depends(at_least(Role.ADMIN))]
IdempotencyKey = Annotated[str | None, Header(max_length=200)]


def request_id_of(header: str | None) -> str:
    """The caller's `x-request-id` when it is harmless, else a new one."""
    return header if header and REQUEST_ID.fullmatch(header) else uuid.uuid4().hex
