"""Model names of ours: routes, which say who answers for a name, and presets, which are personas.

A route's configuration is checked by whoever calls (`serve/gateway/config.py` says what it may hold); here it
is checked against the providers there are.
"""

from __future__ import annotations

import re

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from raymill.policies.errors import Conflict, Invalid, NotFound
from raymill.registry import audit
from raymill.registry.audit import Actor
from raymill.registry.gateway_config import tell_gateways
from raymill.registry.provider_settings import OURS
from raymill.registry.tables import JsonObject, Preset, Provider, Route

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}")
NOT_A_DEFAULT = frozenset({"model", "messages", "input", "prompt", "system", "instructions", "stream"})
"""Fields of a request that a preset cannot fill: they are the request itself."""

_LOCK = 7265709
"""Changes of names take turns, so that what was found of one still holds when another is written."""


def set_route(session: Session, name: str, config: JsonObject, actor: Actor) -> Route:
    """Make a route or put another configuration in its place; a disabled one stays disabled.

    Args:
        config: a resolved RouteConfig.

    Raises:
        Invalid: the name cannot be one, or a target names a provider that is not there.
        Conflict: a preset is called so.
    """
    _checked(name, "route")
    _take_turns(session)
    if session.scalar(select(Preset.id).where(Preset.name == name)) is not None:
        raise Conflict(f"a preset is called {name!r}, which would hide the route: choose another name")
    _targets_exist(session, config)
    row = session.scalar(select(Route).where(Route.name == name))
    if row is not None and row.config == config:
        return row
    before = row.config if row is not None else None
    if row is None:
        row = Route(name=name, config=config)
        session.add(row)
    else:
        row.config = config
    session.flush()
    audit.record(session, actor, "route.set", f"route/{name}", before=before, after=config)
    tell_gateways(session)
    return row


def enable_route(session: Session, name: str, actor: Actor, *, enabled: bool) -> Route:
    """Answer for the name or not; the same again changes nothing."""
    _take_turns(session)
    row = find_route(session, name)
    if row.enabled != enabled:
        row.enabled = enabled
        audit.record(session, actor, "route.enable" if enabled else "route.disable", f"route/{name}")
        tell_gateways(session)
    return row


def remove_route(session: Session, name: str, actor: Actor) -> Route:
    """Raises Conflict when a preset speaks through it."""
    _take_turns(session)
    row = find_route(session, name)
    users = list(session.scalars(select(Preset.name).where(Preset.model == name).order_by(Preset.name)))
    if users:
        raise Conflict(f"{name} is the model of {', '.join(users)}: change or remove these presets first")
    session.delete(row)
    audit.record(session, actor, "route.remove", f"route/{name}", before=row.config)
    tell_gateways(session)
    return row


def find_route(session: Session, name: str) -> Route:
    """Raises NotFound."""
    row = session.scalar(select(Route).where(Route.name == name))
    if row is None:
        raise NotFound(f"no route {name!r}: `raymill route list` shows the ones there are")
    return row


def set_preset(
    session: Session, name: str, actor: Actor, *, model: str, system: str, params: JsonObject
) -> Preset:
    """Make a preset or put another in its place.

    Args:
        model: any name that a request could use, but no preset.
        params: defaults of a request, such as temperature.

    Raises:
        Invalid: the name cannot be one, or a parameter is the request itself.
        Conflict: a route is called so, or `model` is a preset.
    """
    _checked(name, "preset")
    _take_turns(session)
    wrong = sorted(NOT_A_DEFAULT & params.keys())
    if wrong:
        raise Invalid(f"params cannot hold {wrong[0]}: it belongs to the request", param=f"params.{wrong[0]}")
    if session.scalar(select(Route.id).where(Route.name == name)) is not None:
        raise Conflict(f"a route is called {name!r}, which the preset would hide: choose another name")
    if model == name or session.scalar(select(Preset.id).where(Preset.name == model)) is not None:
        raise Conflict(f"{model!r} is a preset itself: give the model that it speaks through")
    users = list(session.scalars(select(Preset.name).where(Preset.model == name).order_by(Preset.name)))
    if users:
        raise Conflict(f"{name!r} is the model of {', '.join(users)}: a preset cannot stand on another")
    row = session.scalar(select(Preset).where(Preset.name == name))
    before = None if row is None else {"model": row.model, "system": row.system, "params": row.params}
    if row is None:
        row = Preset(name=name, model=model, system=system, params=params)
        session.add(row)
    elif (row.model, row.system, row.params) == (model, system, params):
        return row
    else:
        row.model, row.system, row.params = model, system, params
    session.flush()
    after = {"model": model, "system": system, "params": params}
    audit.record(session, actor, "preset.set", f"preset/{name}", before=before, after=after)
    tell_gateways(session)
    return row


def remove_preset(session: Session, name: str, actor: Actor) -> Preset:
    _take_turns(session)
    row = find_preset(session, name)
    session.delete(row)
    before = {"model": row.model, "system": row.system, "params": row.params}
    audit.record(session, actor, "preset.remove", f"preset/{name}", before=before)
    tell_gateways(session)
    return row


def find_preset(session: Session, name: str) -> Preset:
    """Raises NotFound."""
    row = session.scalar(select(Preset).where(Preset.name == name))
    if row is None:
        raise NotFound(f"no preset {name!r}: `raymill preset list` shows the ones there are")
    return row


def _take_turns(session: Session) -> None:
    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def _checked(name: str, what: str) -> None:
    if "@" in name:
        raise Invalid(
            f"a {what} cannot be called {name[:80]!r}: @ is for served versions, leave it out", param="name"
        )
    if not NAME.fullmatch(name):
        raise Invalid(f"a {what} cannot be called {name[:80]!r}: match {NAME.pattern}", param="name")


def _targets_exist(session: Session, config: JsonObject) -> None:
    wanted = {target["provider"] for target in config["targets"]} - {OURS}
    # Locked, so that none of them is removed before this commits; in order, so that two routes do not deadlock.
    known = set(
        session.scalars(
            select(Provider.name)
            .where(Provider.name.in_(wanted))
            .order_by(Provider.name)
            .with_for_update(key_share=True, read=True)
        )
    )
    for number, target in enumerate(config["targets"]):
        if target["provider"] not in known | {OURS}:
            raise Invalid(
                f"no provider {target['provider']!r}: `raymill provider list` shows the ones there are",
                param=f"targets[{number}].provider",
            )
