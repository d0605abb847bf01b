"""Promotions and what they wait for, environments, and aliases that are held or rolled back."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Annotated

from fastapi import APIRouter, Path
from sqlalchemy import select

from raymill.client import promotion_types, types
from raymill.client.control_types import NAME
from raymill.registry import aliases, archive, canary_looks, environments, promotion, requests, tables
from raymill.serve.api import wire
from raymill.serve.api.context import Parts, PartsDep, SessionDep, Who
from raymill.serve.api.paging import Cursor, Limit, page
from raymill.serve.api.threads import ThreadRoute

router = APIRouter(route_class=ThreadRoute)

Name = Annotated[str, Path(pattern=NAME)]


@router.get("/promotions", tags=["promotions"])
def promotions(
    _: Who,
    opened: SessionDep,
    llm: str | None = None,
    waiting: bool = False,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> types.Page[types.Promotion]:
    """Newest first; `waiting`: those that approvals or an execution are missing to."""
    rows = select(tables.Promotion)
    if llm is not None:
        rows = rows.join(tables.LlmVersion).join(tables.Llm).where(tables.Llm.name == llm)
    if waiting:
        rows = rows.where(
            tables.Promotion.state == tables.PromotionState.WAITING,
            tables.Promotion.expires_at > dt.datetime.now(dt.UTC),
        )
    return page(opened, rows, tables.Promotion.id, wire.promotion, limit=limit, cursor=cursor)


@router.post("/promotions", status_code=201, tags=["promotions"])
def promote(body: types.PromotionRequest, who: Who, found: PartsDep) -> types.Promotion:
    """Ask the policy and, when it allows, sign the version and move the alias. A refusal is an answer.

    Where the environment asks for approvals, the answer is a request that waits for them. With a canary the version is
    deployed beside the one that is there, and takes a share of the alias's requests before the alias moves.
    """
    row = promotion.promote(
        found.database,
        found.settings.artifacts,
        found.settings.signing_dir,
        llm=body.llm,
        number=body.version,
        alias=body.to,
        require=body.require,
        actor=who.actor,
        canary=body.canary,
    )
    return _shown(found, row.id)


@router.get("/promotions/{promotion_id}", tags=["promotions"])
def get(promotion_id: uuid.UUID, _: Who, opened: SessionDep) -> types.Promotion:
    """One promotion with its approvals."""
    return wire.promotion(requests.find(opened, promotion_id))


@router.post("/promotions/{promotion_id}/approve", tags=["promotions"])
def approve(promotion_id: uuid.UUID, who: Who, found: PartsDep) -> types.Promotion:
    """Agree to somebody else's request. The last approval that it takes executes it.

    An approval stays where the execution is refused, such as for a frozen alias: `execute` does it later.
    """
    row = found.database.patiently(
        lambda session: requests.approve(session, promotion_id, who.role, who.actor)
    )
    if len(row.approvals) >= row.approvals_needed and row.state is tables.PromotionState.WAITING:
        return execute(promotion_id, who, found)
    return wire.promotion(row)


@router.post("/promotions/{promotion_id}/reject", tags=["promotions"])
def reject(
    promotion_id: uuid.UUID, who: Who, opened: SessionDep, body: promotion_types.Reason
) -> types.Promotion:
    """End a request that waits, or take one's own back."""
    return wire.promotion(requests.reject(opened, promotion_id, who.role, who.actor, body.reason))


@router.post("/promotions/{promotion_id}/execute", tags=["promotions"])
def execute(promotion_id: uuid.UUID, who: Who, found: PartsDep) -> types.Promotion:
    """Move the alias for a request that is approved, or begin its canary. One that was executed already is answered as it is."""
    row = requests.execute(
        found.database,
        found.settings.artifacts,
        found.settings.signing_dir,
        promotion_id=promotion_id,
        actor=who.actor,
    )
    return wire.promotion(row)


@router.post("/promotions/{promotion_id}/advance", tags=["promotions"])
def advance(promotion_id: uuid.UUID, who: Who, opened: SessionDep) -> types.Promotion:
    """Move the alias now, whatever share the canary has come to. 409 where no canary runs."""
    return wire.promotion(canary_looks.advance(opened, promotion_id, who.actor))


@router.post("/promotions/{promotion_id}/abort", tags=["promotions"])
def abort(
    promotion_id: uuid.UUID, who: Who, opened: SessionDep, body: promotion_types.Reason
) -> types.Promotion:
    """End the canary; the alias stays where it is. 409 where no canary runs."""
    return wire.promotion(canary_looks.abort(opened, promotion_id, who.actor, body.reason))


@router.get("/environments", tags=["environments"])
def list_environments(_: Who, opened: SessionDep) -> types.Page[promotion_types.Environment]:
    """What a move of the aliases of each name takes besides the policy's consent."""
    rows = environments.environments(opened)
    return types.Page(data=[wire.environment(row) for row in rows])


@router.put("/environments/{name}", tags=["environments"])
def set_environment(
    name: Name, body: promotion_types.EnvironmentSettings, who: Who, opened: SessionDep
) -> promotion_types.Environment:
    """Replace what an environment asks for. Requests that wait keep what was asked of them."""
    row = environments.set_environment(
        opened,
        name,
        who.actor,
        approvals=body.approvals,
        roles=body.roles,
        after=body.after,
        expires_after_s=body.expires_after_s,
        policy=body.policy,
        canary=body.canary,
    )
    return wire.environment(row)


@router.post("/llms/{name}/aliases/{alias}/freeze", tags=["llms"])
def freeze(
    name: str, alias: str, who: Who, opened: SessionDep, body: promotion_types.Reason
) -> promotion_types.Alias:
    """Hold an alias where it is: promotions and roll backs are answered with 409."""
    return wire.alias(aliases.freeze(opened, name, alias, who.actor, body.reason))


@router.post("/llms/{name}/aliases/{alias}/unfreeze", tags=["llms"])
def unfreeze(name: str, alias: str, who: Who, opened: SessionDep) -> promotion_types.Alias:
    """Let an alias move again."""
    return wire.alias(aliases.unfreeze(opened, name, alias, who.actor))


@router.post("/llms/{name}/aliases/{alias}/rollback", tags=["llms"])
def roll_back(
    name: str, alias: str, who: Who, found: PartsDep, body: promotion_types.Reason
) -> types.Promotion:
    """Move an alias back to the version before; takes no approvals. A refusal by the policy is an answer.

    Where a canary runs, that ends, and the alias stays.
    """
    row = promotion.roll_back(
        found.database,
        found.settings.artifacts,
        found.settings.signing_dir,
        llm=name,
        alias=alias,
        actor=who.actor,
        note=body.reason,
    )
    return _shown(found, row.id)


@router.post("/llms/{name}/versions/{number}/archive", tags=["llms"])
def archive_version(
    name: str, number: int, who: Who, opened: SessionDep, body: promotion_types.Reason
) -> types.Version:
    """Put a version away: it can be neither promoted nor served. 409 while an alias points to it."""
    return wire.version(opened, archive.archive(opened, name, number, who.actor, body.reason))


@router.post("/llms/{name}/versions/{number}/restore", tags=["llms"])
def restore_version(name: str, number: int, who: Who, opened: SessionDep) -> types.Version:
    """Let it be promoted and served again."""
    return wire.version(opened, archive.restore(opened, name, number, who.actor))


def _shown(found: Parts, promotion_id: uuid.UUID) -> types.Promotion:
    return found.database.patiently(lambda session: wire.promotion(requests.find(session, promotion_id)))
