"""Triggers: pipelines that start when something happens, and the doors by which it is told from outside."""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path as FilePath
from typing import Annotated

from fastapi import APIRouter, Header, Path, Request
from sqlalchemy import select

from raymill.client import trigger_types as types
from raymill.client.control_types import NAME
from raymill.client.recipe import parse_recipe
from raymill.client.types import JsonObject, Page
from raymill.policies.errors import Conflict, Invalid, NotFound
from raymill.registry import named, tables, triggers, webhooks
from raymill.serve.api.context import IdempotencyKey, Parts, PartsDep, SessionDep, Unauthenticated, Who
from raymill.serve.api.paging import Cursor, Limit, page
from raymill.serve.api.threads import ThreadRoute, in_thread

router = APIRouter(prefix="/triggers", tags=["triggers"], route_class=ThreadRoute)

Name = Annotated[str, Path(pattern=NAME)]
NO_ENTRY = "no webhook trigger of that name, or the signature is not of its secret: see docs/triggers.md"


@router.get("")
def list_(
    _: Who,
    opened: SessionDep,
    on: types.TriggerKind | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[types.Trigger]:
    """Newest first."""
    rows = select(tables.Trigger)
    if on is not None:
        rows = rows.where(tables.Trigger.on == on)
    return page(opened, rows, tables.Trigger.id, wire, limit=limit, cursor=cursor)


@router.post("", status_code=201)
def create(body: types.TriggerRequest, who: Who, opened: SessionDep, found: PartsDep) -> types.NewTrigger:
    """A new trigger. The secret of a webhook is in this answer and in no other."""
    parse_recipe(body.recipe, folder=FilePath(body.recipe_dir) if body.recipe_dir else None)
    row, secret = triggers.create(
        opened,
        body.name,
        who.actor,
        on=body.on,
        config=body.config,
        recipe=body.recipe,
        recipe_dir=body.recipe_dir,
        enabled=body.enabled,
        box=found.settings.secret_box,
    )
    return types.NewTrigger(**wire(row).model_dump(), secret=secret)


@router.post("/events", status_code=202)
def tell(body: types.DriftEvent, who: Who, opened: SessionDep) -> types.Told:
    """Tell that something has drifted. It starts the triggers that watch for it, within a second or so."""
    data = {**body.data, "by": who.actor.name}
    return types.Told(new=triggers.happened(opened, body.on, body.subject, body.key, data))


@router.get("/{name}")
def get(name: Name, _: Who, opened: SessionDep) -> types.Trigger:
    """One trigger, and what came of it last."""
    return wire(triggers.find(opened, name))


@router.patch("/{name}")
def change(name: Name, body: types.Switch, who: Who, opened: SessionDep) -> types.Trigger:
    """Let it start pipelines, or not."""
    return wire(triggers.enable(opened, name, who.actor, enabled=body.enabled))


@router.delete("/{name}")
def remove(name: Name, who: Who, opened: SessionDep) -> types.Trigger:
    """The pipelines that it started stay."""
    return wire(triggers.remove(opened, name, who.actor))


@router.post("/{name}/fire", status_code=202)
def fire(name: Name, who: Who, opened: SessionDep, idempotency_key: IdempotencyKey = None) -> types.Trigger:
    """Start it now, whatever it waits for. Its pipeline is there within a second or so."""
    return wire(triggers.fire_by_hand(opened, name, who.actor, idempotency_key or uuid.uuid4().hex))


async def _body(request: Request) -> bytes:
    """The body, read no further than it may be long."""
    whole = b""
    async for chunk in request.stream():
        whole += chunk
        if len(whole) > webhooks.MAX_BODY_BYTES:
            raise Invalid(
                f"the body is longer than {webhooks.MAX_BODY_BYTES >> 10} KiB: send what identifies the event"
            )
    return whole


# Default deny but for this: whoever posts has no account, and proves with the signature that they have the secret.
@router.post("/{name}/webhook", status_code=202)
async def webhook(
    name: Name,
    request: Request,
    x_raymill_signature: Annotated[str, Header(max_length=webhooks.MAX_HEADER_CHARS)] = "",
    x_raymill_delivery: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> types.Told:
    """Something happened outside. No account is needed but the trigger's secret: `x-raymill-signature` is
    `t=<unix time>,v1=<hex hmac-sha256 of "t.body">`, at most five minutes old. The same `x-raymill-delivery` starts
    one pipeline."""
    if not x_raymill_signature:  # before anything is read
        raise Unauthenticated(NO_ENTRY)
    body = await _body(request)
    delivery = x_raymill_delivery or hashlib.sha256(x_raymill_signature.encode() + body).hexdigest()
    return await in_thread(_receive, request.app.state.parts, name, x_raymill_signature, delivery, body)


def _receive(found: Parts, name: str, signature: str, delivery: str, body: bytes) -> types.Told:
    with found.database.transaction() as opened:
        try:
            row = triggers.find(opened, name)
        except NotFound:
            row = None
        if row is None or row.secret is None:
            raise Unauthenticated(NO_ENTRY)
        try:
            webhooks.check(named.open_secret(found.settings.secret_box, row), signature, body)
        except webhooks.WrongSignature:
            raise Unauthenticated(NO_ENTRY) from None
        if not row.enabled:
            raise Conflict(f"trigger {name!r} is disabled: `raymill trigger enable {name}` first")
        return types.Told(new=triggers.happened(opened, "webhook", str(row.id), delivery, _json(body)))


def _json(body: bytes) -> JsonObject:
    """Raises Invalid."""
    try:
        data = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise Invalid("the body is no JSON object: send one, or nothing")
    return data


def wire(row: tables.Trigger) -> types.Trigger:
    return types.Trigger.model_validate(row, from_attributes=True)
