"""The calls of searches as data, used by both clients. Sends nothing."""

from __future__ import annotations

from raymill.client import search_types as types
from raymill.client.endpoints import Call, Id, Listing, at


def searches(name: str | None) -> Listing[types.Search]:
    return Listing(path=at("searches"), item=types.Search, query={"name": name})


def search(search_id: Id) -> Call[types.Search]:
    return Call(path=at("searches", search_id), returns=types.Search)


def plot(search_id: Id) -> str:
    return at("searches", search_id, "plot")
