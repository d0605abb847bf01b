"""Promotion rules as versioned rows: which decide for an alias, what was decided by which, and that none goes back.

The rules that Raymill ships are kept as policy `raymill`, a version for each release whose rules differ, once they have
decided. Rules of one's own are saved, and set for an environment; its newest version decides. Rules that were saved
are asked in a process of their own (`policies/trial.py`).
"""

from __future__ import annotations

import functools
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from raymill.policies.engine import RULES, Decision, digest_of, read_rules, refusal, shipped_rules
from raymill.policies.errors import Conflict, Invalid, NotFound
from raymill.policies.explain import Finding
from raymill.policies.trial import RuleOutcome, try_rules
from raymill.registry import audit
from raymill.registry.audit import Actor
from raymill.registry.database import one_at_a_time
from raymill.registry.environments import environment_of
from raymill.registry.named import NAME
from raymill.registry.tables import JsonObject, LlmVersion, Policy, Promotion, PromotionState

SHIPPED = "raymill"
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}\.rego")
MAX_BYTES = 256 * 1024
MAX_FILES = 20
CARRIED_OUT = (PromotionState.DECIDED, PromotionState.CANARY, PromotionState.ABORTED)
"""States of promotions whose rules decided and were followed, whatever came of the canary."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The rules that decide for an alias now."""

    policy: str
    files: Mapping[str, str]
    bundle_digest: str


@dataclass(frozen=True, kw_only=True)
class Changed:
    """A promotion on which other rules would have decided otherwise."""

    promotion: Promotion
    decision: Decision


def rules_for(session: Session, alias: str) -> Rules:
    """What the environment of an alias is decided by. Raises NotFound: its policy was never saved."""
    name = environment_of(session, alias).policy
    if name is None:
        return _shipped()
    row = find_policy(session, name)
    return Rules(policy=name, files=row.files, bundle_digest=row.bundle_digest)


def decide(rules: Rules, question: JsonObject) -> Decision:
    """Ask the rules. What cannot be answered is refused."""
    if rules.bundle_digest == shipped_rules().bundle_digest:
        return shipped_rules().decide(question)
    try:
        return try_rules(rules.files, [question]).decisions[0]
    except Invalid as error:
        return refusal(question, rules.bundle_digest, str(error))


def row_of(session: Session, rules: Rules, bundle_digest: str) -> Policy:
    """The row of rules that have decided; those that Raymill ships get theirs by that.

    Raises:
        Conflict: they were replaced since.
    """
    row = _by_digest(session, rules.policy, bundle_digest)
    if row is not None:
        return row
    if rules.policy != SHIPPED or bundle_digest != rules.bundle_digest:
        raise Conflict(f"policy {rules.policy!r} was replaced while it decided: ask for the promotion anew")
    one_at_a_time(session, f"policy/{SHIPPED}")
    row = _by_digest(session, SHIPPED, bundle_digest)  # of whoever had the turn before
    return row if row is not None else _add(session, SHIPPED, rules.files, audit.SYSTEM)


def check_not_older(session: Session, llm_id: uuid.UUID, alias: str, policy: Policy) -> None:
    """Raises Conflict: a newer version of the policy has decided about the alias before."""
    last = session.scalar(
        select(Policy)
        .join(Promotion, Promotion.policy_id == Policy.id)
        .join(LlmVersion, LlmVersion.id == Promotion.version_id)
        .where(LlmVersion.llm_id == llm_id, Promotion.alias == alias)
        .where(Promotion.allowed, Promotion.state.in_(CARRIED_OUT))
        .order_by(func.coalesce(Promotion.closed_at, Promotion.created_at).desc(), Promotion.id.desc())
        .limit(1)
    )
    if last is not None and last.name == policy.name and last.number > policy.number:
        raise Conflict(
            f"the rules here are {policy.name} {policy.number}, older than {last.name} {last.number}, which "
            f"decided about {alias} last: a policy is not downgraded, run the release that has the newer rules"
        )


def check_in_force(session: Session, llm_id: uuid.UUID, alias: str) -> None:
    """For who serves an alias. Raises Conflict, as `check_not_older`, and NotFound."""
    rules = rules_for(session, alias)
    row = _by_digest(session, rules.policy, rules.bundle_digest)
    if row is not None:
        check_not_older(session, llm_id, alias, row)


