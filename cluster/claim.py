"""Claiming work: take ready jobs, and end at once those whose result is there already."""

from __future__ import annotations

import logging

from sqlalchemy.orm import Session

from raymill.cluster.kinds import kind_of
from raymill.cluster.settings import Settings
from raymill.policies.errors import NotFound
from raymill.registry import jobs
from raymill.registry.artifacts import ArtifactStore
from raymill.registry.database import Database
from raymill.registry.tables import Artifact, Job

log = logging.getLogger(__name__)


def take(
    database: Database,
    settings: Settings,
    queue: str,
    worker: str,
    *,
    limit: int,
    lease_s: float | None = None,
) -> list[Job]:
    """Claim up to `limit` jobs of `queue`; those that a finished job stands for are ended, not returned."""
    if limit < 1:
        return []

    def work(session: Session) -> list[Job]:
        claimed = jobs.claim(session, queue, worker, limit=limit, lease_s=lease_s or settings.lease_s)
        return [job for job in claimed if not _ended_at_once(session, settings.artifacts, job)]

    return database.patiently(work)


def _ended_at_once(session: Session, store: ArtifactStore, job: Job) -> bool:
    try:
        kind = kind_of(job.kind)
    except NotFound as error:  # written by another release; it must not stand in the way of the others
        jobs.fail(session, job.id, job.epoch, str(error), retry=False)
        return True
    if not kind.reusable:
        return False
    made = jobs.reusable(session, job)
    if made is None or made.result is None:
        return False
    artifact_name = made.result.get("artifact")
    if artifact_name and not _present(session, store, artifact_name):
        log.warning("artifact %s of job %s is gone from the store: making it again", artifact_name, made.id)
        return False
    jobs.succeed(session, job.id, job.epoch, result=made.result, reused_job_id=made.id)
    log.info("job %s (%s) reuses %s of job %s", job.id, job.step, artifact_name or job.address, made.id)
    return True


def _present(session: Session, store: ArtifactStore, name: str) -> bool:
    """The directory is there with files of the right sizes. Their bytes are checked where they are used."""
    row = session.get(Artifact, name)
    if row is None:
        return False
    directory = store.path(name)
    return all(
        (directory / file["path"]).is_file()
        and (directory / file["path"]).stat().st_size == file["size_bytes"]
        for file in row.files
    )
