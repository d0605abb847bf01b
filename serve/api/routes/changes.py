"""What has changed, as server-sent events: one stream for all that a page shows."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse

from raymill.client.console_types import Change
from raymill.serve.api import news
from raymill.serve.api.context import PartsDep, Who
from raymill.serve.api.threads import in_thread

router = APIRouter(tags=["events"])


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={
        200: {"model": Change, "description": "Events named `change`, each with a Change as its data."}
    },
)
async def follow(
    _: Who,
    found: PartsDep,
    request: Request,
    since: Annotated[str | None, Query(max_length=60, pattern=news.CURSOR)] = None,
    last_event_id: Annotated[str | None, Header(max_length=60)] = None,
) -> StreamingResponse:
    """Tells what changed, within a second; goes on after `since`, or from now. Ends when the caller's login does."""
    told: news.News = request.app.state.news

    async def still_in() -> bool:
        return await in_thread(news.still_in, found, dict(request.headers), dict(request.cookies))

    frames = told.stream(news.cursor_of(since or last_event_id), still_in)
    return StreamingResponse(frames, media_type="text/event-stream")
