"""Promotions that wait: approved by others, then executed; or rejected, or left until they expire.

    pending ──approve──> approved ──execute──> executed      (by the policy of that moment, else refused)
       └───────┬────────────┘          └─────> canary ──> executed, or aborted      (`canary_looks.py`)
               ├──reject──> rejected
               └──time────> expired

Who may approve, and how many must, was asked by the environment when the request was made. Nobody approves their
own. What is executed is what was approved: the policy is shown the same input again, the bytes are read again.
"""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.policies.engine import Decision
from raymill.policies.errors import Conflict, Denied, NotFound
from raymill.registry import aliases, audit, canaries, deployments, policy_rows, promotion
from raymill.registry.artifact_access import Artifacts
from raymill.registry.audit import Actor
from raymill.registry.database import Database, clock
from raymill.registry.promotion import Case
from raymill.registry.tables import Approval, JsonObject, Promotion, PromotionState, Role

State = Literal["pending", "approved", "canary", "executed", "refused", "rejected", "expired", "aborted"]

EXECUTED = ("executed", "canary")
"""What an execution comes to."""


def state_of(row: Promotion, now: dt.datetime) -> State:
    """What became of a promotion by `now`."""
    if row.state is PromotionState.DECIDED:
        return "executed" if row.allowed else "refused"
    if row.state is PromotionState.REJECTED:
        return "rejected"
    if row.state is PromotionState.CANARY:
        return "canary"
    if row.state is PromotionState.ABORTED:
        return "aborted"
    if row.expires_at is not None and row.expires_at <= now:
        return "expired"
    return "approved" if len(row.approvals) >= row.approvals_needed else "pending"


def find(session: Session, promotion_id: uuid.UUID) -> Promotion:
    """Raises NotFound."""
    row = session.get(Promotion, promotion_id)
    if row is None:
        raise NotFound(f"no promotion {promotion_id}: `raymill promotion list` shows the ones there are")
    return row


def find_in_turn(session: Session, promotion_id: uuid.UUID) -> Promotion:
    """As it is now, and stays until the caller's commit: nothing else moves the model's aliases. Raises NotFound."""
    take = find(session, promotion_id).version.llm_id
    aliases.take_turn(session, take)
    found = select(Promotion).where(Promotion.id == promotion_id).with_for_update(of=Promotion)
    return session.scalars(found.execution_options(populate_existing=True)).unique().one()


def approve(session: Session, promotion_id: uuid.UUID, role: Role, actor: Actor) -> Promotion:
    """Agree to a request. Agreeing twice counts once.

    Raises:
        NotFound: there is no such promotion.
        Denied: it is the caller's own, or their role does not count.
        Conflict: it waits for nothing any more.
    """
    row = find_in_turn(session, promotion_id)
    if any(each.account == actor.name for each in row.approvals):
        return row
    _check_waits(session, row)
    if row.requested_by == actor.name:
        raise Denied(f"promotion {row.id} is {actor.name}'s own: somebody else must approve it")
    _check_counts(row, role, actor)
    row.approvals.append(Approval(account=actor.name, role=role.value))
    session.flush()
    have = f"{len(row.approvals)} of {row.approvals_needed}"
    audit.record(session, actor, "promotion.approve", f"promotion/{row.id}", role=role.value, have=have)
    return row


def reject(
    session: Session, promotion_id: uuid.UUID, role: Role, actor: Actor, note: str | None = None
) -> Promotion:
    """End a request. Who asked for it may, and everyone whose approval would count.

    Raises:
        NotFound: there is no such promotion.
        Denied: the caller's role does not count.
        Conflict: it waits for nothing any more.
    """
    row = find_in_turn(session, promotion_id)
    _check_waits(session, row)
    if row.requested_by != actor.name:
        _check_counts(row, role, actor)
    row.state, row.note = PromotionState.REJECTED, note
    row.closed_at, row.closed_by = clock(session), actor.name
    audit.record(session, actor, "promotion.reject", f"promotion/{row.id}", note=note)
    return row


