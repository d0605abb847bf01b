"""`POST /v1/feedback`: reads what a client thinks of an answer, and keeps it.

    {"request_id": "…", "score": -1 to 1, "correction": "a better answer", "comment": "why"}

The one path of the gateway that writes to the database itself; it is off the way of inference.
"""

from __future__ import annotations

import datetime as dt
import uuid
from difflib import get_close_matches
from typing import NamedTuple

from sqlalchemy.exc import DBAPIError

from raymill.policies.errors import Invalid, NotFound
from raymill.registry import feedback
from raymill.registry.database import Database, is_away
from raymill.serve.gateway.wire import Refused, encode, parse_object

FIELDS = ("request_id", "score", "correction", "comment")
MAX_BODY_BYTES = 1 << 20
MAX_REQUEST_ID = 128


class FeedbackRequest(NamedTuple):
    request_id: str
    score: float | None
    correction: str | None
    comment: str


def parse(raw: bytes) -> FeedbackRequest:
    """The body of `POST /v1/feedback`.

    Raises:
        Refused: 400 or 413, naming the field and the cure.
    """
    if len(raw) > MAX_BODY_BYTES:
        raise Refused(
            413, "body_too_large", f"the body has {len(raw)} bytes: feedback has at most {MAX_BODY_BYTES}"
        )
    body = parse_object(raw)
    for name in body:
        if name not in FIELDS:
            close = get_close_matches(name, FIELDS, n=1)
            cure = f"did you mean {close[0]}?" if close else f"the fields are {', '.join(FIELDS)}"
            raise _wrong(name[:100], f"unknown field {name[:100]!r}: {cure}")
    request_id = body.get("request_id")
    if not isinstance(request_id, str) or not 1 <= len(request_id) <= MAX_REQUEST_ID:
        raise _wrong("request_id", "request_id is missing or no text: give the x-request-id of an answer")
    score = body.get("score")
    if score is not None:
        number = isinstance(score, int | float) and not isinstance(score, bool)
        if not (number and -1 <= score <= 1):
            raise _wrong("score", "score is no number from -1 (bad) to 1 (good): correct it")
    for name in ("correction", "comment"):
        if not isinstance(body.get(name), str | None):
            raise _wrong(name, f"{name} is no text: give a string")
    if "\0" in request_id:
        raise _wrong("request_id", "request_id holds a NUL: give the x-request-id of an answer")
    return FeedbackRequest(
        request_id=request_id,
        score=None if score is None else float(score),
        correction=body.get("correction"),
        comment=body.get("comment") or "",
    )


def keep(database: Database, account_id: uuid.UUID, request: FeedbackRequest) -> bytes:
    """Attach it to the request; blocks, so it is called in a thread. Returns the answer's JSON.

    Raises:
        Refused: 400, it makes no sense; 404, no such request of this account (yet); 503, the database is away.
    """
    try:
        with database.transaction() as session:
            row = feedback.attach(
                session,
                request.request_id,
                account_id,
                score=request.score,
                correction=request.correction,
                comment=request.comment,
            )
            at: dt.datetime = row.at
            feedback_id = row.id
    except NotFound as error:
        raise Refused(404, "request_not_found", str(error), param="request_id") from None
    except Invalid as error:
        raise Refused(400, "invalid_request", str(error), param=error.param) from None
    except DBAPIError as error:
        if not is_away(error):
            raise
        message = "feedback cannot be kept, for the database is away: try again in a few seconds"
        raise Refused(503, "unavailable", message, headers={"retry-after": "2"}) from None
    return encode(
        {"id": str(feedback_id), "object": "feedback", "request_id": request.request_id, "at": at.isoformat()}
    )


def _wrong(param: str, message: str) -> Refused:
    return Refused(400, "invalid_request", message, param=param)
