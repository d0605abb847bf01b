"""Moving an alias: prove the bytes, ask the policy, record what it said, move.

    gather ── what is known of the version: scores, data, base, recipe, files
    sign   ── every byte is compared with what was registered, then a statement over them is signed
    decide ── the policy engine is shown all of that; a signature that it refuses is thrown away
    record ── decision, signatures, alias, history and audit row, in one transaction; refusals too

Nothing reaches an alias without all four (promise P6 of docs/architecture.md).
"""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from raymill.policies.engine import Decision, PolicyEngine
from raymill.registry import aliases, audit, rivals, triggers
from raymill.registry.artifacts import ArtifactStore, FileDigest, verify_files
from raymill.registry.audit import Actor
from raymill.registry.catalog import find_version, scores_of
from raymill.registry.database import Database
from raymill.registry.jobs import notify
from raymill.registry.rivals import Rival
from raymill.registry.signing import KeyRing, sign_statement
from raymill.registry.tables import (
    Alias,
    AliasMove,
    Artifact,
    Attestation,
    Dataset,
    Job,
    JsonObject,
    LlmVersion,
    Pipeline,
    Promotion,
    Quantization,
    TrainingRun,
)

ALIAS_CHANNEL = "raymill_alias"
"""Notified when an alias has moved, so that gateways and the reconciler follow."""


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
    """The weights, and the quantized files where there are some, as they were registered."""

    rivals: tuple[Rival, ...] = ()
    """Versions with which `require` has it compared."""


def gather(session: Session, llm: str, number: int, alias: str, require: JsonObject) -> Case:
    """Collect what is known of a version. Raises NotFound, or Conflict where the alias is frozen."""
    version = find_version(session, llm, number)
    aliases.check_not_frozen(session, version.llm_id, alias)
    quantized = session.scalars(select(Quantization).where(Quantization.version_id == version.id)).all()
    names = [version.artifact_name, *sorted({row.artifact_name for row in quantized})]
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
            **measured,
        },
        artifacts={name: _files(session.get_one(Artifact, name)) for name in names},
        rivals=rivals.asked(session, version, require),
    )


def sign(case: Case, store: ArtifactStore, keys_dir: Path) -> dict[str, JsonObject]:
    """Compare every file with what was registered, and sign. Nothing is kept: `record` does that.

    Returns:
        Artifact name -> DSSE envelope of an in-toto statement.

    Raises:
        Tampered: the bytes in the store are not those that were registered.
    """
    signer = KeyRing(keys_dir).signer()
    envelopes: dict[str, JsonObject] = {}
    for name, files in case.artifacts.items():
        verify_files(store.path(name), files)
        envelopes[name] = sign_statement(signer, files, {**case.predicate, "artifact": name}, name)
    return envelopes


def decide(case: Case, envelopes: dict[str, JsonObject], store: ArtifactStore) -> Decision:
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
    return PolicyEngine().decide({**case.input, **facts, **compared})


def record(
    session: Session,
    case: Case,
    decision: Decision,
    envelopes: dict[str, JsonObject],
    actor: Actor,
    job_id: uuid.UUID | None = None,
) -> Promotion:
    """Write what was decided and, when allowed, the signatures and the alias's move."""
    version = session.get_one(LlmVersion, case.version_id)
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
    )
    session.add(promotion)
    session.flush()
    what = f"llm/{version.llm.name}/{version.number}"
    verdict = "promotion.allow" if decision.allowed else "promotion.refuse"
    audit.record(session, actor, verdict, what, alias=case.alias, reasons=list(decision.reasons))
    if not decision.allowed:
        return promotion
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
    _move_alias(session, version, promotion, actor)
    return promotion


def _move_alias(session: Session, version: LlmVersion, promotion: Promotion, actor: Actor) -> None:
    key = (version.llm_id, promotion.alias)
    alias = session.get(Alias, key, with_for_update=True, populate_existing=True)
    aliases.check_not_frozen(session, *key)  # it may have been meanwhile
    previous_id = alias.version_id if alias else None
    now = dt.datetime.now(dt.UTC)
    values = {"llm_id": key[0], "name": key[1], "version_id": version.id, "updated_at": now}
    session.execute(
        insert(Alias)
        .values(**values)
        .on_conflict_do_update(
            index_elements=["llm_id", "name"], set_={"version_id": version.id, "updated_at": now}
        )
    )
    session.add(
        AliasMove(
            llm_id=version.llm_id,
            alias=promotion.alias,
            version_id=version.id,
            previous_version_id=previous_id,
            promotion_id=promotion.id,
            actor=actor.name,
        )
    )
    what = f"llm/{version.llm.name}@{promotion.alias}"
    audit.record(session, actor, "alias.move", what, version=version.number)
    notify(session, ALIAS_CHANNEL, version.llm.name)
    if previous_id != version.id:
        subject, about = f"{version.llm.name}@{promotion.alias}", {"version": version.number}
        cause = _pipeline_behind(session, promotion.job_id)
        triggers.happened(session, "promotion", subject, str(promotion.id), about, caused_by=cause)


def _pipeline_behind(session: Session, job_id: uuid.UUID | None) -> uuid.UUID | None:
    """The pipeline whose step, or whose hook, a job is."""
    job = session.get(Job, job_id) if job_id is not None else None
    if job is None or job.pipeline_id is not None:
        return job.pipeline_id if job is not None else None
    known = job.config.get("pipeline_id")
    return uuid.UUID(known) if known else None


def promote(
    database: Database,
    store: ArtifactStore,
    keys_dir: Path,
    *,
    llm: str,
    number: int,
    alias: str,
    require: JsonObject,
    actor: Actor,
) -> Promotion:
    """The whole of it, for a promotion that someone asks for directly. A refusal is an answer, not an error.

    Args:
        require: metric -> bounds; empty takes what the recipe of the version asks for.
    """
    case = database.patiently(lambda session: gather(session, llm, number, alias, require))
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


def _of_recipe(recipe: JsonObject) -> JsonObject:
    """The bounds that a recipe asks for; resolved, it has null for those that it does not."""
    require = (recipe.get("promote") or {}).get("require", {})
    return {
        task: {key: bound for key, bound in bounds.items() if bound is not None}
        for task, bounds in require.items()
    }


def _files(artifact: Artifact) -> tuple[FileDigest, ...]:
    return tuple(FileDigest(**file) for file in artifact.files)
