"""Addresses of what the recipes of `seed_work` have registered: a data set, a model and its newest version."""

from __future__ import annotations

from tests.registry.making import World


def seed(_: World, __: str) -> dict[str, str]:
    return {
        "/data/:name": "/data/support-triage",
        "/registry/:name": "/registry/support-triage",
        "/registry/:name/:number": "/registry/support-triage/2",
    }
