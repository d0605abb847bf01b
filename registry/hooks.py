"""What follows from the end of jobs and pipelines: deliveries and actions, as jobs of their own.

They are written in the transaction that ends the job (a transactional outbox), so none is lost and none tells
of an end that did not happen. Their retries and dead letters are those of queue `hooks`.
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from raymill.registry.tables import Job, Pipeline


def after_job(session: Session, job: Job) -> None:
    """Called with each step of a pipeline that has just ended."""


def after_pipeline(session: Session, pipeline: Pipeline) -> None:
    """Called with each pipeline that has just ended."""
