"""Records of usage, as gateways write them: one line for each request that a test is about."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from tests.registry.making import ADA

from raymill.registry import identity
from raymill.registry.database import Database
from raymill.registry.tables import Account, ApiKey, Role, Usage, new_id

NOON = dt.datetime(2026, 3, 18, 12, tzinfo=dt.UTC)
"""A Wednesday."""


def make_account(
    database: Database, name: str, role: Role = Role.VIEWER, **more: Any
) -> tuple[Account, ApiKey]:
    """An account with a key called `laptop`."""
    with database.transaction() as session:
        account = identity.create_account(session, name, role, ADA, **more)
        return account, identity.create_key(session, name, "laptop", ADA)[0]


def usage(key: ApiKey, **changes: Any) -> Usage:
    """A chat with route `support` that openai/gpt answered in 100 ms for 5 micro-dollars."""
    values: dict[str, Any] = {
        "id": new_id(),
        "request_id": uuid.uuid4().hex,
        "at": NOON,
        "replica_id": uuid.UUID(int=1),
        "key_id": key.id,
        "account_id": key.account_id,
        "team_id": key.account.team_id,
        "operation": "chat",
        "route": "support",
        "provider": "openai",
        "model": "gpt",
        "status": 200,
        "outcome": "ok",
        "stream": False,
        "attempts": 1,
        "prompt_tokens": 10,
        "cached_tokens": 4,
        "completion_tokens": 2,
        "estimated": False,
        "cost_micro_usd": 5,
        "priced": True,
        "latency_ms": 100.0,
        "first_token_ms": None,
        "overhead_ms": 0.5,
    }
    return Usage(**{**values, **changes})


def add(database: Database, *rows: Usage) -> None:
    with database.transaction() as session:
        session.add_all(rows)
