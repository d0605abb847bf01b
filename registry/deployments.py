"""What should be served. Ray Serve is made to match these rows, not the other way round."""

from __future__ import annotations

import datetime as dt
import uuid

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from raymill.policies.errors import NotFound
from raymill.registry import audit
from raymill.registry.aliases import ALIAS_CHANNEL
from raymill.registry.audit import Actor
from raymill.registry.jobs import notify
from raymill.registry.tables import Alias, Deployment, DeploymentState, JsonObject, Llm, LlmVersion


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
    audit.record(session, actor, "deployment.request", f"llm/{llm}@{alias}", config=config)
    notify(session, ALIAS_CHANNEL, llm)
    return target.version


def report(
    session: Session,
    llm_id: uuid.UUID,
    alias: str,
    state: DeploymentState,
    version_id: uuid.UUID,
    message: str,
) -> None:
    """What became of it: called by the reconciler."""
    row = session.get_one(Deployment, (llm_id, alias), with_for_update={"of": Deployment})
    if (row.state, row.version_id, row.message) == (state, version_id, message):
        return
    row.state, row.version_id, row.message = state, version_id, message
    if state is DeploymentState.READY:
        row.serving_version_id = version_id
    row.updated_at = dt.datetime.now(dt.UTC)
    session.flush()
    notify(session, ALIAS_CHANNEL, row.llm.name)
