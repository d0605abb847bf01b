"""What should be served. Ray Serve is made to match these rows, not the other way round."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from raymill.policies.errors import NotFound
from raymill.registry import aliases, audit, canaries
from raymill.registry.aliases import ALIAS_CHANNEL
from raymill.registry.audit import SYSTEM, Actor
from raymill.registry.jobs import notify
from raymill.registry.tables import (
    Alias,
    Attestation,
    CanaryState,
    Deployment,
    DeploymentState,
    JsonObject,
    Llm,
    LlmVersion,
)


def request(session: Session, llm: str, alias: str, config: JsonObject, actor: Actor) -> LlmVersion:
    """Ask that an alias be served with `config`; asking again for the same changes nothing.

    Returns:
        The version that the alias points to now.

    Raises:
        NotFound: nothing was promoted to that alias.
    """
    target = session.scalar(
        select(Alias).join(Llm, Llm.id == Alias.llm_id).where(Llm.name == llm, Alias.name == alias)
    )
    if target is None:
        raise NotFound(f"{llm!r} has no alias {alias!r}: promote a version to it first")
    aliases.take_turn(session, target.llm_id)
    known = session.get(Deployment, (target.llm_id, alias), with_for_update={"of": Deployment})
    if known is not None and known.config == config and known.state is not DeploymentState.FAILED:
        return target.version
    values = {
        "config": config,
        "state": DeploymentState.STARTING,
        "version_id": None,
        "message": "",
        "updated_at": dt.datetime.now(dt.UTC),
    }
    session.execute(
        insert(Deployment)
        .values(llm_id=target.llm_id, alias=alias, **values)
        .on_conflict_do_update(index_elements=["llm_id", "alias"], set_=values)
    )
    trial = canaries.running_at(session, target.llm_id, alias)
    if trial is not None and trial.promotion.serving is None:
        trial.state = CanaryState.PENDING  # it is deployed as the present version is: anew, with these
    before = known.config if known is not None else None
    audit.record(session, actor, "deployment.request", f"llm/{llm}@{alias}", before=before, after=config)
    notify(session, ALIAS_CHANNEL, llm)
    return target.version


def withdraw(session: Session, revoked: Mapping[str, str]) -> dict[uuid.UUID, str]:
    """Let no version answer that only a revoked key vouches for: its deployment has failed, with the reason.

    It is started by itself once the version has been signed again.

    Args:
        revoked: key id -> why.

    Returns:
        Version -> message, for each one that is deployed and may not be served.
    """
    refused: dict[uuid.UUID, str] = {}
    _withdraw_canaries(session, revoked, refused)
    for row in session.scalars(select(Deployment).with_for_update(of=Deployment)):
        target = session.get_one(Alias, (row.llm_id, row.alias)).version_id
        for version_id in {target, row.serving_version_id} - {None}:
            assert version_id is not None
            key_id = _signed_by(session, version_id)
            if key_id is None or key_id not in revoked:
                continue
            number = session.get_one(LlmVersion, version_id).number
            refused[version_id] = message = (
                f"version {number} is signed by key {key_id[:12]}, which was revoked ({revoked[key_id]}): promote it again"
            )
            serves = row.serving_version_id == version_id
            if (row.message == message and not serves) or (version_id != target and not serves):
                continue
            if version_id == target:
                row.state, row.version_id, row.message = DeploymentState.FAILED, None, message
            if serves:
                row.serving_version_id = row.serving_application = None
            row.updated_at = dt.datetime.now(dt.UTC)
            audit.record(
                session,
                SYSTEM,
                "deployment.withdraw",
                f"llm/{row.llm.name}@{row.alias}",
                version=number,
                key=key_id,
            )
            notify(session, ALIAS_CHANNEL, row.llm.name)
    return refused


def take_over(
    session: Session,
    version: LlmVersion,
    alias: str,
    serving: JsonObject | None,
    actor: Actor,
    *,
    ready: bool,
) -> None:
    """The alias has moved to the version of its canary.

    Args:
        serving: with which it is deployed; None: as the version before was.
        ready: it answers already, so nothing has to be started again.
    """
    if serving is not None:
        request(session, version.llm.name, alias, serving, actor)
    row = session.get(
        Deployment, (version.llm_id, alias), with_for_update={"of": Deployment}, populate_existing=True
    )
    if row is not None and ready:
        row.state, row.message = DeploymentState.READY, ""
        row.version_id = row.serving_version_id = version.id
        row.serving_application = None  # the one of these settings, which the canary had
        row.updated_at = dt.datetime.now(dt.UTC)
        session.flush()


def report(
    session: Session,
    llm_id: uuid.UUID,
    alias: str,
    state: DeploymentState,
    version_id: uuid.UUID,
    message: str,
    config: JsonObject | None = None,
    application: str | None = None,
) -> None:
    """What became of it: called by the reconciler.

    Args:
        config: the settings that this is about; what is told of settings that were replaced meanwhile counts for nothing.
        application: of Serve, that answers where it is ready; None: the one that `config` says.
    """
    row = session.get_one(Deployment, (llm_id, alias), with_for_update={"of": Deployment})
    if config is not None and config != row.config:
        return
    ready = state is DeploymentState.READY
    answers = application if ready else row.serving_application
    if (row.state, row.version_id, row.message, row.serving_application) == (
        state,
        version_id,
        message,
        answers,
    ):
        return
    row.state, row.version_id, row.message, row.serving_application = state, version_id, message, answers
    if ready:
        row.serving_version_id = version_id
    row.updated_at = dt.datetime.now(dt.UTC)
    session.flush()
    notify(session, ALIAS_CHANNEL, row.llm.name)


def _withdraw_canaries(session: Session, revoked: Mapping[str, str], refused: dict[uuid.UUID, str]) -> None:
    for row in canaries.running(session):
        key_id = _signed_by(session, row.version_id)
        if key_id is None or key_id not in revoked:
            continue
        refused[row.version_id] = message = (
            f"version {row.version.number} is signed by key {key_id[:12]}, which was revoked ({revoked[key_id]})"
        )
        aliases.take_turn(session, row.llm_id)
        now = canaries.running_at(session, row.llm_id, row.alias)
        if now is None or now.promotion_id != row.promotion_id:
            continue  # another promotion's runs there meanwhile
        if canaries.end(session, row.llm_id, row.alias, message, SYSTEM) is not None:
            notify(session, ALIAS_CHANNEL, row.llm.name)


def _signed_by(session: Session, version_id: uuid.UUID) -> str | None:
    """The key of its newest signature."""
    rows = select(Attestation.key_id).where(Attestation.version_id == version_id)
    return session.scalar(rows.order_by(Attestation.id.desc()).limit(1))
