"""Models: versions, aliases, lineage, verification."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import AwareDatetime
from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.client import types
from raymill.policies.errors import NotFound
from raymill.registry import tables
from raymill.registry.artifacts import digests_of
from raymill.registry.catalog import find_version, signed_artifacts
from raymill.registry.promotion import attestation_of
from raymill.registry.signing import verify_envelope
from raymill.registry.signing_keys import KeyRing
from raymill.serve.api import wire
from raymill.serve.api.context import PartsDep, SessionDep, Who
from raymill.serve.api.paging import Cursor, Limit, page
from raymill.serve.api.threads import ThreadRoute

router = APIRouter(prefix="/llms", tags=["llms"], route_class=ThreadRoute)

AsOf = Annotated[
    AwareDatetime | None, Query(description="Aliases as they pointed then, with a time zone; by default now.")
]


def find(opened: Session, name: str) -> tables.Llm:
    """Raises NotFound."""
    row = opened.scalar(select(tables.Llm).where(tables.Llm.name == name))
    if row is None:
        raise NotFound(f"no model {name!r}: `raymill model list` shows the ones there are")
    return row


@router.get("")
def list_(
    _: Who, opened: SessionDep, as_of: AsOf = None, limit: Limit = 50, cursor: Cursor = None
) -> types.Page[types.Llm]:
    """Newest first."""
    rows = select(tables.Llm)
    return page(
        opened, rows, tables.Llm.id, lambda row: wire.llm(opened, row, as_of), limit=limit, cursor=cursor
    )


@router.get("/{name}")
def get(name: str, _: Who, opened: SessionDep, as_of: AsOf = None) -> types.Llm:
    """One model with its aliases."""
    return wire.llm(opened, find(opened, name), as_of)


@router.get("/{name}/versions")
def versions(
    name: str, _: Who, opened: SessionDep, limit: Limit = 50, cursor: Cursor = None
) -> types.Page[types.Version]:
    """Newest first."""
    rows = select(tables.LlmVersion).where(tables.LlmVersion.llm_id == find(opened, name).id)
    return page(
        opened, rows, tables.LlmVersion.id, lambda row: wire.version(opened, row), limit=limit, cursor=cursor
    )


@router.get("/{name}/versions/{number}")
def version(name: str, number: int, _: Who, opened: SessionDep) -> types.Version:
    """One version."""
    return wire.version(opened, find_version(opened, name, number))


@router.get("/{name}/versions/{number}/lineage")
def lineage(name: str, number: int, _: Who, opened: SessionDep) -> types.Lineage:
    """The chain behind a version: data, base, run, scores, files, decisions, signatures."""
    row = find_version(opened, name, number)
    job = opened.get_one(tables.Job, row.job_id)
    run = opened.get_one(tables.TrainingRun, row.job_id)
    quantizations = _of_version(opened, tables.Quantization, row)
    artifacts = [row.artifact_name, row.base_artifact_name, *(each.artifact_name for each in quantizations)]
    evaluations = opened.scalars(
        select(tables.Evaluation)
        .where(tables.Evaluation.artifact_name.in_(artifacts))
        .order_by(tables.Evaluation.id)
    )
    moves = opened.scalars(
        select(tables.AliasMove).where(tables.AliasMove.version_id == row.id).order_by(tables.AliasMove.id)
    )
    return types.Lineage(
        version=wire.version(opened, row),
        dataset=wire.dataset(opened.get_one(tables.Dataset, row.dataset_id)),
        base=wire.artifact(opened.get_one(tables.Artifact, row.base_artifact_name)),
        model=wire.artifact(opened.get_one(tables.Artifact, row.artifact_name)),
        recipe=opened.get_one(tables.Pipeline, job.pipeline_id).recipe,
        training={
            "job_id": str(job.id),
            "steps": run.steps,
            "final_loss": run.final_loss,
            "tokens_per_s": run.tokens_per_s,
            "seconds": run.seconds,
        },
        evaluations=[wire.evaluation(each) for each in evaluations],
        quantizations=[wire.quantization(opened, each) for each in quantizations],
        quantized=[
            wire.artifact(opened.get_one(tables.Artifact, each))
            for each in sorted({each.artifact_name for each in quantizations})
        ],
        promotions=[wire.promotion(each) for each in _of_version(opened, tables.Promotion, row)],
        attestations=[
            {
                "artifact_name": each.artifact_name,
                "key_id": each.key_id,
                "created_at": each.created_at.isoformat(),
                "envelope": each.envelope,
            }
            for each in _of_version(opened, tables.Attestation, row)
        ],
        alias_moves=[wire.alias_move(opened, each) for each in moves],
    )


@router.get("/{name}/versions/{number}/verify")
def verify(name: str, number: int, _: Who, opened: SessionDep, found: PartsDep) -> types.Verification:
    """Read every byte of a version and compare it with what was registered and signed."""
    row = find_version(opened, name, number)
    ring = KeyRing(found.settings.signing_dir)
    public_keys, revoked = ring.public_keys(), ring.revoked()
    checked: list[dict[str, Any]] = []
    for each in sorted(signed_artifacts(opened, row)):
        registered = opened.get_one(tables.Artifact, each)
        attestation, files = attestation_of(opened, each), digests_of(registered.files)
        if attestation is not None:
            files = verify_envelope(attestation.envelope, public_keys, name=each, revoked=revoked).subjects
        found.settings.artifacts.verify(each, files)
        checked.append({"name": each, "files": len(registered.files), "signed": attestation is not None})
    return types.Verification(verified=True, artifacts=checked)


@router.get("/{name}/versions/{number}/sbom")
def sbom(name: str, number: int, _: Who, opened: SessionDep) -> types.SbomOfVersion:
    """The packages, Python and code that made a version, with their licences: CycloneDX."""
    digest = find_version(opened, name, number).sbom_digest
    row = opened.get(tables.Sbom, digest) if digest is not None else None
    if row is None:
        raise NotFound(f"{name} {number} was made before such lists were kept: train it again")
    return types.SbomOfVersion(digest=row.digest, document=row.document)


@router.get("/{name}/aliases/history")
def alias_history(
    name: str, _: Who, opened: SessionDep, limit: Limit = 50, cursor: Cursor = None
) -> types.Page[types.AliasMove]:
    """What each alias pointed to when, newest first."""
    rows = select(tables.AliasMove).where(tables.AliasMove.llm_id == find(opened, name).id)
    return page(
        opened,
        rows,
        tables.AliasMove.id,
        lambda row: wire.alias_move(opened, row),
        limit=limit,
        cursor=cursor,
    )


def _of_version(opened: Session, table: Any, row: tables.LlmVersion) -> list[Any]:
    return list(opened.scalars(select(table).where(table.version_id == row.id).order_by(table.id)))
