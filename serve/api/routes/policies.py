"""Promotion rules: saved, tested, asked about what was decided before."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy import select

from raymill.client import policy_types as types
from raymill.client.types import Page
from raymill.policies.errors import Invalid
from raymill.registry import policy_rows, requests, tables
from raymill.serve.api.context import PartsDep, SessionDep, Who
from raymill.serve.api.paging import Cursor, Limit, page
from raymill.serve.api.threads import ThreadRoute

router = APIRouter(route_class=ThreadRoute)


@router.get("/policies", tags=["policies"])
def list_(_: Who, opened: SessionDep, limit: Limit = 50, cursor: Cursor = None) -> Page[types.Policy]:
    """Every version, newest first."""
    return page(opened, select(tables.Policy), tables.Policy.id, wire, limit=limit, cursor=cursor)


@router.post("/policies", status_code=201, tags=["policies"])
def save(body: types.PolicyRequest, who: Who, found: PartsDep) -> types.Policy:
    """The next version of a policy. It must compile, pass its tests, and refuse what nothing is known of."""
    failed = [each for each in policy_rows.checked(body.files) if not each.passed]
    if failed:
        said = "; ".join(f"{each.name}: {each.message}" for each in failed[:3])
        raise Invalid(f"{len(failed)} tests of the rules fail ({said[:500]}): mend them", param="files")
    return found.database.patiently(
        lambda session: wire(policy_rows.save(session, body.name, body.files, who.actor))
    )


@router.get("/policies/{name}", tags=["policies"])
def get(
    name: str, _: Who, opened: SessionDep, number: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None
) -> types.Policy:
    """A version of a policy, by default the newest."""
    return wire(policy_rows.find_policy(opened, name, number))


@router.post("/policies/test", tags=["policies"])
def run_tests(body: types.PolicyFiles, _: Who) -> types.PolicyTests:
    """Compile rules and run their `test_` rules. Nothing is kept."""
    outcomes = [types.RuleOutcome(**asdict(each)) for each in policy_rows.checked(body.files)]
    return types.PolicyTests(passed=all(each.passed for each in outcomes), tests=outcomes)


@router.post("/policies/dry-run", tags=["policies"])
def dry_run(body: types.DryRunRequest, _: Who, opened: SessionDep) -> types.DryRun:
    """On which of the newest promotions these rules would have decided otherwise."""
    policy_rows.checked(body.files)
    rows = select(tables.Promotion).order_by(tables.Promotion.id.desc()).limit(body.limit)
    if body.alias is not None:
        rows = rows.where(tables.Promotion.alias == body.alias)
    looked_at = opened.scalars(rows).unique().all()
    changed = [
        types.ChangedDecision(
            promotion_id=each.promotion.id,
            llm=each.promotion.version.llm.name,
            version=each.promotion.version.number,
            alias=each.promotion.alias,
            allowed=each.decision.allowed,
            reasons=list(each.decision.reasons),
        )
        for each in policy_rows.dry_run(body.files, looked_at)
    ]
    return types.DryRun(asked=len(looked_at), changed=changed)


@router.get("/promotions/{promotion_id}/explanation", tags=["promotions"])
def explain(promotion_id: uuid.UUID, _: Who, opened: SessionDep) -> types.Explanation:
    """Which rules stand against a promotion, and what they looked at."""
    row = requests.find(opened, promotion_id)
    rules = policy_rows.rules_behind(opened, row)
    found = [types.Finding(**asdict(each)) for each in policy_rows.findings(rules, row)]
    return types.Explanation(promotion_id=row.id, policy=rules.policy, allowed=row.allowed, findings=found)


@router.get("/promotions/{promotion_id}/replay", tags=["promotions"])
def replay(promotion_id: uuid.UUID, _: Who, opened: SessionDep) -> types.Replay:
    """Make a stored decision again, by the rules and from the input that are stored with it."""
    row = requests.find(opened, promotion_id)
    rules = policy_rows.rules_behind(opened, row)
    decision = policy_rows.decide(rules, row.input)
    told = (decision.allowed, list(decision.reasons), decision.input_digest, decision.bundle_digest)
    kept = (row.allowed, [each["reason"] for each in row.reasons], row.input_digest, row.bundle_digest)
    return types.Replay(
        promotion_id=row.id,
        policy=rules.policy,
        same=told == kept,
        allowed=decision.allowed,
        reasons=list(decision.reasons),
        input_digest=decision.input_digest,
        bundle_digest=decision.bundle_digest,
    )


def wire(row: tables.Policy) -> types.Policy:
    return types.Policy.model_validate(row, from_attributes=True)
