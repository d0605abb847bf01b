"""The calls of drift as data, used by both clients. Sends nothing."""

from __future__ import annotations

from raymill.client import drift_types as types
from raymill.client.endpoints import Call, Listing, at
from raymill.client.trigger_types import Switch


def watches() -> Listing[types.DriftWatch]:
    return Listing(path=at("drift"), item=types.DriftWatch)


def watch(name: str) -> Call[types.DriftWatch]:
    return Call(path=at("drift", name), returns=types.DriftWatch)


def add_watch(body: types.DriftRequest) -> Call[types.DriftWatch]:
    return Call(method="POST", path=at("drift"), body=body, returns=types.DriftWatch, repeatable=False)


def enable_watch(name: str, body: Switch) -> Call[types.DriftWatch]:
    return Call(method="PATCH", path=at("drift", name), body=body, returns=types.DriftWatch)


def remove_watch(name: str) -> Call[types.DriftWatch]:
    return Call(method="DELETE", path=at("drift", name), returns=types.DriftWatch, repeatable=False)


def look(name: str, body: types.LookRequest) -> Call[types.Look]:
    return Call(method="POST", path=at("drift", name, "run"), body=body, returns=types.Look)


def runs(name: str) -> Listing[types.DriftRun]:
    return Listing(path=at("drift", name, "runs"), item=types.DriftRun)


def events(name: str | None) -> Listing[types.DriftRun]:
    return Listing(path=at("drift", "events"), item=types.DriftRun, query={"watch": name})
