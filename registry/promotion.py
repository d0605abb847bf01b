"""Moving an alias: prove the bytes, ask the policy, record what it said, move.

    gather ── what is known of the version: scores, data, base, recipe, files
    sign   ── every byte is compared with what was registered, then a statement over them is signed
    decide ── the policy engine is shown all of that; a signature that it refuses is thrown away
    record ── decision, signatures, alias, history and audit row, in one transaction; refusals too

Nothing reaches an alias without all four (promise P6 of docs/architecture.md). Where the environment asks for
approvals, `record` keeps a request instead, and `registry/requests.py` carries it out. Where a canary is asked for, the
alias moves later (`registry/canary_looks.py`), or never.
"""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.policies.engine import Decision
from raymill.policies.errors import Conflict
from raymill.registry import aliases, archive, audit, canaries, policy_rows, rivals, sbom
from raymill.registry.artifact_access import Artifacts
from raymill.registry.artifacts import FileDigest, digests_of
from raymill.registry.audit import Actor
from raymill.registry.canary_config import CanaryConfig
from raymill.registry.catalog import find_version, scores_of, signed_artifacts
from raymill.registry.database import Database, clock
from raymill.registry.environments import environment_of
from raymill.registry.jobs import notify
from raymill.registry.policy_rows import Rules
from raymill.registry.rivals import Rival
from raymill.registry.signing import sign_statement
from raymill.registry.signing_keys import KeyRing
from raymill.registry.tables import (
    Artifact,
    Attestation,
    Dataset,
    Environment,
    Job,
    JsonObject,
    LlmVersion,
    Pipeline,
    Promotion,
    PromotionState,
    TrainingRun,
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A wish to move an alias, with all that decides it."""

    version_id: uuid.UUID
    alias: str
    input: JsonObject
    """What the policy is shown."""

    predicate: JsonObject
    """What the signature will say of how the version came to be."""

    artifacts: dict[str, tuple[FileDigest, ...]]
    """The weights, its adapter and the quantized files where there are some, as they were registered."""

    rules: Rules
    """What is asked."""

    rivals: tuple[Rival, ...] = ()
    """Versions with which `require` has it compared."""

    leaves: uuid.UUID | None = None
    """Of a roll back: the version that the alias must still be at."""

    note: str | None = None
    """Why, in the words of who asked."""

    canary: CanaryConfig | None = None
    """What it is tried by before the alias moves; None: as the environment says."""

    canary_needed: bool = True
    """Where there is nothing to compare a canary with it is refused; else the alias then moves at once, as it does with an
    environment's."""


def gather(session: Session, llm: str, number: int, alias: str, require: JsonObject) -> Case:
    """Collect what is known of a version.

    Raises:
        NotFound: there is no such version.
        Conflict: the alias is frozen, or the version is archived, or has not been where the environment wants it first.
    """
    version = find_version(session, llm, number)
    check_free(session, version, alias)
    names = signed_artifacts(session, version)
    scores = scores_of(session, version.artifact_name)
    dataset = session.get_one(Dataset, version.dataset_id)
    run = session.get_one(TrainingRun, version.job_id)
    job = session.get_one(Job, version.job_id)
    pipeline = session.get_one(Pipeline, job.pipeline_id)
    quantized_scores: dict[str, dict[str, float]] = {}
    for name in names[1:]:
        quantized_scores |= scores_of(session, name)
    require = require or _of_recipe(pipeline.recipe)
    measured: JsonObject = {
        "metrics": scores.get("", {}),
        "base_metrics": scores_of(session, version.base_artifact_name).get("", {}),
        "quantized_metrics": quantized_scores,
    }
    return Case(
        version_id=version.id,
        alias=alias,
        input={
            "name": llm,
            "version": number,
            "to": alias,
            "require": require,
            "dataset_digest": dataset.digest,
            **measured,
        },
        predicate={
            "llm": llm,
            "version": number,
            "dataset": {"name": dataset.name, "number": dataset.number, "digest": dataset.digest},
            "base": {
                "artifact": version.base_artifact_name,
                "digest": session.get_one(Artifact, version.base_artifact_name).digest,
            },
            "recipe": pipeline.recipe,
            "run": {
                "job": str(job.id),
                "config": run.config,
                "steps": run.steps,
                "final_loss": run.final_loss,
            },
            **sbom.provenance(session, version),
            **measured,
        },
        artifacts={name: digests_of(session.get_one(Artifact, name).files) for name in names},
        rules=policy_rows.rules_for(session, alias),
        rivals=rivals.asked(session, version, require),
    )


def sign(case: Case, store: Artifacts, keys_dir: Path) -> dict[str, JsonObject]:
    """Compare every file with what was registered, and sign. Nothing is kept: `record` does that.

    Returns:
        Artifact name -> DSSE envelope of an in-toto statement.

    Raises:
        Tampered: the bytes in the store are not those that were registered.
    """
    signer = KeyRing(keys_dir).signer()
    envelopes: dict[str, JsonObject] = {}
    for name, files in case.artifacts.items():
        store.verify(name, files)
        envelopes[name] = sign_statement(signer, files, {**case.predicate, "artifact": name}, name)
    return envelopes


def decide(case: Case, envelopes: dict[str, JsonObject], store: Artifacts) -> Decision:
    """Ask the promotion policy. Samples are read here for what is to be compared with another version.

    Raises:
        Tampered: samples are not what was registered.
    """
    compared = {"comparisons": rivals.judged(store, case.rivals)} if case.rivals else {}
    facts = {
        "evaluated": bool(case.input["metrics"]),
        "signed": set(envelopes) == set(case.artifacts),
        "frozen": bool(case.artifacts),  # `sign` has just compared them with what was registered
    }
    return policy_rows.decide(case.rules, {**case.input, **facts, **compared})


def check_free(session: Session, version: LlmVersion, alias: str) -> None:
    """Whether anything but the policy stands in the way of a move.

    Raises:
        Conflict: the alias is frozen, or the version is archived, or has not been where the environment wants it first.
    """
    aliases.check_not_frozen(session, version.llm_id, alias)
    archive.check_not_archived(session, version)
    after = environment_of(session, alias).after
    if after is not None and not aliases.was_at(session, version, after):
        raise Conflict(
            f"{version.llm.name} version {version.number} was never {after}, which comes before {alias}: "
            f"`raymill promotion create {version.llm.name} {version.number} --to {after}`"
        )


def record(
    session: Session,
    case: Case,
    decision: Decision,
    envelopes: dict[str, JsonObject],
    actor: Actor,
    job_id: uuid.UUID | None = None,
) -> Promotion:
    """Write what was decided and, when allowed, the signatures and the alias's move, or the request for it.

    Raises:
        Conflict: the alias was frozen meanwhile, or has moved on from what is to be rolled back; or the rules are older
            than those that decided about it last.
    """
    version = session.get_one(LlmVersion, case.version_id)
    aliases.take_turn(session, version.llm_id)
    check_free(session, version, case.alias)
    if (
        case.leaves is not None
        and aliases.find_alias(session, version.llm.name, case.alias).version_id != case.leaves
    ):
        raise Conflict(f"{case.alias} of {version.llm.name} has moved on meanwhile: look where it is now")
    policy = policy_rows.row_of(session, case.rules, decision.bundle_digest)
    policy_rows.check_not_older(session, version.llm_id, case.alias, policy)
    environment = environment_of(session, case.alias)
    needed = environment.approvals if case.leaves is None else 0
    waits = decision.allowed and needed > 0
    if case.canary is not None and case.canary_needed and decision.allowed:
        canaries.check_possible(session, version, case.alias)
    promotion = Promotion(
        version_id=version.id,
        alias=case.alias,
        allowed=decision.allowed,
        reasons=[{"reason": reason} for reason in decision.reasons],
        input=decision.input,
        input_digest=decision.input_digest,
        bundle_digest=decision.bundle_digest,
        requested_by=actor.name,
        job_id=job_id,
        state=PromotionState.WAITING if waits else PromotionState.DECIDED,
        rollback=case.leaves is not None,
        approvals_needed=needed if waits else 0,
        approver_roles=environment.roles if waits else [],
        expires_at=clock(session) + dt.timedelta(seconds=environment.expires_after_s) if waits else None,
        note=case.note,
        policy_id=policy.id,
        canary=_canary_of(case, environment),
        approvals=[],
    )
    session.add(promotion)
    session.flush()
    told: JsonObject = {"alias": case.alias, "reasons": list(decision.reasons)}
    if waits:
        audit.record(
            session, actor, "promotion.request", _what(version), **told,
            approvals=needed, input_digest=decision.input_digest, bundle_digest=decision.bundle_digest,
        )  # fmt: skip
        return promotion
    if not decision.allowed:
        audit.record(session, actor, "promotion.refuse", _what(version), **told)
        return promotion
    carry_out(session, promotion, envelopes, actor)
    return promotion


def carry_out(session: Session, promotion: Promotion, envelopes: dict[str, JsonObject], actor: Actor) -> None:
    """Keep the signatures and move the alias, or begin the canary, for what is allowed and has its approvals.

    The caller has its turn.
    """
    version = promotion.version
    verdict = "promotion.rollback" if promotion.rollback else "promotion.allow"
    approved_by = [each.account for each in promotion.approvals]
    told: JsonObject = {"approved_by": approved_by} if approved_by else {}
    told |= {"note": promotion.note} if promotion.note else {}
    audit.record(session, actor, verdict, _what(version), alias=promotion.alias, reasons=[], **told)
    for name, envelope in envelopes.items():
        session.add(
            Attestation(
                version_id=version.id,
                artifact_name=name,
                envelope=envelope,
                key_id=envelope["signatures"][0]["keyid"],
                promotion_id=promotion.id,
            )
        )
    session.flush()
    if canaries.begin(session, promotion, actor):
        notify(session, aliases.ALIAS_CHANNEL, version.llm.name)
    else:
        aliases.move(session, version, promotion, actor)


def rollback_of(session: Session, llm: str, alias: str, note: str | None = None) -> Case:
    """The case for the version before: the policy is shown what it was shown when that one came to the alias.

    What the evidence was then is what counts: a comparison with the version that is taken back says nothing.

    Raises:
        NotFound: there is no such alias.
        Conflict: it has no earlier version, or is frozen.
    """
    at = aliases.find_alias(session, llm, alias).version
    before = aliases.version_before(session, at, alias)
    while before is not None and archive.is_archived(session, before):
        before = aliases.version_before(session, before, alias)
    if before is None:
        raise Conflict(f"{llm}@{alias} was never at a version before {at.number}: promote one")
    shown = session.scalars(
        select(Promotion.input)
        .where(Promotion.version_id == before.id, Promotion.alias == alias)
        .where(Promotion.allowed, Promotion.state == PromotionState.DECIDED)
        .order_by(Promotion.id.desc())
        .limit(1)
    ).one()
    return replace(as_shown(session, llm, before.number, alias, shown), leaves=at.id, note=note)


def as_shown(session: Session, llm: str, number: int, alias: str, shown: JsonObject) -> Case:
    """The case as the policy was shown it before. Raises as `gather`."""
    case = gather(session, llm, number, alias, shown["require"])
    return replace(case, input=shown, rivals=())


def roll_back(
    database: Database,
    store: Artifacts,
    keys_dir: Path,
    *,
    llm: str,
    alias: str,
    actor: Actor,
    note: str | None = None,
) -> Promotion:
    """Move an alias back to the version before. It takes no approvals; policy and bytes must hold today.

    Where a canary runs, that is what is taken back: it ends, and the alias stays where it is.

    Raises:
        NotFound: there is no such alias.
        Conflict: it has no earlier version, is frozen, or moved meanwhile.
        Tampered: an artifact of the earlier version is not what was registered.
    """
    # Once: were its answer lost and it tried again, no canary would be there, and the alias would go back as well.
    with database.transaction() as session:
        ended = take_back_canary(session, llm, alias, actor, note)
    if ended is not None:
        return ended
    case = database.patiently(lambda session: rollback_of(session, llm, alias, note))
    envelopes = sign(case, store, keys_dir)
    decision = decide(case, envelopes, store)
    return database.patiently(lambda session: record(session, case, decision, envelopes, actor))


def take_back_canary(
    session: Session, llm: str, alias: str, actor: Actor, note: str | None, *, of: uuid.UUID | None = None
) -> Promotion | None:
    """End the alias's canary, where one runs: that is then what a roll back takes back, and the alias stays.

    Args:
        of: only where this version is what tries itself.

    Returns:
        The promotion that it was of.

    Raises:
        NotFound: there is no such alias.
    """
    at = aliases.alias_in_turn(session, llm, alias)
    row = canaries.running_at(session, at.llm_id, alias)
    if row is None or of not in {None, row.version_id}:
        return None
    why = f"rolled back by {actor.name}" + (f": {note}" if note else "")
    ended = canaries.end(session, at.llm_id, alias, why, actor)
    notify(session, aliases.ALIAS_CHANNEL, llm)
    return ended


def promote(
    database: Database,
    store: Artifacts,
    keys_dir: Path,
    *,
    llm: str,
    number: int,
    alias: str,
    require: JsonObject,
    actor: Actor,
    canary: CanaryConfig | None = None,
) -> Promotion:
    """The whole of it, for a promotion that someone asks for directly. A refusal is an answer, not an error.

    Args:
        require: metric -> bounds; empty takes what the recipe of the version asks for.
        canary: what the version is tried by before the alias moves; None: as the environment says.

    Raises:
        NotFound: there is no such version.
        Conflict: the alias is frozen, or the version may not come there; or there is nothing to compare a canary with.
        Tampered: an artifact is not what was registered.
    """
    case = database.patiently(lambda session: gather(session, llm, number, alias, require))
    case = replace(case, canary=canary)
    envelopes = sign(case, store, keys_dir)
    decision = decide(case, envelopes, store)
    return database.patiently(lambda session: record(session, case, decision, envelopes, actor))


def attestation_of(session: Session, artifact_name: str) -> Attestation | None:
    """The newest signature over an artifact."""
    newest = (
        select(Attestation)
        .where(Attestation.artifact_name == artifact_name)
        .order_by(Attestation.id.desc())
        .limit(1)
    )
    return session.scalar(newest)


def _canary_of(case: Case, environment: Environment) -> JsonObject | None:
    """A roll back has none: it is in a hurry."""
    if case.leaves is not None:
        return None
    return case.canary.model_dump(mode="json") if case.canary is not None else environment.canary


def _what(version: LlmVersion) -> str:
    return f"llm/{version.llm.name}/{version.number}"


def _of_recipe(recipe: JsonObject) -> JsonObject:
    """The bounds that a recipe asks for; resolved, it has null for those that it does not."""
    require = (recipe.get("promote") or {}).get("require", {})
    return {
        task: {key: bound for key, bound in bounds.items() if bound is not None}
        for task, bounds in require.items()
    }
