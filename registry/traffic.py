"""Kept requests with what people said of their answers, as training rows are made of them.

Feedback names a request by an id that its caller chose: it belongs to the newest request of that id by the account
that gave it or, where that has none, to the newest of all. Scores are -1 (bad) to 1 (good).
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import String

from raymill.registry.tables import JsonObject

PAGE = 500

# Whole answers that were kept, in the order of time.
KEPT = text("""
SELECT trace.usage_id, trace.request_id, trace.at, usage.operation, trace.prompt, trace.answer,
       usage.prompt_tokens, usage.completion_tokens
FROM trace JOIN usage ON usage.id = trace.usage_id
WHERE trace.route = :route AND trace.at >= :since AND trace.at < :until
  AND usage.outcome IN ('ok', 'cached') AND (trace.at, trace.usage_id) > (:after_at, :after_id)
ORDER BY trace.at, trace.usage_id
LIMIT :limit
""")

# The request that each piece of feedback is on.
SAID = text("""
SELECT DISTINCT ON (feedback.id) usage.id AS usage_id, feedback.score, feedback.correction, feedback.at
FROM feedback JOIN usage ON usage.request_id = feedback.request_id
WHERE feedback.request_id = ANY(:ids)
ORDER BY feedback.id, (usage.account_id = feedback.account_id) DESC, usage.at DESC
""").bindparams(bindparam("ids", type_=ARRAY(String)))


class Kept(NamedTuple):
    """One answered request."""

    request_id: str
    at: dt.datetime
    operation: str
    """The wire it came by: chat, completions, responses, messages, embeddings."""

    prompt: JsonObject
    """The request's body, personal data masked."""

    answer: JsonObject
    """{"body"} or {"text"}, masked too; other keys when it was not kept."""

    scores: tuple[float, ...]
    correction: str | None
    """The newest; as it was written, not masked."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


def kept_requests(session: Session, *, route: str, since: dt.datetime, until: dt.datetime) -> Iterator[Kept]:
    """Requests of a route, from `since` on and before `until`, the oldest first."""
    after_at, after_id = since - dt.timedelta(microseconds=1), uuid.UUID(int=0)
    while True:
        values = {"route": route, "since": since, "until": until, "after_at": after_at, "after_id": after_id}
        page = session.execute(KEPT, {**values, "limit": PAGE}).all()
        if not page:
            return
        scores: dict[uuid.UUID, list[float]] = defaultdict(list)
        corrections: dict[uuid.UUID, tuple[dt.datetime, str]] = {}
        for said in session.execute(SAID, {"ids": sorted({row.request_id for row in page})}):
            if said.score is not None:
                scores[said.usage_id].append(said.score)
            newest = corrections.get(said.usage_id)
            if said.correction is not None and (newest is None or said.at > newest[0]):
                corrections[said.usage_id] = (said.at, said.correction)
        for row in page:
            correction = corrections.get(row.usage_id)
            yield Kept(
                request_id=row.request_id,
                at=row.at,
                operation=row.operation,
                prompt=row.prompt,
                answer=row.answer,
                scores=tuple(scores[row.usage_id]),
                correction=correction[1] if correction else None,
                prompt_tokens=row.prompt_tokens,
                completion_tokens=row.completion_tokens,
            )
        after_at, after_id = page[-1].at, page[-1].usage_id