def find_policy(session: Session, name: str, number: int | None = None) -> Policy:
    """A version of a policy, by default the newest. Raises NotFound."""
    rows = select(Policy).where(Policy.name == name)
    if number is not None:
        rows = rows.where(Policy.number == number)
    row = session.scalar(rows.order_by(Policy.number.desc()).limit(1))
    if row is None:
        what = name if number is None else f"{name} {number}"
        raise NotFound(f"no policy {what!r}: `raymill policy list` shows the ones there are")
    return row


def checked(files: Mapping[str, str]) -> tuple[RuleOutcome, ...]:
    """Compile rules, run their tests, and see that they refuse a promotion of which nothing is known.

    Returns:
        How the tests went; `save` asks that all have passed.

    Raises:
        Invalid: they cannot be used; the message says why.
    """
    if not files or len(files) > MAX_FILES:
        raise Invalid(f"{len(files)} files are given: a policy has 1 to {MAX_FILES}", param="files")
    for name in files:
        if not FILE.fullmatch(name):
            raise Invalid(f"{name[:80]!r} is no name of rules: write it as promotion.rego", param="files")
    size = sum(len(source.encode(errors="surrogatepass")) for source in files.values())
    if size > MAX_BYTES:
        raise Invalid(f"the rules have {size} bytes, a policy has at most {MAX_BYTES}", param="files")
    if any("\0" in source for source in files.values()):
        raise Invalid("the rules hold a NUL character: save them as text", param="files")
    trial = try_rules(files, [{}])
    if trial.decisions[0].allowed:
        raise Invalid("the rules allow a promotion of which nothing is known: add `default allow := false`")
    return trial.tests


def save(session: Session, name: str, files: Mapping[str, str], actor: Actor) -> Policy:
    """The next version of a policy, of files that are `checked`. The newest again is no new version.

    Raises:
        Invalid: the name makes no sense, or is that of the rules that Raymill ships.
    """
    if not NAME.fullmatch(name) or name == SHIPPED:
        raise Invalid(f"{name!r} is no name for a policy: write it as house-rules", param="name")
    one_at_a_time(session, f"policy/{name}")  # numbers count up without a gap
    newest = session.scalar(select(Policy).where(Policy.name == name).order_by(Policy.number.desc()).limit(1))
    if newest is not None and newest.files == dict(files):
        return newest
    return _add(session, name, files, actor)


def rules_behind(session: Session, promotion: Promotion) -> Rules:
    """The rules that decided a promotion. Raises NotFound: they were not kept, before policies were rows."""
    row = session.get(Policy, promotion.policy_id) if promotion.policy_id is not None else None
    if row is not None:
        return Rules(policy=row.name, files=row.files, bundle_digest=row.bundle_digest)
    if promotion.bundle_digest == _shipped().bundle_digest:
        return _shipped()
    raise NotFound(f"the rules of promotion {promotion.id} were not kept: it is older than kept policies are")


def findings(rules: Rules, promotion: Promotion) -> tuple[Finding, ...]:
    """What rules have against what was shown for a promotion, by rule. Raises Invalid."""
    return try_rules(rules.files, [promotion.input]).findings


def dry_run(files: Mapping[str, str], promotions: Sequence[Promotion]) -> list[Changed]:
    """On which of these the rules would have decided otherwise than it was decided. Raises Invalid."""
    decisions = try_rules(files, [each.input for each in promotions]).decisions
    return [
        Changed(promotion=row, decision=decision)
        for row, decision in zip(promotions, decisions, strict=True)
        if row.allowed != decision.allowed
    ]


@functools.cache
def _shipped() -> Rules:
    files = read_rules(RULES)
    return Rules(policy=SHIPPED, files=files, bundle_digest=digest_of(files))


def _by_digest(session: Session, name: str, bundle_digest: str) -> Policy | None:
    rows = select(Policy).where(Policy.name == name, Policy.bundle_digest == bundle_digest)
    return session.scalar(rows.order_by(Policy.number.desc()).limit(1))


def _add(session: Session, name: str, files: Mapping[str, str], actor: Actor) -> Policy:
    last = session.scalar(select(func.max(Policy.number)).where(Policy.name == name)) or 0
    row = Policy(
        name=name,
        number=last + 1,
        files=dict(files),
        bundle_digest=digest_of(files),
        created_by=actor.name,
    )
    session.add(row)
    session.flush()
    audit.record(
        session, actor, "policy.save", f"policy/{name}/{row.number}", bundle_digest=row.bundle_digest
    )
    return row
