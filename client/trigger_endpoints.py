"""The calls of triggers and hooks as data, used by both clients. Sends nothing."""

from __future__ import annotations

from raymill.client import trigger_types as types
from raymill.client.endpoints import Call, Listing, at
from raymill.client.types import Job


def triggers(on: types.TriggerKind | None) -> Listing[types.Trigger]:
    return Listing(path=at("triggers"), item=types.Trigger, query={"on": on})


def trigger(name: str) -> Call[types.Trigger]:
    return Call(path=at("triggers", name), returns=types.Trigger)


def add_trigger(body: types.TriggerRequest) -> Call[types.NewTrigger]:
    # Sent twice it would be refused, and the secret lost.
    path = at("triggers")
    return Call(method="POST", path=path, body=body, returns=types.NewTrigger, repeatable=False)


def enable_trigger(name: str, body: types.Switch) -> Call[types.Trigger]:
    return Call(method="PATCH", path=at("triggers", name), body=body, returns=types.Trigger)


def remove_trigger(name: str) -> Call[types.Trigger]:
    return Call(method="DELETE", path=at("triggers", name), returns=types.Trigger, repeatable=False)


def fire_trigger(name: str) -> Call[types.Trigger]:
    return Call(method="POST", path=at("triggers", name, "fire"), returns=types.Trigger)


def tell_drift(body: types.DriftEvent) -> Call[types.Told]:
    return Call(method="POST", path=at("triggers", "events"), body=body, returns=types.Told)


def hooks() -> Listing[types.Hook]:
    return Listing(path=at("hooks"), item=types.Hook)


def hook(name: str) -> Call[types.Hook]:
    return Call(path=at("hooks", name), returns=types.Hook)


def add_hook(body: types.HookRequest) -> Call[types.NewHook]:
    return Call(method="POST", path=at("hooks"), body=body, returns=types.NewHook, repeatable=False)


def enable_hook(name: str, body: types.Switch) -> Call[types.Hook]:
    return Call(method="PATCH", path=at("hooks", name), body=body, returns=types.Hook)


def remove_hook(name: str) -> Call[types.Hook]:
    return Call(method="DELETE", path=at("hooks", name), returns=types.Hook, repeatable=False)


def deliveries(name: str) -> Listing[Job]:
    return Listing(path=at("hooks", name, "deliveries"), item=Job)
