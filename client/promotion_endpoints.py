"""The calls of promotions, aliases and environments as data, for both clients. Sends nothing."""

from __future__ import annotations

from raymill.client import promotion_types, types
from raymill.client.endpoints import VERIFY_TIMEOUT_S, Call, Id, Listing, at


def create(body: types.PromotionRequest) -> Call[types.Promotion]:
    return Call(method="POST", path=at("promotions"), body=body, returns=types.Promotion, repeatable=False)


def promotions(llm: str | None, waiting: bool) -> Listing[types.Promotion]:
    query = {"llm": llm, "waiting": "true" if waiting else None}
    return Listing(path=at("promotions"), item=types.Promotion, query=query)


def promotion(promotion_id: Id) -> Call[types.Promotion]:
    return Call(path=at("promotions", promotion_id), returns=types.Promotion)


def approve(promotion_id: Id) -> Call[types.Promotion]:
    return _step(promotion_id, "approve")


def reject(promotion_id: Id, reason: str | None) -> Call[types.Promotion]:
    body = promotion_types.Reason(reason=reason)
    path = at("promotions", promotion_id, "reject")
    return Call(method="POST", path=path, body=body, returns=types.Promotion, repeatable=False)


def execute(promotion_id: Id) -> Call[types.Promotion]:
    return _step(promotion_id, "execute")


def advance(promotion_id: Id) -> Call[types.Promotion]:
    path = at("promotions", promotion_id, "advance")
    return Call(method="POST", path=path, returns=types.Promotion, repeatable=False)


def abort(promotion_id: Id, reason: str | None) -> Call[types.Promotion]:
    body = promotion_types.Reason(reason=reason)
    path = at("promotions", promotion_id, "abort")
    return Call(method="POST", path=path, body=body, returns=types.Promotion, repeatable=False)


def alias_history(llm: str) -> Listing[types.AliasMove]:
    return Listing(path=at("llms", llm, "aliases", "history"), item=types.AliasMove)


def freeze(llm: str, alias: str, reason: str | None) -> Call[promotion_types.Alias]:
    body = promotion_types.Reason(reason=reason)
    return Call(
        method="POST",
        path=at("llms", llm, "aliases", alias, "freeze"),
        body=body,
        returns=promotion_types.Alias,
    )


def unfreeze(llm: str, alias: str) -> Call[promotion_types.Alias]:
    path = at("llms", llm, "aliases", alias, "unfreeze")
    return Call(method="POST", path=path, returns=promotion_types.Alias)


def roll_back(llm: str, alias: str, reason: str | None) -> Call[types.Promotion]:
    body = promotion_types.Reason(reason=reason)
    path = at("llms", llm, "aliases", alias, "rollback")
    # Sent twice it would go back twice.
    return Call(
        method="POST",
        path=path,
        body=body,
        returns=types.Promotion,
        timeout_s=VERIFY_TIMEOUT_S,
        repeatable=False,
    )


def archive(llm: str, number: int, reason: str | None) -> Call[types.Version]:
    body = promotion_types.Reason(reason=reason)
    path = at("llms", llm, "versions", number, "archive")
    return Call(method="POST", path=path, body=body, returns=types.Version)


def restore(llm: str, number: int) -> Call[types.Version]:
    path = at("llms", llm, "versions", number, "restore")
    return Call(method="POST", path=path, returns=types.Version)


def environments() -> Listing[promotion_types.Environment]:
    return Listing(path=at("environments"), item=promotion_types.Environment)


def set_environment(
    name: str, body: promotion_types.EnvironmentSettings
) -> Call[promotion_types.Environment]:
    path = at("environments", name)
    return Call(method="PUT", path=path, body=body, returns=promotion_types.Environment)


def _step(promotion_id: Id, step: str) -> Call[types.Promotion]:
    # Either is the same when it is sent twice; the bytes are read again before the alias moves.
    path = at("promotions", promotion_id, step)
    return Call(method="POST", path=path, returns=types.Promotion, timeout_s=VERIFY_TIMEOUT_S)
