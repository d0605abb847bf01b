"""What every route of the control plane is given: the service's parts, and who is calling."""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import re
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated

from fastapi import BackgroundTasks, Depends, Header, Request
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from raymill.cluster.settings import FRONT_HEADER, Settings
from raymill.policies.errors import Denied, RaymillError
from raymill.registry import identity, sessions
from raymill.registry.audit import Actor
from raymill.registry.database import Database
from raymill.registry.secrets import SecretBox
from raymill.registry.tables import ApiKey, LoginSession, Role
from raymill.serve.api.access import ACCESS, reaches, row_of
from raymill.serve.api.numbers import ApiNumbers
from raymill.serve.api.threads import in_thread

READS = {"GET", "HEAD"}
COOKIE = "raymill_session"
"""The console's: HttpOnly, SameSite=Strict. It comes by itself, so whoever changes something with it must show more."""

CONSOLE_HEADER = "x-raymill-console"
"""A page of another origin cannot send it: the browser would have to ask first, and is not allowed (RFC 6454, Fetch)."""

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
    numbers: ApiNumbers = field(default_factory=ApiNumbers)

    @cached_property
    def front_key(self) -> bytes:
        return self.settings.front_key.encode()


@dataclass(frozen=True)
class Caller:
    actor: Actor
    role: Role
    session_id: uuid.UUID | None = None
    """Of the login that the caller's token belongs to; None: it has an API key."""


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
    background: BackgroundTasks,
    authorization: Annotated[str | None, Header()] = None,
) -> Caller:
    """The account behind the bearer key, or the access token of a login, when the table lets it in (`access.py`).

    Raises:
        Unauthenticated: there is none.
        Denied: its role is too low, or its key has another scope.
    """
    who = await _known(request, found, opened, background, authorization)
    lowest = ACCESS[row_of(request.method, request.scope["route"].path)]
    if lowest is not None and not reaches(who.role, lowest):
        raise Denied(
            f"{who.actor.name} is {who.role.value}, this takes {lowest.value}: ask an admin for the role"
        )
    return who


async def _known(
    request: Request, found: Parts, opened: Session, background: BackgroundTasks, authorization: str | None
) -> Caller:
    reads = request.method in READS
    key, by_cookie = _shown(request, authorization)
    request_id, address = request.state.request_id, address_of(request)
    shown = f"{COOKIE}\0{key}" if by_cookie else key  # what opens as a cookie opens nothing as a bearer token
    if reads and (known := found.keys.get(shown)) is not None:
        return replace(known, actor=replace(known.actor, request_id=request_id, address=address))
    proof: ApiKey | LoginSession
    if by_cookie:
        proof = await in_thread(session_of_cookie, opened, found.settings.secret_box, key)
    else:
        proof = await in_thread(proof_of, opened, found.settings.secret_box, key)
    account = proof.account
    if isinstance(proof, ApiKey):
        if not identity.allows(proof, scope := "read" if reads else "write"):
            raise Denied(
                f"API key {proof.prefix}… has the scopes {', '.join(proof.scopes)}, this takes {scope}: "
                "use another key"
            )
        if identity.is_stale(proof):
            background.add_task(_touch, found.database, proof.id)
    actor = Actor(name=account.name, request_id=request_id, address=address)
    session_id = proof.id if isinstance(proof, LoginSession) else None
    who = Caller(actor=actor, role=account.role, session_id=session_id)
    if reads:
        found.keys.add(shown, who)
    return who


def _shown(request: Request, authorization: str | None) -> tuple[str, bool]:
    """The key or token that a request shows, and whether it is a browser's cookie."""
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() == "bearer" and key:
        return key.strip(), False
    cookie = request.cookies.get(COOKIE)
    if authorization is not None or not cookie:
        raise Unauthenticated("no API key: send the header `Authorization: Bearer rm-…`")
    if request.method not in READS and CONSOLE_HEADER not in request.headers:
        raise Denied(
            f"the console's cookie changes nothing without the header `{CONSOLE_HEADER}: 1`: send it"
        )
    return cookie, True


def session_of_cookie(opened: Session, box: SecretBox, token: str) -> LoginSession:
    """The live login behind the console's cookie. Raises Unauthenticated."""
    row = sessions.session_of(opened, box, token, sessions.BROWSER_TYPE)
    if row is None:
        raise Unauthenticated("the session has ended: sign in again")
    return row


def proof_of(opened: Session, box: SecretBox, token: str) -> ApiKey | LoginSession:
    """The live API key, or the live login whose access token it is. Raises Unauthenticated."""
    if token.count(".") == 2:
        row = sessions.session_of(opened, box, token)
        if row is None:
            raise Unauthenticated("the access token is not valid: log in again with `raymill login`")
        return row
    key = identity.authenticate(opened, token)
    if key is None:
        raise Unauthenticated(f"API key {token[:6]}… is not valid: `raymill key create` makes a new one")
    return key


async def _touch(database: Database, key_id: uuid.UUID) -> None:
    """After the answer, and in a transaction of its own: nobody waits for the row of a key that many use."""

    def touch() -> None:
        # A display, not worth an error when the database has just gone.
        with contextlib.suppress(DBAPIError), database.transaction() as opened:
            identity.touch(opened, key_id)

    await in_thread(touch)


Who = Annotated[Caller, Depends(caller)]
IdempotencyKey = Annotated[str | None, Header(max_length=200)]


def address_of(request: Request) -> str | None:
    """Where a request came from: as our own listener tells (`cluster/front.py`, `cluster/haproxy.py`), else the connection's
    other end. A caller could say anything of itself."""
    found: Parts = request.app.state.parts
    shown = request.headers.get(FRONT_HEADER, "").encode()
    if hmac.compare_digest(shown, found.front_key):
        told = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
        with contextlib.suppress(ValueError):
            return str(ipaddress.ip_address(told))
    return request.client.host if request.client else None


def request_id_of(header: str | None) -> str:
    """The caller's `x-request-id` when it is harmless, else a new one."""
    return header if header and REQUEST_ID.fullmatch(header) else uuid.uuid4().hex
