"""The job kinds that govern rather than compute: promote a version, and have it served."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from sqlalchemy.orm import Session

from raymill.cluster.context import JobContext, Outcome
from raymill.policies.engine import Decision
from raymill.policies.errors import Denied, Unavailable
from raymill.registry import catalog, deployments, promotion, requests
from raymill.registry.audit import SYSTEM, Actor
from raymill.registry.canary_config import CanaryConfig
from raymill.registry.tables import Deployment, DeploymentState, Job, JsonObject, Pipeline, PromotionState

DEPLOY_TIMEOUT_S = 900.0
POLL_S = 0.5


def run_promote(context: JobContext) -> Outcome:
    """Decide, sign and move the alias. Config: `to`, `require`, and `canary` where the recipe asks for one.

    Where the environment asks for approvals, what is made is a request that waits for them; where the recipe or the
    environment asks for a canary, the alias moves when that has done well. The result says `pending` of both.

    Raises:
        Conflict: the alias is frozen, or the version has not been where the environment wants it first.
        Denied: the policy refuses; each reason is named, and the refusal is on record.
        Tampered: an artifact is not what was registered.
    """
    alias, require = context.config["to"], context.config["require"]

    def gather(session: Session) -> promotion.Case:
        version = catalog.version_of_artifact(session, context.inputs["train"]["artifact"])
        return promotion.gather(session, version.llm.name, version.number, alias, require)

    case = context.database.patiently(gather)
    result = decided(context, case, require, what=context.name, requester=partial(_requester, context))
    return Outcome(result={**result, "allowed": True})


def register_promotion(session: Session, job: Job, result: JsonObject) -> None:
    """Effects of `promote`: the decision, the signatures and the alias's move, or the request for it, commit with the job."""
    asked = job.config.get("canary")
    canary = CanaryConfig.model_validate(asked) if asked is not None else None
    case = replace(_case(session, result), canary=canary, canary_needed=False)
    register_decision(session, job, result, _creator(session, job), case)


def decided(
    context: JobContext,
    case: promotion.Case,
    require: JsonObject,
    *,
    what: str,
    requester: Callable[[Session], Actor],
) -> JsonObject:
    """Sign, and ask the policy. The result of a job whose effects are `register_decision`.

    Args:
        what: how a refusal calls the version.

    Raises:
        Denied: the policy refuses; each reason is named, and the refusal is on record.
        Tampered: an artifact is not what was registered.
    """
    from raymill.cluster.settings import Settings

    settings = Settings()
    envelopes = promotion.sign(case, settings.artifacts, settings.signing_dir)
    decision = promotion.decide(case, envelopes, settings.artifacts)
    if not decision.allowed:
        job_id = uuid.UUID(context.job_id)
        context.database.patiently(
            lambda session: promotion.record(session, case, decision, {}, requester(session), job_id)
        )
        raise Denied(f"{what} was refused for {case.alias}: {'; '.join(decision.reasons)}")
    return {
        "digest": decision.input_digest,
        "llm": case.input["name"],
        "version": case.input["version"],
        "alias": case.alias,
        "input_digest": decision.input_digest,
        "bundle_digest": decision.bundle_digest,
        "envelopes": envelopes,
        "require": require,
        "input": decision.input,
    }


def register_decision(
    session: Session, job: Job, result: JsonObject, requester: Actor, case: promotion.Case | None = None
) -> None:
    """Record what `decided` came to, and move the alias or ask for approvals.

    Args:
        case: what was decided, where it is no promotion of `result["version"]` with its `require`.
    """
    case = case or _case(session, result)
    # What was decided on, also if a score came since.
    decision = Decision(
        allowed=True,
        reasons=(),
        input=result["input"],
        input_digest=result["input_digest"],
        bundle_digest=result["bundle_digest"],
    )
    row = promotion.record(session, case, decision, result.pop("envelopes"), requester, job.id)
    result["promotion_id"] = str(row.id)
    result["pending"] = row.state is not PromotionState.DECIDED
    if row.state is PromotionState.CANARY:
        result["canary"] = True


def _case(session: Session, result: JsonObject) -> promotion.Case:
    return promotion.gather(session, result["llm"], result["version"], result["alias"], result["require"])


def run_deploy(context: JobContext) -> Outcome:
    """Ask that the alias be served, and wait until it is. Config: `alias`, and the serving settings.

    A promotion that waits for approvals or has its canary is not waited for: the alias is served with these settings when
    it moves, a canary at once, and the result says `pending`.

    Raises:
        Denied: serving refuses it (a bad signature, changed bytes) or cannot load it; the message says why.
        Unavailable: it was not ready in time.
    """
    alias = context.config["alias"]
    serving = {key: value for key, value in context.config.items() if key != "alias"}
    if context.inputs["promote"].get("pending") and (later := _deployed_later(context, serving)):
        return later
    version = context.database.patiently(
        lambda session: deployments.request(session, context.name, alias, serving, SYSTEM)
    )
    deadline = time.monotonic() + DEPLOY_TIMEOUT_S
    while time.monotonic() < deadline:
        context.check()
        row = context.database.patiently(lambda session: session.get_one(Deployment, (version.llm_id, alias)))
        if row.version_id == version.id and row.state is DeploymentState.READY:
            digest = context.inputs["promote"]["digest"]
            return Outcome(
                result={"digest": digest, "llm": context.name, "alias": alias, "version": version.number}
            )
        if row.version_id == version.id and row.state is DeploymentState.FAILED:
            raise Denied(f"{context.name} {version.number} cannot be served: {row.message}")
        time.sleep(POLL_S)
    raise Unavailable(f"{context.name} was not ready within {DEPLOY_TIMEOUT_S:.0f} s: see `raymill status`")


def _deployed_later(context: JobContext, serving: JsonObject) -> Outcome | None:
    """None: the promotion was executed meanwhile. Raises Denied: it never will be."""
    promoted = context.inputs["promote"]
    promotion_id = uuid.UUID(promoted["promotion_id"])
    state = context.database.patiently(
        lambda session: requests.serve_when_executed(session, promotion_id, serving)
    )
    if state == "executed":
        return None
    if state not in {"pending", "approved", "canary"}:
        raise Denied(f"promotion {promotion_id} was {state}: {promoted['alias']} stays where it is")
    told = {key: promoted[key] for key in ("digest", "llm", "alias", "version", "promotion_id")}
    return Outcome(result={**told, "pending": True})


def _requester(context: JobContext, session: Session) -> Actor:
    return _creator(session, session.get_one(Job, uuid.UUID(context.job_id)))


def _creator(session: Session, job: Job) -> Actor:
    """Who started the pipeline that a job is a step of."""
    pipeline = session.get_one(Pipeline, job.pipeline_id)
    return Actor(name=pipeline.created_by)
