"""What every route of the control plane is given: the service's parts, and who is calling."""

from __future__ import annotations

import ipaddress
import re
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Annotated

from fastapi import Depends, Header, Request
from sqlalchemy.orm import Session

from raymill.cluster.settings import Settings
from raymill.policies.errors import Denied, RaymillError
from raymill.registry import identity
from raymill.registry.audit import Actor
from raymill.registry.database import Database
from raymill.registry.tables import Role
from raymill.serve.api.threads import in_thread

RANK = {role: rank for rank, role in enumerate(Role)}
READS = {"GET", "HEAD"}
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Unauthenticated(RaymillError):
    """No key, or one that is not valid."""

    code = "unauthenticated"


class KnownKeys:
    """Who the keys of the last moment belong to, so that those who read much are not looked up each time.

    A revoked key stops working within a second (`identity.revoke_key`); where this replica was told to revoke it, at
    once: every request that may have changed something empties this before it is answered.
    """

    FOR_S = 0.5

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, Caller]] = {}

    def get(self, key: str) -> Caller | None:
        until, who = self._known.get(identity.key_sha256(key), (0.0, None))
        return who if time.monotonic() < until else None

    def add(self, key: str, who: Caller) -> None:
        now = time.monotonic()
        if len(self._known) > 1000:
            self._known = {digest: each for digest, each in self._known.items() if each[0] > now}
        self._known[identity.key_sha256(key)] = (now + self.FOR_S, who)

    def forget(self) -> None:
        self._known.clear()


@dataclass(frozen=True)
class Parts:
    """Made once for a replica."""

    settings: Settings
    database: Database
    keys: KnownKeys = field(default_factory=KnownKeys)


@dataclass(frozen=True)
class Caller:
    actor: Actor
    role: Role


async def parts(request: Request) -> Parts:
    found: Parts = request.app.state.parts
    return found


async def session(found: Annotated[Parts, Depends(parts)]) -> AsyncIterator[Session]:
    """One transaction for the request; it commits before the answer is sent."""
    stack = ExitStack()
    opened = stack.enter_context(found.database.transaction())  # no connection yet
    try:
        yield opened
    except BaseException:
        await in_thread(stack.__exit__, *sys.exc_info())
        raise
    if opened.in_transaction():  # an `async` endpoint's
        await in_thread(stack.close)
    else:
        stack.close()


PartsDep = Annotated[Parts, Depends(parts)]
SessionDep = Annotated[Session, Depends(session, scope="function")]


async def caller(
    request: Request,
    found: PartsDep,
    opened: SessionDep,
    authorization: Annotated[str | None, Header()] = None,
) -> Caller:
    """The account behind the bearer key.

    Raises:
        Unauthenticated: there is none.
    """
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise Unauthenticated("no API key: send the header `Authorization: Bearer rm-…`")
    key, reads = key.strip(), request.method in READS
    request_id, address = request.state.request_id, address_of(request)
    if reads and (known := found.keys.get(key)) is not None:
        return replace(known, actor=replace(known.actor, request_id=request_id, address=address))
    account = await in_thread(identity.authenticate, opened, key)
    if account is None:
        raise Unauthenticated(f"API key {key[:6]}… is not valid: `raymill key create` makes a new one")
    who = Caller(actor=Actor(name=account.name, request_id=request_id, address=address), role=account.role)
    if reads:
        found.keys.add(key, who)
    return who


def at_least(role: Role) -> Callable[[Caller], Awaitable[Caller]]:
    """A dependency that lets in `role` and the ones above it."""

    async def check(who: Annotated[Caller, Depends(caller)]) -> Caller:
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


def address_of(request: Request) -> str | None:
    """Where a request came from: as the nearest proxy tells where there is one in front, else the connection's other end."""
    told = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
    try:
        return str(ipaddress.ip_address(told))
    except ValueError:
        return request.client.host if request.client else None


def request_id_of(header: str | None) -> str:
    """The caller's `x-request-id` when it is harmless, else a new one."""
    return header if header and REQUEST_ID.fullmatch(header) else uuid.uuid4().hex
