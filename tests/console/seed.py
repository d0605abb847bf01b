"""Something of everything for the console's tests. A room's part is a function in a module of its own, listed here."""

from __future__ import annotations

from tests.console import seed_gateway, seed_governance, seed_registry, seed_reviews, seed_work
from tests.registry.making import World

PARTS = (seed_reviews.seed, seed_work.seed, seed_registry.seed, seed_governance.seed, seed_gateway.seed)
"""Each makes its things and returns an address for each route with a parameter that shows one of them, and whatever else
its tests have to know. It is given the address of the stage's provider."""

one_step = seed_work.one_step
one_job = seed_work.one_job


def everything(world: World, provider: str) -> dict[str, str]:
    """Returns examples: `/runs/:id` -> `/runs/0199…`."""
    examples: dict[str, str] = {}
    for part in PARTS:
        examples |= part(world, provider)
    return examples
