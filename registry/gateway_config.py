"""How gateways learn that what they work by has changed: providers, routes, prices, limits, teams."""

from __future__ import annotations

from sqlalchemy.orm import Session

from raymill.registry.jobs import notify

CONFIG_CHANNEL = "raymill_gateway"
"""Notified in the transaction of every such change, so that gateways follow within a second."""


def tell_gateways(session: Session) -> None:
    """At commit, every gateway reads its configuration again."""
    notify(session, CONFIG_CHANNEL)
