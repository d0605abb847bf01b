"""Usage records for tests. Light, for processes that a test kills."""

from __future__ import annotations

import datetime as dt
import uuid

import msgspec

from raymill.serve.gateway.spool import UsageRecord

NOBODY = uuid.UUID(int=0)


def record(number: int = 1, **fields: object) -> UsageRecord:
    plain = UsageRecord(
        id=uuid.UUID(int=number),
        request_id=f"r{number}",
        at=dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC),
        replica_id=NOBODY,
        key_id=NOBODY,
        account_id=NOBODY,
        operation="chat",
        route="gpt",
    )
    return msgspec.structs.replace(plain, **fields)
