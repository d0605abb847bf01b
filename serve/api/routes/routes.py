"""Model names of ours: routes to targets, and presets."""

from __future__ import annotations

from fastapi import APIRouter
from sqlalchemy import select

from raymill.client import gateway_types as types
from raymill.client.types import Page
from raymill.client.validation import checked
from raymill.registry import routes, tables
from raymill.serve.api import gateway_wire as wire
from raymill.serve.api.context import SessionDep, Who
from raymill.serve.api.paging import Cursor, Limit, page
from raymill.serve.api.threads import ThreadRoute
from raymill.serve.gateway.config import RouteConfig

router = APIRouter(tags=["routes"], route_class=ThreadRoute)


@router.get("/routes")
def list_(_: Who, opened: SessionDep, limit: Limit = 50, cursor: Cursor = None) -> Page[types.Route]:
    """Newest first."""
    return page(opened, select(tables.Route), tables.Route.id, wire.route, limit=limit, cursor=cursor)


@router.get("/routes/{name:path}")
def get(name: str, _: Who, opened: SessionDep) -> types.Route:
    """One route."""
    return wire.route(routes.find_route(opened, name))


@router.put("/routes/{name:path}")
def set_(name: str, body: types.RouteRequest, who: Who, opened: SessionDep) -> types.Route:
    """Make a route or put another configuration in its place. Gateways follow within a second."""
    config = checked(RouteConfig, body.config).model_dump(mode="json")
    row = routes.set_route(opened, name, config, who.actor)
    opened.refresh(row)
    return wire.route(row)


@router.patch("/routes/{name:path}")
def enable(name: str, body: types.Enabled, who: Who, opened: SessionDep) -> types.Route:
    """Answer for the name or not."""
    return wire.route(routes.enable_route(opened, name, who.actor, enabled=body.enabled))


@router.delete("/routes/{name:path}")
def remove(name: str, who: Who, opened: SessionDep) -> types.Route:
    """409 while a preset speaks through it."""
    return wire.route(routes.remove_route(opened, name, who.actor))


@router.get("/presets")
def presets(_: Who, opened: SessionDep, limit: Limit = 50, cursor: Cursor = None) -> Page[types.Preset]:
    """Newest first."""
    return page(opened, select(tables.Preset), tables.Preset.id, wire.preset, limit=limit, cursor=cursor)


@router.get("/presets/{name:path}")
def preset(name: str, _: Who, opened: SessionDep) -> types.Preset:
    """One preset."""
    return wire.preset(routes.find_preset(opened, name))


@router.put("/presets/{name:path}")
def set_preset(name: str, body: types.PresetRequest, who: Who, opened: SessionDep) -> types.Preset:
    """Make a preset or put another in its place."""
    row = routes.set_preset(opened, name, who.actor, model=body.model, system=body.system, params=body.params)
    opened.refresh(row)
    return wire.preset(row)


@router.delete("/presets/{name:path}")
def remove_preset(name: str, who: Who, opened: SessionDep) -> types.Preset:
    """Its name means nothing from now on."""
    return wire.preset(routes.remove_preset(opened, name, who.actor))
