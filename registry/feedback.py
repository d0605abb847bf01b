"""What people thought of answers, and the prompts and answers that were kept: traces.

A request id is the caller's to choose, so it names a request only together with an account; where
several requests of an account carry the same one, the newest is meant. Scores are -1 (bad) to 1 (good).
"""

from __future__ import annotations

import uuid

from sqlalchemy import Select, func, select, tuple_
from sqlalchemy.orm import Session

from raymill.policies.errors import Invalid, NotFound
from raymill.registry.tables import Feedback, Trace, Usage
from raymill.registry.usage_records import Position

MAX_TEXT = 100_000
"""Characters of a corrected answer or a comment."""


def attach(
    session: Session,
    request_id: str,
    account_id: uuid.UUID,
    *,
    score: float | None = None,
    correction: str | None = None,
    comment: str = "",
    any_account: bool = False,
) -> Feedback:
    """Say what `account_id` thinks of an answer. Saying it again replaces what was said before.

    Args:
        any_account: The request may be another account's: for administrators.

    Raises:
        Invalid: nothing is said, or too much.
        NotFound: no such request of this account. Records arrive a second or two after the answer.
    """
    _check(score, correction, comment)
    rows = select(Usage.id).where(Usage.request_id == request_id)
    if not any_account:
        rows = rows.where(Usage.account_id == account_id)
    # The lock makes two that say something of the same answer at the same moment take turns.
    if session.scalar(rows.order_by(Usage.at.desc()).limit(1).with_for_update()) is None:
        raise NotFound(
            f"no request {request_id!r}{'' if any_account else ' of this account'}: feedback takes the "
            "x-request-id of an answer, and a second or two after it; try again"
        )
    given = select(Feedback).where(Feedback.request_id == request_id, Feedback.account_id == account_id)
    row = session.scalar(given)
    if row is None:
        row = Feedback(request_id=request_id, account_id=account_id)
        session.add(row)
    row.score, row.correction, row.comment = score, correction, comment
    row.at = func.clock_timestamp()
    session.flush()
    session.refresh(row)
    return row


def _check(score: float | None, correction: str | None, comment: str) -> None:
    if score is None and correction is None and not comment:
        raise Invalid("the feedback says nothing: give a score, a correction or a comment", param="score")
    if score is not None and not -1 <= score <= 1:
        raise Invalid(f"score is {score}: give a number from -1 (bad) to 1 (good)", param="score")
    for name, value in (("correction", correction or ""), ("comment", comment)):
        if len(value) > MAX_TEXT:
            raise Invalid(f"{name} has {len(value)} characters: at most {MAX_TEXT} are kept", param=name)
        if "\0" in value:
            raise Invalid(f"{name} holds a NUL, which cannot be stored: leave it out", param=name)


def feedback_list(
    session: Session,
    *,
    account_id: uuid.UUID | None = None,
    request_id: str | None = None,
    after: Position | None = None,
    limit: int = 50,
) -> list[Feedback]:
    """Newest first; None is of every account, of every request."""
    rows = select(Feedback)
    if account_id is not None:
        rows = rows.where(Feedback.account_id == account_id)
    if request_id is not None:
        rows = rows.where(Feedback.request_id == request_id)
    if after is not None:
        rows = rows.where(tuple_(Feedback.at, Feedback.id) < tuple_(after.at, after.id))
    return list(session.scalars(rows.order_by(Feedback.at.desc(), Feedback.id.desc()).limit(limit)))


def traces(
    session: Session,
    *,
    account_id: uuid.UUID | None = None,
    route: str | None = None,
    after: Position | None = None,
    limit: int = 50,
) -> list[Trace]:
    """Kept prompts and answers, newest first; None is of every account, of every route."""
    rows = _traces(account_id)
    if route is not None:
        rows = rows.where(Trace.route == route)
    if after is not None:
        rows = rows.where(tuple_(Trace.at, Trace.usage_id) < tuple_(after.at, after.id))
    return list(session.scalars(rows.limit(limit)))


def find_trace(session: Session, request_id: str, *, account_id: uuid.UUID | None = None) -> Trace:
    """
    Raises:
        NotFound: nothing was kept, or it is another account's.
    """
    row = session.scalar(_traces(account_id).where(Trace.request_id == request_id).limit(1))
    if row is None:
        raise NotFound(
            f"no trace of request {request_id!r}: they are kept on routes with keep_traces, "
            "and appear a second or two after the answer"
        )
    return row


def _traces(account_id: uuid.UUID | None) -> Select[Trace]:
    rows = select(Trace).order_by(Trace.at.desc(), Trace.usage_id.desc())
    return rows if account_id is None else rows.where(Trace.account_id == account_id)
