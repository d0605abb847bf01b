"""What should be served, as the registry says it: versions that aliases point to, and canaries beside them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.cluster.applications import answering_application, application_for
from raymill.registry import archive, canaries, policy_rows
from raymill.registry.tables import (
    Alias,
    Canary,
    CanaryState,
    Deployment,
    DeploymentState,
    JsonObject,
    LlmVersion,
)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A deployment and the version that its alias points to now, or the version that tries itself there."""

    llm_id: uuid.UUID
    alias: str
    llm: str
    version_id: uuid.UUID
    number: int
    reported: tuple[uuid.UUID | None, DeploymentState]
    application: str
    """That is to answer."""

    serving: str | None
    """Application that answers now; it may be an older version's."""

    serving_id: uuid.UUID | None
    """The version that answers there."""

    config: JsonObject
    recorded: bool = True
    """The row says which application answers."""

    canary_id: uuid.UUID | None = None
    """It is the canary of that promotion: the alias points to another version."""

    @property
    def has_failed(self) -> bool:
        return self.reported == (self.version_id, DeploymentState.FAILED)

    @property
    def is_new(self) -> bool:
        """Nothing was reported on this version yet: somebody asked for it just now."""
        return self.reported[0] != self.version_id


def wanted_now(session: Session) -> list[Wanted]:
    """What should be served: versions that aliases point to, and canaries beside them. The session's first statements:
    from one snapshot, or a move that commits between them would look like a version that is new."""
    session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
    found = []
    for row in session.scalars(select(Deployment).order_by(Deployment.updated_at)):
        version = session.get_one(Alias, (row.llm_id, row.alias)).version
        found.append(
            Wanted(
                llm_id=row.llm_id,
                alias=row.alias,
                llm=row.llm.name,
                version_id=version.id,
                number=version.number,
                reported=(row.version_id, row.state),
                application=application_for(session, version, row.config),
                serving=answering_application(session, row),
                serving_id=row.serving_version_id,
                config=row.config,
                recorded=row.serving_version_id is None or row.serving_application is not None,
            )
        )
    return found + [_canary(session, row) for row in canaries.running(session)]


def _canary(session: Session, row: Canary) -> Wanted:
    state = DeploymentState.READY if row.state is CanaryState.RUNNING else DeploymentState.STARTING
    config = canaries.serving_of(session, row)
    return Wanted(
        llm_id=row.llm_id,
        alias=row.alias,
        llm=row.llm.name,
        version_id=row.version_id,
        number=row.version.number,
        reported=(None if row.state is CanaryState.PENDING else row.version_id, state),
        application=application_for(session, row.version, config),
        serving=None,
        serving_id=None,
        config=config,
        canary_id=row.promotion_id,
    )


def servable(session: Session, wanted: Wanted) -> LlmVersion:
    """Raises Conflict: the version was archived, or older rules than those in force allowed it. NotFound: no rules are."""
    version = session.get_one(LlmVersion, wanted.version_id)
    archive.check_not_archived(session, version)
    policy_rows.check_in_force(session, wanted.llm_id, wanted.alias)
    return version
