"""The calls of policies as data, for both clients. Sends nothing."""

from __future__ import annotations

from raymill.client import policy_types as types
from raymill.client.endpoints import Call, Id, Listing, at

TRIAL_TIMEOUT_S = 120.0
"""Rules are compiled in a process of their own."""


def policies() -> Listing[types.Policy]:
    return Listing(path=at("policies"), item=types.Policy)


def policy(name: str, number: int | None) -> Call[types.Policy]:
    return Call(path=at("policies", name), query={"number": number}, returns=types.Policy)


def save(body: types.PolicyRequest) -> Call[types.Policy]:
    return Call(
        method="POST", path=at("policies"), body=body, returns=types.Policy, timeout_s=TRIAL_TIMEOUT_S
    )


def test(body: types.PolicyFiles) -> Call[types.PolicyTests]:
    path = at("policies", "test")
    return Call(method="POST", path=path, body=body, returns=types.PolicyTests, timeout_s=TRIAL_TIMEOUT_S)


def dry_run(body: types.DryRunRequest) -> Call[types.DryRun]:
    path = at("policies", "dry-run")
    return Call(method="POST", path=path, body=body, returns=types.DryRun, timeout_s=TRIAL_TIMEOUT_S)


def explain(promotion_id: Id) -> Call[types.Explanation]:
    path = at("promotions", promotion_id, "explanation")
    return Call(path=path, returns=types.Explanation, timeout_s=TRIAL_TIMEOUT_S)


def replay(promotion_id: Id) -> Call[types.Replay]:
    path = at("promotions", promotion_id, "replay")
    return Call(path=path, returns=types.Replay, timeout_s=TRIAL_TIMEOUT_S)
