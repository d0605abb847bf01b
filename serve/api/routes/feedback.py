"""Traces and feedback: kept prompts and answers, and what people thought of them.

Administrators see everyone's, others their own account's.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from typing import Annotated

from fastapi import APIRouter, Path, Query
from sqlalchemy.orm import Session

from raymill.client import types, usage_types
from raymill.registry import feedback, identity, tables, usage
from raymill.registry.tables import Role
from raymill.registry.usage_records import Position
from raymill.serve.api.context import SessionDep, Who
from raymill.serve.api.paging import Cursor, Limit
from raymill.serve.api.scope import only_own, sees_all
from raymill.serve.api.threads import ThreadRoute
from raymill.serve.api.time_paging import cursor_of, position_of

router = APIRouter(route_class=ThreadRoute)

Text = Annotated[str | None, Query(max_length=200)]
RequestId = Annotated[str, Path(max_length=128, description="The x-request-id of an answer.")]


@router.get("/traces", tags=["traces"])
def traces(
    who: Who, opened: SessionDep, route: Text = None, limit: Limit = 50, cursor: Cursor = None
) -> types.Page[usage_types.Trace]:
    """Prompts and answers of routes that keep them, personal data masked; newest first."""
    own = only_own(opened, who, Role.ADMIN)
    found = feedback.traces(opened, account_id=own, route=route, after=position_of(cursor), limit=limit + 1)
    shown = found[:limit]
    names = usage.names_of(opened, "account", {row.account_id for row in shown})
    more = cursor_of(Position(shown[-1].at, shown[-1].usage_id)) if len(found) > limit else None
    return types.Page(data=[_trace(row, names.get(row.account_id)) for row in shown], next_cursor=more)


@router.get("/traces/{request_id:path}", tags=["traces"])
def trace(request_id: RequestId, who: Who, opened: SessionDep) -> usage_types.TraceDetail:
    """With the feedback on it."""
    own = only_own(opened, who, Role.ADMIN)
    row = feedback.find_trace(opened, request_id, account_id=own)
    account = usage.names_of(opened, "account", {row.account_id}).get(row.account_id)
    given = _feedback(opened, feedback.feedback_list(opened, account_id=own, request_id=request_id))
    return usage_types.TraceDetail(**_trace(row, account).model_dump(), feedback=given)


@router.get("/feedback", tags=["feedback"])
def list_feedback(
    who: Who, opened: SessionDep, request_id: Text = None, limit: Limit = 50, cursor: Cursor = None
) -> types.Page[usage_types.Feedback]:
    """Newest first."""
    found = feedback.feedback_list(
        opened,
        account_id=only_own(opened, who, Role.ADMIN),
        request_id=request_id,
        after=position_of(cursor),
        limit=limit + 1,
    )
    shown = found[:limit]
    more = cursor_of(Position(shown[-1].at, shown[-1].id)) if len(found) > limit else None
    return types.Page(data=_feedback(opened, shown), next_cursor=more)


@router.post("/feedback", status_code=201, tags=["feedback"])
def give_feedback(body: usage_types.FeedbackRequest, who: Who, opened: SessionDep) -> usage_types.Feedback:
    """On an answer to the caller's account; for administrators on any. Giving it again replaces it."""
    row = feedback.attach(
        opened,
        body.request_id,
        identity.find_account(opened, who.actor.name).id,
        score=body.score,
        correction=body.correction,
        comment=body.comment,
        any_account=sees_all(who, Role.ADMIN),
    )
    return _feedback(opened, [row])[0]


def _feedback(opened: Session, rows: Collection[tables.Feedback]) -> list[usage_types.Feedback]:
    names: dict[uuid.UUID, str] = usage.names_of(opened, "account", {row.account_id for row in rows})
    return [
        usage_types.Feedback(
            id=row.id,
            request_id=row.request_id,
            account=names[row.account_id],
            score=row.score,
            correction=row.correction,
            comment=row.comment,
            at=row.at,
        )
        for row in rows
    ]


def _trace(row: tables.Trace, account: str | None) -> usage_types.Trace:
    return usage_types.Trace(
        request_id=row.request_id,
        account=account,
        route=row.route,
        at=row.at,
        prompt=row.prompt,
        answer=row.answer,
    )
