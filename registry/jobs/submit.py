"""Pipelines: a graph of jobs, written whole or not at all."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from raymill.policies.errors import Conflict, NotFound
from raymill.registry import audit, trace_context
from raymill.registry.artifacts import address_of, canonical_json
from raymill.registry.audit import Actor
from raymill.registry.jobs.claims import raw
from raymill.registry.jobs.events import notify, tell_state
from raymill.registry.jobs.model import StepSpec
from raymill.registry.tables import Account, Job, JobState, JsonObject, Pipeline, Queue


def create_pipeline(
    session: Session,
    *,
    name: str,
    recipe: JsonObject,
    steps: Sequence[StepSpec],
    actor: Actor,
    idempotency_key: str | None = None,
    trigger_id: uuid.UUID | None = None,
) -> Pipeline:
    """Write a pipeline and its jobs.

    Args:
        steps: parents before children.
        idempotency_key: the same key and recipe give the same pipeline, also after it ended.
        trigger_id: what started it, when nobody did.

    Raises:
        Conflict: the key was used with another recipe.
        NotFound: a step names a queue that there is not.
    """
    request_hash = hashlib.sha256(canonical_json({"name": name, "recipe": recipe})).hexdigest()
    known = _known(session, idempotency_key, request_hash) if idempotency_key is not None else None
    if known is not None:
        return known
    queues = set(session.scalars(select(Queue.name)))
    for spec in steps:
        if spec.queue not in queues:
            raise NotFound(
                f"no queue {spec.queue!r} for step {spec.step}: there are {', '.join(sorted(queues))}"
            )
    pipeline = Pipeline(
        name=name,
        recipe=recipe,
        state=JobState.RUNNING,
        created_by=actor.name,
        idempotency_key=idempotency_key,
        request_hash=request_hash,
        trigger_id=trigger_id,
    )
    session.add(pipeline)
    session.flush()
    team_id = session.scalar(select(Account.team_id).where(Account.name == actor.name))
    jobs: dict[str, Job] = {}
    for spec in steps:
        job = Job(
            pipeline_id=pipeline.id,
            step=spec.step,
            kind=spec.kind,
            queue=spec.queue,
            name=name,
            config=spec.config,
            max_attempts=spec.max_attempts,
            priority=spec.priority,
            on_parent_failure=spec.on_parent_failure,
            depends_on=[jobs[parent].id for parent in spec.depends_on],
            waiting_on=len(spec.depends_on),
            team_id=team_id,
            gpus=spec.needs.gpus,
            cpus=spec.needs.cpus,
            accelerator=spec.needs.accelerator,
        )
        session.add(job)
        session.flush()
        jobs[spec.step] = job
        if not spec.depends_on:
            make_ready(session, job)
    if jobs:
        trace_context.keep(raw(session), [next(iter(jobs.values())).id], pipeline.id)
    audit.record(session, actor, "pipeline.create", f"pipeline/{pipeline.id}", name=name, steps=list(jobs))
    return pipeline


def _known(session: Session, key: str, request_hash: str) -> Pipeline | None:
    """The pipeline of a key; the next one that asks for the key waits for this transaction. Raises Conflict."""
    session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": key})
    known = session.scalar(select(Pipeline).where(Pipeline.idempotency_key == key))
    if known is not None and known.request_hash != request_hash:
        raise Conflict(f"Idempotency-Key {key!r} was used with another recipe: use a new key")
    return known


def make_ready(session: Session, job: Job) -> None:
    """A step waits for nobody any more: its address is known, and it may be claimed."""
    digests = {step: str(result.get("digest", "")) for step, result in parent_results(session, job).items()}
    job.address = address_of(job.kind, without_placement(job.config), digests)
    # Two pipelines that make the same thing take turns; the second then reuses the first one's.
    job.concurrency_key = f"{job.name}/{job.kind}/{job.address}"
    session.flush()
    tell_state(session, job)
    notify(session, "raymill_job", job.queue)


def without_placement(config: JsonObject) -> JsonObject:
    """Where a job runs is no part of what it makes: sections `resources`, also of the training in a search."""
    kept = {key: value for key, value in config.items() if key != "resources"}
    train = kept.get("train")
    return kept | {"train": without_placement(train)} if isinstance(train, dict) else kept


PARENTS = text("SELECT step, result FROM job WHERE id = ANY(:ids)").columns(Job.step, Job.result)


def parent_results(session: Session, job: Job) -> dict[str, JsonObject]:
    """Step name -> result, of the jobs that this one depends on."""
    if not job.depends_on:
        return {}
    parents = session.execute(PARENTS, {"ids": job.depends_on}).all()
    return {parent.step: parent.result or {} for parent in parents}


def reusable(session: Session, *, address: str | None, name: str, kind: str, but: uuid.UUID) -> Job | None:
    """The newest job that made the same thing for the same name, if there is one other than `but`."""
    if address is None:
        return None
    return session.scalar(
        select(Job)
        .where(Job.address == address, Job.name == name, Job.kind == kind, Job.id != but)
        .where(Job.state == JobState.SUCCEEDED, Job.reused_job_id.is_(None))
        .order_by(Job.id.desc())
        .limit(1)
    )
