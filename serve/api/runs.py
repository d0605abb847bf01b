"""Training runs as the control plane shows them: jobs of two kinds, joined with what they measured and made.

A run that goes on is read from its events; one that has ended from its row. Reads only, but for `export`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.client import run_types
from raymill.cluster.kinds import kind_of
from raymill.evaluate.quantize_config import ADAPTER_TYPES, QUANTIZATION_TYPES
from raymill.policies.errors import Invalid, NotFound
from raymill.registry import jobs
from raymill.registry.audit import Actor
from raymill.registry.catalog import scores_of
from raymill.registry.jobs import StepSpec
from raymill.registry.tables import (
    Artifact,
    Job,
    JobEvent,
    JobState,
    JsonObject,
    LlmVersion,
    Quantization,
    TrainingRun,
)
from raymill.train.card import Facts, flat
from raymill.train.metrics import POINTS, Point, thinned

KINDS = ("pretrain", "train", "tune")
MOST_COMPARED = 8
GGUF_TYPES: dict[str, Sequence[str]] = {"gguf": QUANTIZATION_TYPES, "gguf-adapter": ADAPTER_TYPES}


def find(session: Session, run_id: uuid.UUID) -> Job:
    """Raises NotFound."""
    job = session.get(Job, run_id)
    if job is None or job.kind not in KINDS:
        raise NotFound(f"no training run {run_id}: `raymill train list` shows the ones there are")
    return job


def measured(session: Session, job: Job) -> TrainingRun | None:
    """What it, or the run that stood for it, measured; None while it has not ended well."""
    return session.get(TrainingRun, job.reused_job_id or job.id)


def as_run(session: Session, job: Job) -> run_types.Run:
    (run,) = as_runs(session, [job])
    return run


def as_runs(session: Session, found: Sequence[Job]) -> list[run_types.Run]:
    """For a list: what they measured and made is read for all at once; of a run that goes on, its last step alone."""
    made_by = {job.reused_job_id or job.id for job in found}
    rows = session.scalars(select(TrainingRun).where(TrainingRun.job_id.in_(made_by)))
    measures = {row.job_id: row for row in rows}
    artifacts = [job.result["artifact"] for job in found if job.result and "artifact" in job.result]
    numbers = _numbers(session, artifacts)
    return [_run(session, job, measures.get(job.reused_job_id or job.id), numbers) for job in found]


def _run(session: Session, job: Job, row: TrainingRun | None, numbers: Mapping[str, int]) -> run_types.Run:
    result = job.result or {}
    done: int
    total: int | None
    last: Mapping[str, Any] = {}
    if row is not None:
        done, total = row.steps, row.steps
        metrics = {**row.metrics, "final_loss": row.final_loss, "tokens_per_s": row.tokens_per_s}
        metrics["seconds"] = row.seconds
    else:
        last = _last_step(session, job)
        done, total = last.get("step", 0), last.get("total")
        metrics = {key: last[key] for key in ("loss", "tokens_per_s") if key in last}
    return run_types.Run(
        id=job.id,
        pipeline_id=job.pipeline_id,
        name=job.name,
        kind=job.kind,
        method=method_of(job),
        state=job.state.value,
        step=done,
        steps=total,
        eta_s=last.get("eta_s"),
        metrics=metrics,
        version=numbers.get(result.get("artifact", "")),
        artifact=result.get("artifact"),
        adapter=result.get("adapter"),
        error=job.error,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
    )


def method_of(job: Job) -> str:
    config = job.config["train"] if job.kind == "tune" else job.config
    return "pretrain" if job.kind == "pretrain" else str(config.get("method", "sft"))


def config_of(job: Job) -> JsonObject:
    """What its model was trained with: of a search that has ended, the best trial's."""
    return (job.result or {}).get("train") or job.config


def detail(session: Session, job: Job) -> run_types.RunDetail:
    inputs = jobs.parent_results(session, job) if job.depends_on else {}
    return run_types.RunDetail(
        **as_run(session, job).model_dump(),
        config=config_of(job),
        base=_made(inputs.get("base")),
        dataset=_made(inputs.get("dataset")),
    )