def execute(
    database: Database, store: Artifacts, keys_dir: Path, *, promotion_id: uuid.UUID, actor: Actor
) -> Promotion:
    """Move the alias as it was approved, or begin its canary. One that was executed already is answered as it is.

    Raises:
        NotFound: there is no such promotion.
        Conflict: it is not approved, the alias is frozen, or is not at the version that was compared with; or the rules
            are older than those that decided about the alias last.
        Tampered: an artifact is not what was registered.
    """
    case = database.patiently(lambda session: _approved(session, promotion_id))
    if case is not None:
        envelopes = promotion.sign(case, store, keys_dir)
        decision = promotion.decide(case, envelopes, store)
        database.patiently(
            lambda session: _carry_out(session, promotion_id, case, decision, envelopes, actor)
        )
    return database.patiently(lambda session: find(session, promotion_id))


def serve_when_executed(session: Session, promotion_id: uuid.UUID, serving: JsonObject) -> State:
    """Have the alias served with `serving` once a request that waits is executed, its canary at once.

    Returns:
        What became of it so far.
    """
    row = find_in_turn(session, promotion_id)
    state = state_of(row, clock(session))
    if state == "canary":
        assert row.trial is not None
        canaries.serve_with(session, row.trial, serving)
    elif state in {"pending", "approved"}:
        row.serving = serving
    return state


def _check_waits(session: Session, row: Promotion) -> None:
    state = state_of(row, clock(session))
    if state not in {"pending", "approved"}:
        raise Conflict(f"promotion {row.id} is {state}: only one that waits can be approved or rejected")


def _check_counts(row: Promotion, role: Role, actor: Actor) -> None:
    if role.value not in row.approver_roles:
        counting = " or ".join(row.approver_roles)
        raise Denied(f"{actor.name} is {role.value}, {row.alias} takes the approval of {counting}: ask one")


def _check_approved(session: Session, row: Promotion) -> None:
    state = state_of(row, clock(session))
    if state != "approved":
        have = f"{len(row.approvals)} of {row.approvals_needed} approvals are there"
        why = have if state == "pending" else "ask for it anew with `raymill promotion create`"
        raise Conflict(f"promotion {row.id} is {state}: {why}")


def _approved(session: Session, promotion_id: uuid.UUID) -> Case | None:
    """What is to be carried out; None: it was."""
    row = find_in_turn(session, promotion_id)
    if state_of(row, clock(session)) in EXECUTED:
        return None
    _check_approved(session, row)
    _check_rivals(session, row)
    case = promotion.as_shown(session, row.version.llm.name, row.version.number, row.alias, row.input)
    approvals = {"requested_by": row.requested_by, "approved_by": [each.account for each in row.approvals]}
    return replace(case, predicate={**case.predicate, **approvals})


def _carry_out(
    session: Session,
    promotion_id: uuid.UUID,
    case: Case,
    decision: Decision,
    envelopes: dict[str, JsonObject],
    actor: Actor,
) -> None:
    row = find_in_turn(session, promotion_id)
    if state_of(row, clock(session)) in EXECUTED:
        return
    _check_approved(session, row)
    _check_rivals(session, row)
    promotion.check_free(session, row.version, case.alias)
    policy = policy_rows.row_of(session, case.rules, decision.bundle_digest)
    policy_rows.check_not_older(session, row.version.llm_id, row.alias, policy)
    row.policy_id = policy.id
    row.state, row.closed_at, row.closed_by = PromotionState.DECIDED, clock(session), actor.name
    row.allowed, row.bundle_digest = decision.allowed, decision.bundle_digest
    row.reasons = [{"reason": reason} for reason in decision.reasons]
    if not decision.allowed:
        what = f"promotion/{row.id}"
        audit.record(
            session, actor, "promotion.refuse", what, alias=row.alias, reasons=list(decision.reasons)
        )
        return
    promotion.carry_out(session, row, envelopes, actor)
    if row.serving is not None and row.state is PromotionState.DECIDED:
        deployments.request(session, row.version.llm.name, row.alias, row.serving, actor)


def _check_rivals(session: Session, row: Promotion) -> None:
    """A comparison says something while the alias is at the version that was compared with."""
    now = aliases.aliases_at(session, row.version.llm_id)
    for task, each in row.input.get("comparisons", {}).items():
        number = now.get(each["alias"])
        if (None if number == row.version.number else number) != each["version"]:
            raise Conflict(
                f"{task} was compared with version {each['version']}, {each['alias']} is at version {number} "
                "now: ask for the promotion anew"
            )
