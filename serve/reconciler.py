"""Makes Ray Serve match the registry: `python -m raymill.serve.reconciler`.

Ray forgets; Postgres does not. When an alias moves, and every second until nothing is left to do (then every
five: asking Serve for its state costs 25 ms of CPU), this compares the deployments that are wanted with the
applications that run, starts what is missing, reports what became ready or failed, and ends what nobody
wants. A new version of an alias loads beside the old one, which answers until then; a canary stays beside it. A version
that is asked for again, by another alias or with other settings, keeps its application: what Serve has to replace for
that, if anything, `llm/rollout.py` decides. Versions that are served as adapters share an application.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping

import ray
from pydantic import ValidationError
from ray import serve
from ray.serve import RunTarget
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview
from sqlalchemy.exc import NoResultFound
from sqlalchemy.orm import Session

from raymill.cluster import logs
from raymill.cluster.applications import FACES, ours, shares_engine
from raymill.cluster.numbers import Publisher
from raymill.cluster.service import read_service
from raymill.cluster.settings import Settings
from raymill.cluster.wake import Wake
from raymill.policies.errors import RaymillError
from raymill.registry import canary_looks, deployments
from raymill.registry.aliases import ALIAS_CHANNEL
from raymill.registry.signing_keys import KeyRing
from raymill.registry.tables import DeploymentState
from raymill.serve import faces, specs, triggers
from raymill.serve.llm.build import deploy, reason_of_application
from raymill.serve.llm.config import ServeConfig
from raymill.serve.llm.spec import DeploySpec
from raymill.serve.shared_engines import SharedEngines
from raymill.serve.wanted import Wanted, servable, wanted_now

log = logging.getLogger(__name__)

POLL_S = 1.0
SETTLED_POLL_S = 5.0
LINGER_S = 5.0
"""An application that nobody wants any more goes on for so long: a gateway replica may not have heard of it yet."""


class Reconciler:
    """Holds nothing but its connections and what it told shared engines; what it knows it reads again each time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = settings.open_database(pool_size=2)
        self.wake = Wake(self._database.url, ALIAS_CHANNEL)
        self._unwanted: dict[str, float] = {}
        self._shared = SharedEngines(settings, self._database, self._report)

    def step(self) -> bool:
        """Compare once, and act. Returns whether all is as it should be."""
        running = serve.status().applications
        self._keep_faces(running)
        refused = self._withdraw()
        rows = self._database.patiently(wanted_now)
        wanted = [each for each in rows if each.version_id not in refused]
        shared: dict[str, list[Wanted]] = defaultdict(list)
        for each in wanted:
            if shares_engine(each.config):
                shared[each.application].append(each)
            else:
                self._follow(each, running.get(each.application))
        for name, members in shared.items():
            answering = {each.serving_id for each in rows if each.serving == name and each.serving_id}
            self._shared.follow(name, members, answering, running.get(name))
        keep = {each.application for each in wanted} | {each.serving for each in rows}
        unwanted = self._ours(running.keys() - keep - FACES)
        self._end(unwanted, time.monotonic())
        needed = FACES | {each.application for each in wanted if not each.has_failed}
        return (
            not unwanted
            and needed <= running.keys()
            and all(each.status is ApplicationStatus.RUNNING for each in running.values())
        )

    def _end(self, unwanted: set[str], now: float) -> None:
        self._unwanted = unwanted_since(self._unwanted, unwanted, now)
        for name, since in self._unwanted.items():
            if now - since >= LINGER_S:
                log.info("nobody wants %s any more: ending it", name)
                serve.delete(name, _blocking=False)

    def _ours(self, names: set[str]) -> set[str]:
        return self._database.patiently(lambda session: ours(session, names)) if names else set()

    def _withdraw(self) -> set[uuid.UUID]:
        """Take back what only a revoked key vouches for. Returns the versions that may not be served."""
        revoked = KeyRing(self._settings.signing_dir).revoked()
        if not revoked:
            return set()
        return set(self._database.patiently(lambda session: deployments.withdraw(session, revoked)))

    def _keep_faces(self, running: dict[str, ApplicationStatusOverview]) -> None:
        targets = []
        if "api" not in running:
            targets.append(RunTarget(target=faces.api, name="api", route_prefix="/"))
        if "gateway" not in running:
            targets.append(RunTarget(target=faces.gateway, name="gateway", route_prefix="/v1"))
        if targets:
            serve.run_many(targets, wait_for_applications_running=False)

    def _follow(self, wanted: Wanted, application: ApplicationStatusOverview | None) -> None:
        if wanted.is_new or (application is None and not wanted.has_failed):
            self._start(wanted, application)
        elif application is None:
            return
        elif application.status is ApplicationStatus.RUNNING:
            self._report(wanted, DeploymentState.READY, "")
        elif application.status is ApplicationStatus.DEPLOY_FAILED:
            self._report(wanted, DeploymentState.FAILED, reason_of_application(application))

    def _start(self, wanted: Wanted, application: ApplicationStatusOverview | None) -> None:
        failed = application is not None and application.status is ApplicationStatus.DEPLOY_FAILED
        attempt = uuid.uuid4().hex if failed else ""
        try:
            spec = self._database.patiently(lambda session: self._spec(session, wanted, attempt))
            log.info("starting %s for %s@%s", spec.application, wanted.llm, wanted.alias)
            self._report(wanted, DeploymentState.STARTING, "")
            deploy(spec)
        except (RaymillError, ValidationError, NoResultFound) as error:  # of one; the others are followed
            log.warning("%s@%s is not served: %s", wanted.llm, wanted.alias, error)
            self._report(wanted, DeploymentState.FAILED, str(error)[:1000])

    def _spec(self, session: Session, wanted: Wanted, attempt: str) -> DeploySpec:
        version = servable(session, wanted)
        config = ServeConfig.model_validate(wanted.config)
        return specs.version_spec(session, self._settings, version, config, attempt)

    def _report(self, wanted: Wanted, state: DeploymentState, message: str) -> None:
        if wanted.reported == (wanted.version_id, state) and not message and wanted.recorded:
            return
        if wanted.canary_id is not None:
            canary_id = wanted.canary_id
            self._database.patiently(
                lambda session: canary_looks.report(session, canary_id, state, message, wanted.config)
            )
            return
        self._database.patiently(
            lambda session: deployments.report(
                session,
                wanted.llm_id,
                wanted.alias,
                state,
                wanted.version_id,
                message,
                wanted.config,
                wanted.application,
            )
        )


def unwanted_since(before: Mapping[str, float], unwanted: Iterable[str], now: float) -> dict[str, float]:
    """Since when nobody wants each application, seconds on a clock; one that was wanted between begins anew."""
    return {name: before.get(name, now) for name in unwanted}


def main() -> None:
    logs.set_up("reconciler")
    settings = Settings()
    service = read_service(settings)
    ray.init(
        address=service.ray_address, namespace="raymill", log_to_driver=False, logging_level=logging.WARNING
    )
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": settings.http_host, "port": settings.port},
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
    )
    triggers.start(settings)
    reconciler = Reconciler(settings)
    reconciler.step()
    # Of one that came through: one that dies each time it is started is told of as silent.
    Publisher(settings.metrics_dir, "reconciler").start()
    while True:
        started = time.monotonic()
        rest_s = SETTLED_POLL_S if reconciler.step() else POLL_S
        reconciler.wake.wait(max(0.0, rest_s - (time.monotonic() - started)))


if __name__ == "__main__":
    main()