def _made(result: JsonObject | None) -> JsonObject | None:
    return {key: result[key] for key in ("artifact", "digest")} if result and "digest" in result else None


def points_of(session: Session, job: Job) -> list[Point]:
    """The curves, at most `POINTS` steps."""
    row = measured(session, job)
    if row is not None and row.series:
        return list(row.series)
    rows = select(JobEvent.kind, JobEvent.data).where(
        JobEvent.job_id == job.id, JobEvent.kind.in_(("step", "validation"))
    )
    found: dict[tuple[int, str], Point] = {}
    for kind, data in session.execute(rows.order_by(JobEvent.id)):
        point = dict(data)
        if kind == "validation":
            point = {"step": data["step"], "validation_loss": data["loss"]}
        found[point["step"], kind] = {
            key: value for key, value in point.items() if key not in ("total", "eta_s")
        }
    return thinned([found[key] for key in sorted(found)], POINTS)


def compare(session: Session, ids: Sequence[uuid.UUID]) -> run_types.RunComparison:
    """Raises NotFound, and Invalid for too few or too many."""
    if not 2 <= len(ids) <= MOST_COMPARED:
        raise Invalid(f"{len(ids)} runs are given: compare 2 to {MOST_COMPARED}", param="ids")
    found = [find(session, run_id) for run_id in ids]
    runs = as_runs(session, found)
    configs = [flat(config_of(job)) for job in found]
    for config, job in zip(configs, found, strict=True):
        inputs = jobs.parent_results(session, job) if job.depends_on else {}
        for name in ("base", "dataset"):
            config[name] = (inputs.get(name) or {}).get("digest", "")[:12] or None
    keys = sorted({key for config in configs for key in config})
    values = {key: [config.get(key) for config in configs] for key in keys}
    measures = sorted({key for run in runs for key in run.metrics})
    return run_types.RunComparison(
        runs=runs,
        config={key: each for key, each in values.items() if any(one != each[0] for one in each)},
        metrics={key: [run.metrics.get(key) for run in runs] for key in measures},
        curves=[points_of(session, job) for job in found],
    )


def facts_of(session: Session, job: Job) -> Facts:
    """What the card of the run's model tells, with what came after it.

    Raises:
        Invalid: the run has made no model yet.
    """
    artifact = _artifact(session, (_result(job))["artifact"])
    inputs = jobs.parent_results(session, job) if job.depends_on else {}
    points = points_of(session, job)
    notes = [
        f"{task}: {score:.4g}" + (f" ({variant})" if variant else "")
        for variant, scores in scores_of(session, artifact.name).items()
        for task, score in scores.items()
    ]
    number = _numbers(session, [artifact.name]).get(artifact.name)
    if number is not None:
        notes.insert(0, f"Registered as version {number} of {job.name}.")
    result = {**(job.result or {}), "tokens_per_s": None}
    return Facts(
        name=job.name,
        method=method_of(job),
        config={key: value for key, value in config_of(job).items() if not key.endswith("_sha256")},
        base=_made(inputs.get("base")),
        data=_made(inputs.get("dataset")) or {"digest": job.config.get("text_sha256")},
        result=result,
        points=points,
        made={f"this model ({artifact.name})": artifact.digest},
        notes=notes,
    )


