"""What finished jobs become in the registry: data sets, versions, scores, quantizations.

Each `register_*` is the effects of one job kind: it runs in the transaction that ends the job, so a row
is there if and only if the job succeeded. See `cluster/kinds.py`.
"""

from __future__ import annotations

import uuid

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from raymill.policies.errors import NotFound
from raymill.registry import audit, sbom, triggers
from raymill.registry.audit import SYSTEM, Actor
from raymill.registry.database import one_at_a_time
from raymill.registry.jobs import parent_results
from raymill.registry.tables import (
    Dataset,
    Evaluation,
    Job,
    JsonObject,
    Llm,
    LlmVersion,
    Pipeline,
    Quantization,
    TrainingRun,
)

BASE = "base"
"""What a version's base is called where variants of the version stand."""


def register_dataset(session: Session, job: Job, result: JsonObject) -> None:
    """A name's next data set version; the same content under the same name is the same version."""
    about = {key: result.pop(key, {}) for key in ("stats", "provenance")}
    if "dataset_id" in result:  # a registered set stands for the step
        return
    one_at_a_time(session, f"dataset/{job.name}")  # numbers count up without a gap
    known = _dataset(session, job.name, result["digest"])
    if known is None:
        last = session.scalar(select(func.max(Dataset.number)).where(Dataset.name == job.name)) or 0
        pipeline = session.get(Pipeline, job.pipeline_id) if job.pipeline_id is not None else None
        known = Dataset(
            name=job.name,
            number=last + 1,
            digest=result["digest"],
            artifact_name=result["artifact"],
            train_rows=result["train_rows"],
            test_rows=result["test_rows"],
            format=result["format"],
            shape=result.get("shape", "conversation"),
            purpose=result.get("purpose", "training"),
            stats=about["stats"],
            provenance={**about["provenance"], "created_by": pipeline.created_by if pipeline else None},
        )
        session.add(known)
        session.flush()
        subject = f"dataset/{job.name}/{known.number}"
        audit.record(session, SYSTEM, "dataset.register", subject, digest=known.digest)
        for each in about["stats"].get("contamination", {}).get("sets", []):
            if each["waived"]:
                by = Actor(name=pipeline.created_by) if pipeline else SYSTEM
                audit.record(
                    session, by, "contamination.waive", subject, evaluation=each["name"], rows=each["rows"]
                )
        happened = {"number": known.number, "digest": known.digest}
        triggers.happened(
            session, "dataset", job.name, str(known.number), happened, caused_by=job.pipeline_id
        )
    result["dataset_id"] = str(known.id)
    result["number"] = known.number


def register_run(session: Session, job: Job, result: JsonObject) -> None:
    """What a training job measured. Takes the curves out of the result, which is for numbers."""
    # A search tells what its best trial was trained with.
    config = result.get("train", job.config)
    session.add(
        TrainingRun(
            job_id=job.id,
            kind=job.kind,
            artifact_name=result["artifact"],
            config=config,
            steps=result["steps"],
            final_loss=result["final_loss"],
            tokens_per_s=result["tokens_per_s"],
            seconds=result["seconds"],
            method="pretrain" if job.kind == "pretrain" else config.get("method", "sft"),
            metrics=result.get("metrics", {}),
            series=result.pop("series", []),
        )
    )


def register_version(session: Session, job: Job, result: JsonObject) -> None:
    """The llm's next version, and the run that made it. Puts `version` into the result."""
    register_run(session, job, result)
    sbom_digest = sbom.register(session)  # before others wait for us
    one_at_a_time(session, f"llm/{job.name}")
    llm = session.scalar(select(Llm).where(Llm.name == job.name))
    if llm is None:
        llm = Llm(name=job.name)
        session.add(llm)
        session.flush()
    made_before = session.scalar(select(LlmVersion).where(LlmVersion.artifact_name == result["artifact"]))
    if made_before is not None:  # its weights were gone from the store, and came out the same again
        result["version"] = made_before.number
        return
    inputs = parent_results(session, job)
    last = session.scalar(select(func.max(LlmVersion.number)).where(LlmVersion.llm_id == llm.id)) or 0
    version = LlmVersion(
        llm_id=llm.id,
        number=last + 1,
        artifact_name=result["artifact"],
        base_artifact_name=inputs["base"]["artifact"],
        dataset_id=uuid.UUID(inputs["dataset"]["dataset_id"]),
        job_id=job.id,
        sbom_digest=sbom_digest,
    )
    session.add(version)
    session.flush()
    result["version"] = version.number
    audit.record(
        session,
        SYSTEM,
        "version.register",
        f"llm/{job.name}/{version.number}",
        artifact=version.artifact_name,
    )


def register_scores(session: Session, job: Job, result: JsonObject) -> None:
    """One row for each task, and for each quantized file where those were measured."""
    inputs = parent_results(session, job)
    target = inputs[job.config["of"]]["artifact"]
    by_variant = result["metrics"] if job.config["of"] == "quantize" else {"": result["metrics"]}
    for variant, scores in by_variant.items():
        for task, score in scores.items():
            session.add(
                Evaluation(
                    job_id=job.id,
                    artifact_name=target,
                    variant=variant,
                    dataset_id=uuid.UUID(inputs["dataset"]["dataset_id"]),
                    task=task,
                    score=score,
                    samples=result["samples"][task],
                )
            )


