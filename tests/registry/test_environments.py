"""Environments that change at the same moment."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from tests.registry.making import ADA, World

from raymill.policies.errors import Invalid
from raymill.registry.environments import set_environment

WAITING = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")


def test_two_changes_at_once_make_no_circle(world: World) -> None:
    def put(name: str, after: str) -> None:
        with world.database.transaction() as session:
            set_environment(session, name, ADA, approvals=0, roles=["admin"], after=after, expires_after_s=60)

    with ThreadPoolExecutor(1) as other, world.database.transaction() as first:
        set_environment(
            first, "production", ADA, approvals=0, roles=["admin"], after="governed", expires_after_s=60
        )
        second = other.submit(put, "governed", "production")
        for _ in range(500):
            if second.done() or first.scalar(WAITING):
                break
            time.sleep(0.02)
        first.commit()
        with pytest.raises(Invalid, match="governed after production after governed is a circle"):
            second.result(timeout=30)
