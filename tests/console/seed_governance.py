"""What waits for somebody: a promotion that takes an approval."""

from __future__ import annotations

from tests.registry.making import ADA, World

from raymill.registry import environments

DAY_S = 86_400


def seed(world: World, _: str) -> dict[str, str]:
    world.promote(1)
    with world.database.transaction() as session:
        environments.set_environment(
            session,
            "production",
            ADA,
            approvals=1,
            roles=["approver", "admin"],
            after=None,
            expires_after_s=7 * DAY_S,
        )
    waits = world.promote(2)
    return {"promotion": f"/promotions?id={waits.id}"}