def export(
    session: Session, job: Job, form: run_types.ExportForm, kind: str, actor: Actor
) -> run_types.RunExport:
    """What there is to fetch; a GGUF file that nobody made yet is asked for.

    Raises:
        Invalid: the run has made no model yet, or no adapter.
    """
    found = exported(session, job, form, kind)
    if found is not None:
        artifact, only = found
        files = [
            run_types.ExportFile(**file) for file in artifact.files if only is None or file["path"] in only
        ]
        return run_types.RunExport(
            form=form,
            type=kind if form in GGUF_TYPES else None,
            artifact=artifact.name,
            files=files,
            job_id=None,
        )
    if kind not in GGUF_TYPES[form]:
        raise Invalid(
            f"type {kind!r} is none of a {form} file: use any of {', '.join(GGUF_TYPES[form])}", param="type"
        )
    made_by, config = _gguf_job(session, job, form, kind)
    waiting = session.scalar(
        select(Job.id).where(
            Job.kind == made_by,
            Job.config == config,
            Job.state.in_((JobState.QUEUED, JobState.RUNNING, JobState.PAUSED)),
        )
    )
    if waiting is None:
        spec = StepSpec(
            step="export",
            kind=made_by,
            queue=kind_of(made_by).queue,
            config=config,
            depends_on=(),
        )
        pipeline = jobs.create_pipeline(
            session, name=job.name, recipe={"export": config}, steps=[spec], actor=actor, idempotency_key=None
        )
        waiting = session.scalars(select(Job.id).where(Job.pipeline_id == pipeline.id)).one()
    return run_types.RunExport(form=form, type=kind, artifact=None, files=[], job_id=waiting)


def exported(
    session: Session, job: Job, form: run_types.ExportForm, kind: str
) -> tuple[Artifact, set[str] | None] | None:
    """The artifact that holds an export, and which of its files (None: all); None when it has to be made.

    Raises:
        Invalid: the run has made no model yet, or no adapter.
    """
    result = _result(job)
    if form == "hf":
        return _artifact(session, result["artifact"]), None
    if form != "gguf" and not result.get("adapter"):
        raise Invalid(f"run {job.id} tuned all weights and has no adapter: export it as hf", param="form")
    if form == "adapter":
        return _artifact(session, result["adapter"]), None
    of_version = (
        select(Quantization)
        .join(LlmVersion, Quantization.version_id == LlmVersion.id)
        .where(LlmVersion.artifact_name == result["artifact"], Quantization.type == kind)
    )
    if form == "gguf" and (quantized := session.scalar(of_version)) is not None:
        return _artifact(session, quantized.artifact_name), {quantized.file}
    made_by, config = _gguf_job(session, job, form, kind)
    made = session.scalar(
        select(Job.result)
        .where(Job.kind == made_by, Job.config == config, Job.state == JobState.SUCCEEDED)
        .limit(1)
    )
    return None if made is None else (_artifact(session, made["artifact"]), None)


def _gguf_job(session: Session, job: Job, form: run_types.ExportForm, kind: str) -> tuple[str, JsonObject]:
    """Kind and configuration of the job that makes the file."""
    result = _result(job)
    model = _artifact(session, result["artifact"])
    if form == "gguf":
        return "export_gguf", {"artifact": model.name, "digest": model.digest, "types": [kind]}
    adapter = _artifact(session, result["adapter"])
    inputs = jobs.parent_results(session, job)
    return "export_adapter", {
        "artifact": adapter.name,
        "digest": adapter.digest,
        "base": inputs["base"]["artifact"],
        "model": model.name,
        "dataset": (inputs.get("dataset") or {}).get("artifact"),
        "type": kind,
    }


def _result(job: Job) -> JsonObject:
    if job.state is not JobState.SUCCEEDED or job.result is None:
        raise Invalid(f"run {job.id} is {job.state.value} and has made no model: wait for its end")
    return job.result


def _artifact(session: Session, name: str) -> Artifact:
    return session.get_one(Artifact, name)


def _numbers(session: Session, artifacts: Sequence[str]) -> dict[str, int]:
    """Artifact -> the number of the version that is made of it, where one is."""
    rows = select(LlmVersion.artifact_name, LlmVersion.number).where(LlmVersion.artifact_name.in_(artifacts))
    return dict(session.execute(rows).all())


def _last_step(session: Session, job: Job) -> dict[str, Any]:
    rows = select(JobEvent.data).where(JobEvent.job_id == job.id, JobEvent.kind == "step")
    return session.scalar(rows.order_by(JobEvent.id.desc()).limit(1)) or {}
