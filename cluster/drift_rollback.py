"""The work that follows drift: an alias goes back to where it was before. Written by `registry/drift.py`."""

from __future__ import annotations

from sqlalchemy.orm import Session

from raymill.cluster.context import JobContext, Outcome
from raymill.cluster.governance import decided
from raymill.policies.errors import Conflict
from raymill.registry import aliases, promotion
from raymill.registry.artifacts import address_of
from raymill.registry.audit import Actor


def run_rollback(context: JobContext) -> Outcome:
    """Promote the version before anew: policy and signature must hold for it today. The alias moves when the job ends.

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
        version = aliases.find_alias(session, llm, alias).version
        if version.number != leaves:
            return None
        before = aliases.version_before(session, version, alias)
        if before is None:
            raise Conflict(f"{llm}@{alias} was never at a version before {leaves}: promote one")
        return promotion.gather(session, llm, before.number, alias, {})

    case = context.database.patiently(gather)
    told = {"digest": address_of("drift_rollback", config, {}), "reason": config["reason"]}
    if case is None:
        return Outcome(result={**told, "skipped": f"{llm}@{alias} has moved on from version {leaves}"})
    what = f"{llm} {case.input['version']}"
    result = decided(context, case, {}, what=what, requester=lambda _: actor)
    return Outcome(result={**told, **result, "actor": actor.name, "leaves": leaves})
