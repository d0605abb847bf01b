"""How long what the gateway keeps of people stays: prompts and answers, numbers of requests, feedback; and ended logins.

Rows go a bounded number at a time, so that a first sweep over years holds nobody up.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from raymill.registry.tables import Feedback, LoginSession, OidcLogin, Trace, Usage

BATCH_ROWS = 5000
SESSION_DAYS = 30
"""An ended login is remembered for so long, to tell a copied token from an unknown one."""


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Days; None: for ever."""

    trace_days: int | None = None
    usage_days: int | None = None
    feedback_days: int | None = None


def sweep(session: Session, retention: Retention, now: dt.datetime | None = None) -> dict[str, int]:
    """Delete what is older than it may be, at most `BATCH_ROWS` of each table.

    Returns:
        Table -> how many rows went; those of which none did are left out.
    """
    now = now or dt.datetime.now(dt.UTC)
    kept: tuple[tuple[type[Any], InstrumentedAttribute[Any], InstrumentedAttribute[Any], int | None], ...] = (
        (Trace, Trace.usage_id, Trace.at, retention.trace_days),
        (Usage, Usage.id, Usage.at, retention.usage_days),
        (Feedback, Feedback.id, Feedback.at, retention.feedback_days),
        (LoginSession, LoginSession.id, LoginSession.expires_at, SESSION_DAYS),
        (OidcLogin, OidcLogin.state_sha256, OidcLogin.expires_at, 0),
    )
    gone = {}
    for table, key, at, days in kept:
        if days is None:
            continue
        old = select(key).where(at < now - dt.timedelta(days=days)).order_by(at).limit(BATCH_ROWS)
        count = len(session.execute(delete(table).where(key.in_(old)).returning(key)).all())
        if count:
            gone[table.__tablename__] = count
    return gone
