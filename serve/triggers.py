"""The loop of triggers and of tidying up: a thread of the reconciler's process.

Every second, and when something has happened, it fires what is due, watches for drift and looks at canaries too. As often as the settings say
it takes a signed root of the audit log. Once an hour it looks for drift in the gateway's
use, moves finished jobs into the history, drops its oldest months, deletes what is kept of people for too long and throws away uploads that nobody finished. It
holds nothing: any number of processes may run one, and one that is killed leaves nothing half done.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from functools import partial
from pathlib import Path

from sqlalchemy import select

from raymill.client.recipe import parse_recipe
from raymill.cluster.settings import Settings
from raymill.cluster.wake import Wake
from raymill.registry import canary_looks, drift, retention, triggers, uploads, usage_anomalies
from raymill.registry.database import Database
from raymill.registry.jobs import history
from raymill.registry.tables import Trigger
from raymill.registry.triggers import Fired, Planned
from raymill.serve.api.planning import plan

log = logging.getLogger(__name__)

POLL_S = 1.0
HOUR_S = 3600.0
ROOT_POLL_S = 60.0
TIDY_BATCHES = 20
"""Of a thousand jobs each, between two looks at what is due: a second or two."""


class TriggerLoop:
    """One step after the other, for one thread."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._wake = Wake(database.url, triggers.CHANNEL)
        self._roots = settings.audit_roots
        self._root_at = 0.0
        self._hourly_at = 0.0
        self._tidying = False
        self._after = history.START

    def step(self) -> list[Fired]:
        """Fire what is due and what has happened; have looked at what is due to be watched, and at canaries."""
        self._database.patiently(triggers.due)
        self._database.patiently(drift.due)
        canary_looks.due(self._database)
        fired = triggers.fire(self._database, partial(plan_trigger, self._database))
        for each in fired:
            log.info("trigger %s: %s", each.trigger, each.error or f"started pipeline {each.pipeline_id}")
        return fired

    def tidy(self) -> int:
        """Bound what has ended, a while at a time. Returns how many jobs were moved; 0: there are no more."""
        moved = 0
        for _ in range(TIDY_BATCHES):
            with self._database.transaction() as session:
                batch = history.retain(session, self._settings.job_retention_days, after=self._after)
            moved, self._after = moved + batch.moved, batch.after
            if batch.moved == 0:
                self._after = history.START
                break
        if moved:
            log.info("%d finished jobs moved to the history", moved)
            return moved
        with self._database.transaction() as session:
            dropped = history.drop_old(session, self._settings.history_months)
            triggers.forget(session)
            swept = uploads.sweep(session, self._settings.uploads_dir)
        self._forget()
        if swept:
            log.info("%d uploads thrown away", swept)
        if dropped:
            log.info("dropped of the history: %s", ", ".join(dropped))
        return moved

    def _forget(self) -> None:
        """Delete what is kept of people for longer than it may be."""
        for _ in range(TIDY_BATCHES):
            with self._database.transaction() as session:
                gone = retention.sweep(session, self._settings.retention)
            if not gone:
                return
            log.info("deleted for its age: %s", ", ".join(f"{n} of {table}" for table, n in gone.items()))

    def take_root(self) -> bool:
        """Sign a root of the audit log where it is due. Returns whether one was."""
        with self._database.transaction() as session:
            return self._roots.take_if_due(session, self._settings.audit_root_s)

    def watch(self) -> int:
        """Tell of what is unusual in the gateway's use, where triggers wait for it. Returns how many news there were."""
        with self._database.transaction() as session:
            waits = select(Trigger.id).where(Trigger.on == "drift", Trigger.enabled).limit(1)
            if session.scalar(waits) is None:
                return 0
            now = dt.datetime.now(dt.UTC)
            return sum(
                triggers.happened(
                    session,
                    "drift",
                    f"{found.by}/{found.name}",
                    f"{found.metric}/{now:%Y-%m-%d}",  # once a day
                    {"metric": found.metric, "value": found.value, "usual": found.usual, "z": found.z},
                )
                for found in usage_anomalies.anomalies(session, until=now)
            )

    def run(self, stopping: threading.Event) -> None:
        """Until it is told to stop, or the process ends."""
        while not stopping.is_set():
            try:
                more = bool(self.step())
                if time.monotonic() >= self._root_at:
                    self._root_at = time.monotonic() + min(ROOT_POLL_S, self._settings.audit_root_s)
                    self.take_root()
                if time.monotonic() >= self._hourly_at:
                    self._hourly_at = time.monotonic() + HOUR_S
                    self._tidying = True
                    self.watch()
                if self._tidying:
                    self._tidying = more = self.tidy() > 0
            except Exception:  # nobody reads a thread's error, and the next second may be better
                log.exception("triggers: a step failed")
                more = False
                time.sleep(POLL_S)
            if not more:
                self._wake.wait(POLL_S)
        self._wake.close()


def plan_trigger(database: Database, trigger: Trigger) -> Planned:
    """What its recipe comes to now.

    Raises:
        Invalid: it is wrong, or a file of it is not there.
        NotFound: a registered data set that it names is not there.
    """
    recipe = parse_recipe(trigger.recipe, folder=Path(trigger.recipe_dir) if trigger.recipe_dir else None)
    with database.transaction() as session:
        return Planned(name=recipe.model, recipe=recipe.resolved(), steps=plan(recipe, session))


def start(settings: Settings) -> threading.Thread:
    """The loop in a thread that ends with its process."""
    loop = TriggerLoop(settings.open_database(pool_size=2), settings)
    thread = threading.Thread(target=loop.run, args=(threading.Event(),), name="triggers", daemon=True)
    thread.start()
    return thread
