"""Usage as CSV (RFC 4180), for spreadsheets: the columns of the wire types, money in micro-dollars.

Text that a spreadsheet would take for a formula gets an apostrophe before it: model names and request ids
are a client's to choose.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections.abc import Iterable, Iterator

from raymill.client.usage_types import UsageGroup, UsageRecord, UsageSummary

FORMULA = ("=", "+", "-", "@", "\t", "\r")
NUMBERS = [name for name in UsageGroup.model_fields if name != "by"]


def summary_csv(summary: UsageSummary) -> Iterator[str]:
    """Lines of a summary: its dimensions, then the numbers."""
    keys = [key for name in summary.group_by for key in ((name, "key_name") if name == "key" else (name,))]
    yield line([*keys, *NUMBERS])
    for group in summary.data:
        yield line([*(group.by.get(key, "") for key in keys), *(getattr(group, name) for name in NUMBERS)])


def records_head() -> str:
    return line(list(UsageRecord.model_fields))


def records_csv(records: Iterable[UsageRecord]) -> Iterator[str]:
    """Lines of records, without the head."""
    for record in records:
        yield line([getattr(record, name) for name in UsageRecord.model_fields])


def line(values: Iterable[object]) -> str:
    """One line with its end."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow([cell(value) for value in values])
    return text.getvalue()


def cell(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case dt.datetime():
            return value.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
        case float():
            return f"{value:.6g}"
        case str() if value.startswith(FORMULA):
            return f"'{value}"
    return str(value)
