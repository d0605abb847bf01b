"""Deletes what was uploaded and never registered: its process was killed before the row was committed.

Only where artifacts lie at a URL; in a folder the next attempt replaces what a dead one left.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
from functools import partial

from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.cluster.settings import Settings
from raymill.registry.database import Database
from raymill.registry.object_files import OWNER, ObjectFiles, Tree
from raymill.registry.object_store import ObjectStore
from raymill.registry.tables import Artifact, Job, JobState

log = logging.getLogger(__name__)

KEEP = dt.timedelta(days=1)
HOUR_S = 3600.0


def start(database: Database, settings: Settings) -> None:
    """Sweep once an hour, on a thread that ends with the process."""
    store = settings.artifacts
    if isinstance(store, ObjectStore):
        threading.Thread(
            target=_run, args=(database, store.objects, settings.home_id), name="artifact-sweep", daemon=True
        ).start()


def sweep(database: Database, objects: ObjectFiles, keep: dt.timedelta = KEEP) -> list[Tree]:
    """Delete uploads that are older than `keep`, that no row tells of and that no living job may register yet.

    Returns:
        What was deleted.

    Raises:
        Denied, NotFound, Unavailable: the store cannot be asked.
    """
    before = dt.datetime.now(dt.UTC) - keep
    deleted = []
    for tree in objects.trees():
        # One after the other, asked just before: a job that is claimed meanwhile uploads all of its files again.
        if tree.newest < before and not database.patiently(partial(_is_wanted, tree=tree)):
            objects.delete(tree)
            deleted.append(tree)
    objects.drop_unfinished(before)
    return deleted


def _is_wanted(session: Session, tree: Tree) -> bool:
    row = session.get(Artifact, tree.name)
    if row is not None and row.digest == tree.digest:
        return True
    living = [state for state in JobState if not state.terminal]
    address = tree.name.rpartition("/")[2]
    found = select(Job.id).where(Job.address == address, Job.state.in_(living)).limit(1)
    return session.scalar(found) is not None


def _run(database: Database, objects: ObjectFiles, home_id: str) -> None:
    wait = threading.Event()
    while True:
        try:
            _sweep_ours(database, objects, home_id)
        except Exception as error:  # noqa: BLE001 (whatever it was, the next hour tries again)
            log.warning("uploads could not be swept: %s", error)
        wait.wait(HOUR_S)


def _sweep_ours(database: Database, objects: ObjectFiles, home_id: str) -> None:
    """Another service's rows are not here: what it registered would look like uploads that nobody wants."""
    owner = objects.owner(home_id)
    if owner != home_id:
        whose = "another service's" if owner else "nobody's yet"
        log.warning(
            "%s is %s: nothing is deleted there; if it is this one's alone, write %s into its file %s",
            *(objects.url, whose, home_id, OWNER),
        )
        return
    for tree in sweep(database, objects):
        log.info("deleted an upload that was never registered: %s, digest %s", tree.name, tree.digest[:12])
