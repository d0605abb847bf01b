"""How long an upstream asks to wait: `Retry-After` (RFC 9110, section 10.2.3) and `retry-after-ms`. Seconds."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

MOST_S = 86_400.0


def retry_after_s(headers: Mapping[bytes, bytes], now: dt.datetime | None = None) -> float | None:
    """None when it says nothing that can be read. A date in the past is 0."""
    milliseconds = headers.get(b"retry-after-ms", b"").decode("latin-1")
    if _is_number(milliseconds):
        return min(MOST_S, float(milliseconds) / 1000)
    text = headers.get(b"retry-after", b"").decode("latin-1").strip()
    if not text:
        return None
    if _is_number(text):
        return min(MOST_S, float(text))
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=dt.UTC)
        wait_s = (moment - (now or dt.datetime.now(dt.UTC))).total_seconds()
    except (ValueError, OverflowError):
        return None
    return min(MOST_S, max(0.0, wait_s))


def _is_number(text: str) -> bool:
    return text.isascii() and text.replace(".", "", 1).isdigit()