def register_target_scores(session: Session, job: Job, result: JsonObject) -> None:
    """One row for each task of a job that measured a target outside a recipe."""
    config = job.config
    version, dataset = config.get("version"), config.get("dataset")
    for task, score in result["metrics"].items():
        used = result["tasks"].get(task, {})
        session.add(
            Evaluation(
                job_id=job.id,
                artifact_name=version["artifact"] if version else None,
                target=None if version else config["target"],
                variant=_variant(version),
                dataset_id=uuid.UUID(dataset["dataset_id"]) if dataset else None,
                task=task,
                score=score,
                samples=result["samples"][task],
                backend=result["backends"].get(task, "generation"),
                prompt_tokens=used.get("prompt_tokens"),
                completion_tokens=used.get("completion_tokens"),
                cost_micro_usd=used.get("cost_micro_usd"),
            )
        )


def _variant(version: JsonObject | None) -> str:
    """Of a row: empty for the weights and the base, whose artifact says which."""
    return "" if version is None or version["variant"] == BASE else str(version["variant"])


def register_judgement(session: Session, job: Job, result: JsonObject) -> None:
    """Of a rubric, one row: the score of the target under the judgement's name. Who wins a pair is no score of one."""
    if result["kind"] != "rubric":
        return
    of, used = job.config["of"], result["tasks"][result["name"]]
    session.add(
        Evaluation(
            job_id=job.id,
            artifact_name=of["artifact"],
            target=of["target"],
            variant=of["variant"],
            task=result["name"],
            score=result["score"],
            samples=result["examples"] - result["failures"],
            backend="generation",
            prompt_tokens=used["prompt_tokens"],
            completion_tokens=used["completion_tokens"],
            cost_micro_usd=used["cost_micro_usd"],
        )
    )


def register_quantizations(session: Session, job: Job, result: JsonObject) -> None:
    """One row for each GGUF file, or for each folder of compressed weights, which are artifacts of their own."""
    version = version_of_artifact(session, parent_results(session, job)["train"]["artifact"])
    names = {file.get("artifact") or result["artifact"] for file in result["files"]}
    rows = select(Quantization.artifact_name, Quantization.type).where(Quantization.artifact_name.in_(names))
    known = {tuple(row) for row in session.execute(rows)}
    for file in result["files"]:
        name = file.get("artifact") or result["artifact"]
        if (name, file["type"]) in known:
            continue  # it was gone from the store, and came out the same again
        session.add(
            Quantization(
                version_id=version.id,
                artifact_name=name,
                type=file["type"],
                file=file["file"],
                size_bytes=file["size_bytes"],
                sha256=file["sha256"],
                tensors=file["tensors"],
                fallbacks=[{"tensor": name} for name in file["fallbacks"]],
                parity={**(file["parity"] or {}), **file["verification"]},
                job_id=job.id,
            )
        )


def version_of_artifact(session: Session, artifact_name: str) -> LlmVersion:
    """The version whose weights lie in an artifact. Raises NotFound."""
    version = session.scalar(select(LlmVersion).where(LlmVersion.artifact_name == artifact_name))
    if version is None:
        raise NotFound(f"no version is made of artifact {artifact_name}: train it first")
    return version


def adapter_of(session: Session, version: LlmVersion) -> str | None:
    """The artifact of a version's adapter alone, which lies beside its merged weights; None: all weights were tuned."""
    made = session.get_one(Job, version.job_id).result or {}
    name: str | None = made.get("adapter")
    return name


def signed_artifacts(session: Session, version: LlmVersion) -> list[str]:
    """What a promotion signs of a version: its weights, its adapter, and what was made of them in fewer bits."""
    made = select(Quantization.artifact_name).where(Quantization.version_id == version.id).distinct()
    adapter = adapter_of(session, version)
    return [version.artifact_name, *([adapter] if adapter else []), *sorted(session.scalars(made))]


def find_version(session: Session, llm: str, number: int) -> LlmVersion:
    """By name and number. Raises NotFound, naming what there is."""
    version = session.scalar(select(LlmVersion).join(Llm).where(Llm.name == llm, LlmVersion.number == number))
    if version is None:
        last = session.scalar(select(func.max(LlmVersion.number)).join(Llm).where(Llm.name == llm))
        there = (
            f"its newest version is {last}"
            if last
            else "no model has that name; `raymill model list` shows them"
        )
        raise NotFound(f"no version {number} of {llm!r}: {there}")
    return version


def scores_of(session: Session, artifact_name: str) -> dict[str, dict[str, float]]:
    """Variant ("" for the weights) -> task -> its newest score in a recipe."""
    scores: dict[str, dict[str, float]] = {}
    rows = select(Evaluation).where(Evaluation.artifact_name == artifact_name, of_recipes())
    for row in session.scalars(rows.order_by(Evaluation.id)):
        scores.setdefault(row.variant, {})[row.task] = row.score
    return scores


def of_recipes() -> ColumnElement[bool]:
    """Of evaluations: those that a recipe asked for. What is measured beside it may be on other rows, or few of them, and
    has no say in a promotion."""
    return Evaluation.backend.is_(None)


def _dataset(session: Session, name: str, digest: str) -> Dataset | None:
    return session.scalar(select(Dataset).where(Dataset.name == name, Dataset.digest == digest))
