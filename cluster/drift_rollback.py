"""The work that follows drift: an alias goes back to where it was before. Written by `registry/drift.py`."""

from __future__ import annotations

from sqlalchemy.orm import Session

from raymill.cluster.context import JobContext, Outcome
from raymill.cluster.governance import decided
from raymill.registry import aliases, promotion
from raymill.registry.artifacts import address_of
from raymill.registry.audit import Actor


def run_rollback(context: JobContext) -> Outcome:
    """Take the alias back to the version before (`promotion.rollback_of`). It moves when the job ends.

    Config: `llm`, `alias`, `leaves` (the version that had drifted), `reason`, `actor`. Where the alias has moved on from
    `leaves` there is nothing to take back.

    Raises:
        Conflict: the alias has no earlier version, or is frozen.
        Denied: the policy refuses; each reason is named, and the refusal is on record.
        Tampered: an artifact is not what was registered.
    """
    config = context.config
    llm, alias, leaves = config["llm"], config["alias"], config["leaves"]
    actor = Actor(name=config["actor"])

    def gather(session: Session) -> promotion.Case | None:
        if aliases.find_alias(session, llm, alias).version.number != leaves:
            return None
        return promotion.rollback_of(session, llm, alias, config["reason"])

    case = context.database.patiently(gather)
    told = {"digest": address_of("drift_rollback", config, {}), "reason": config["reason"]}
    if case is None:
        return Outcome(result={**told, "skipped": f"{llm}@{alias} has moved on from version {leaves}"})
    what = f"{llm} {case.input['version']}"
    result = decided(context, case, {}, what=what, requester=lambda _: actor)
    return Outcome(result={**told, **result, "actor": actor.name, "leaves": leaves, "note": config["reason"]})
