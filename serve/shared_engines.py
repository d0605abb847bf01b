"""Engines that versions of one base share: the base is loaded once, each version is an adapter beside it.

Which adapters an engine may answer with is told to it as it runs (`llm/rollout.py`), so one more restarts nothing.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass

from pydantic import ValidationError
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview
from sqlalchemy.exc import NoResultFound
from sqlalchemy.orm import Session

from raymill.cluster.settings import Settings
from raymill.policies.errors import Invalid, RaymillError
from raymill.registry.database import Database
from raymill.registry.tables import Artifact, DeploymentState, LlmVersion
from raymill.serve import specs
from raymill.serve.llm.adapters import Adapter
from raymill.serve.llm.build import deploy, reason_of_application
from raymill.serve.llm.config import ServeConfig
from raymill.serve.llm.spec import DeploySpec
from raymill.serve.wanted import Wanted, servable

log = logging.getLogger(__name__)

Report = Callable[[Wanted, DeploymentState, str], None]


@dataclass(frozen=True, kw_only=True)
class Told:
    """What an engine was told last."""

    versions: frozenset[uuid.UUID] = frozenset()
    attempt: str = ""
    """Of its start (`DeploySpec.attempt`)."""


class SharedEngines:
    """Remembers only what it told each engine; who has forgotten tells it again, which changes nothing."""

    def __init__(self, settings: Settings, database: Database, report: Report) -> None:
        self._settings = settings
        self._database = database
        self._report = report
        self._told: dict[str, Told] = {}

    def follow(
        self,
        name: str,
        members: list[Wanted],
        answering: set[uuid.UUID],
        application: ApplicationStatusOverview | None,
    ) -> None:
        """Have one application answer for its versions.

        Args:
            name: of the application.
            members: all that it is to serve.
            answering: versions that it answers for now, also where an alias has moved on to one that is not ready.
            application: None: it does not run.
        """
        alive = [each for each in members if not each.has_failed]
        told = self._told.get(name, Told()).versions if application is not None else frozenset()
        if any(each.is_new or each.version_id not in told for each in alive):
            self._tell(name, alive, answering, application)
        elif application is not None and application.status is ApplicationStatus.RUNNING:
            for each in alive:
                self._report(each, DeploymentState.READY, "")
        elif application is not None and application.status is ApplicationStatus.DEPLOY_FAILED:
            for each in alive:
                self._report(each, DeploymentState.FAILED, reason_of_application(application))

    def _tell(
        self,
        name: str,
        members: list[Wanted],
        answering: set[uuid.UUID],
        application: ApplicationStatusOverview | None,
    ) -> None:
        """Start the engine, or tell it of more adapters."""
        before = self._told.get(name, Told())
        found = self._verified(members, before.versions)
        if not found:
            return
        failed = application is not None and application.status is ApplicationStatus.DEPLOY_FAILED
        told = Told(versions=frozenset(found), attempt=uuid.uuid4().hex if failed else before.attempt)
        one = next(each for each in members if each.version_id in found)
        config = ServeConfig.model_validate(one.config)

        def read(session: Session) -> DeploySpec:
            adapters = {adapter.name: adapter for adapter in found.values()}
            for version_id in answering - found.keys():
                version = session.get_one(LlmVersion, version_id)
                with suppress(RaymillError):  # nobody to tell: the deployment is about another version
                    adapter = specs.adapter_spec(session, self._settings, version)
                    adapters[adapter.name] = adapter
            return specs.shared_spec(
                session, self._settings, one.version_id, config, name, adapters.values(), told.attempt
            )

        spec = self._database.patiently(read)
        for each in members:
            if each.version_id in found and (each.is_new or application is None):
                self._report(each, DeploymentState.STARTING, "")
        log.info("%s serves %s", name, ", ".join(adapter.name for adapter in found.values()))
        try:
            deploy(spec)
        except Invalid as error:
            log.warning("%s is left as it was: %s", name, error)
            for each in members:
                # What it has been told of already, it goes on answering for.
                if application is None or each.version_id not in before.versions:
                    self._report(each, DeploymentState.FAILED, str(error)[:1000])
            return
        self._told[name] = told

    def _verified(self, members: list[Wanted], known: AbstractSet[uuid.UUID]) -> dict[uuid.UUID, Adapter]:
        """Version -> adapter, of those that can be served.

        A new one is verified here, so that what cannot be served is told when it is asked for; each replica verifies it
        again before it loads it.
        """
        found = {}
        for each in members:
            try:
                found[each.version_id] = self._adapter(
                    each, verify=each.is_new or each.version_id not in known
                )
            except (RaymillError, ValidationError, NoResultFound) as error:  # of one; the others are served
                self._report(each, DeploymentState.FAILED, str(error)[:1000])
        return found

    def _adapter(self, wanted: Wanted, *, verify: bool) -> Adapter:
        def read(session: Session) -> tuple[Adapter, str]:
            version = servable(session, wanted)
            base = session.get_one(Artifact, version.base_artifact_name)
            return specs.adapter_spec(session, self._settings, version), base.digest

        config = ServeConfig.model_validate(wanted.config)
        assert config.lora is not None, "it shares an engine"
        adapter, base_digest = self._database.patiently(read)
        if verify:
            adapter.verify(base_digest, specs.keys_of(self._settings), config.lora)
        return adapter
