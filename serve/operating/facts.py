"""How the service is doing, read once: what `raymill status` shows, alerts are made of and `/metrics` tells.

From the registry's rows, the folders of the home, the files of numbers that processes write, and Ray's list of nodes.
Changes nothing. Times are seconds, sizes bytes.
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from raymill.cluster.backup import manifest
from raymill.cluster.settings import Settings
from raymill.policies.errors import RaymillError
from raymill.registry import canaries, drift
from raymill.registry.database import clock
from raymill.registry.jobs.stats import KindCount, QueueStats, kind_counts, queue_stats
from raymill.registry.tables import (
    Alias,
    AuditEvent,
    Deployment,
    DeploymentState,
    DriftWatch,
    LlmVersion,
)
from raymill.serve.operating import scrape

MAX_ROWS = 500
"""Deployments, watches and kinds of jobs that are told one by one."""

CONNECTIONS = text("""
SELECT coalesce(state, 'other') AS state, count(*) AS connections,
       extract(epoch FROM statement_timestamp() - min(xact_start))::float AS oldest_s
FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() GROUP BY 1
""")

DATABASE = text("""
SELECT current_setting('max_connections')::int AS most, pg_database_size(current_database()) AS size_bytes,
       current_setting('server_version') AS version, deadlocks, xact_commit AS commits, xact_rollback AS rollbacks
FROM pg_stat_database WHERE datname = current_database()
""")


@dataclass(frozen=True, kw_only=True)
class Node:
    """A machine of the Ray cluster."""

    node_id: str
    alive: bool
    resources: dict[str, float]
    """In all, by Ray's names: CPU, GPU, memory (bytes) and so on."""

    available: dict[str, float]
    """Of them, what nothing has reserved."""


@dataclass(frozen=True, kw_only=True)
class Postgres:
    """The database that remembers everything."""

    version: str
    max_connections: int
    size_bytes: int
    connections: dict[str, int]
    """By state, as Postgres names them: active, idle, idle in transaction and so on."""

    oldest_transaction_s: float
    """0 when none is open. Others cannot forget old rows while it is."""

    deadlocks: int
    commits: int
    rollbacks: int


@dataclass(frozen=True, kw_only=True)
class Served:
    """An alias that should answer."""

    llm: str
    alias: str
    state: DeploymentState
    version: int | None
    serving: int | None
    message: str


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A canary that runs."""

    llm: str
    alias: str
    version: int
    state: str
    share: float
    age_s: float


@dataclass(frozen=True, kw_only=True)
class Watch:
    """A watch for drift, and what its newest look found."""

    name: str
    enabled: bool
    severity: str | None
    """none, minor or major; None: it has not looked yet."""

    looked_at: dt.datetime | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class Backups:
    newest: dt.datetime | None
    proven: dt.datetime | None
    """The newest that was restored and found equal."""

    every_s: float | None
    """As the settings say; None: only when somebody asks for one."""


@dataclass(frozen=True, kw_only=True)
class AuditLog:
    rows: int
    rooted_rows: int
    """That the newest signed root vouches for."""

    rooted_at: dt.datetime | None
    error: str
    """Why the newest root cannot be read; empty: it can."""

    every_s: float


@dataclass(frozen=True, kw_only=True)
class Disk:
    folder: str
    """home, backups"""

    path: Path
    free_bytes: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Processes that have written their numbers just now."""

    replicas: dict[str, int]
    """By part: gateway, api, engine, pool, reconciler."""

    in_flight: int
    """Requests that the gateway is answering."""

    full: bool
    """No gateway replica takes more requests."""

    breakers: dict[str, str]
    """Target -> open or half_open, the worst of all replicas; closed ones are left out."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    at: dt.datetime
    queues: list[QueueStats]
    kinds: list[KindCount]
    served: list[Served]
    canaries: list[Trial]
    watches: list[Watch]
    postgres: Postgres
    backups: Backups
    audit: AuditLog
    disks: list[Disk]
    nodes: list[Node]
    parts: Parts


def read(session: Session, settings: Settings) -> Facts:
    """All of it, in some tens of milliseconds."""
    now = clock(session)
    return Facts(
        at=now,
        queues=queue_stats(session),
        kinds=kind_counts(session)[:MAX_ROWS],
        served=list(_served(session)),
        canaries=[
            Trial(
                llm=row.llm.name,
                alias=row.alias,
                version=row.version.number,
                state=row.state.value,
                share=canaries.share_of(row),
                age_s=(now - row.created_at).total_seconds(),
            )
            for row in canaries.running(session)
        ],
        watches=list(_watches(session)),
        postgres=_postgres(session),
        backups=Backups(
            newest=manifest.newest_at(settings.backups_dir),
            proven=manifest.newest_at(settings.backups_dir, proven=True),
            every_s=settings.backup_every_s,
        ),
        audit=_audit(session, settings),
        disks=list(_disks(settings)),
        nodes=list(_nodes()),
        parts=parts_of(settings.metrics_dir),
    )


def _served(session: Session) -> Iterator[Served]:
    rows = select(Deployment).order_by(Deployment.updated_at.desc()).limit(MAX_ROWS)
    for row in session.scalars(rows):
        target = session.get(Alias, (row.llm_id, row.alias))
        serving = session.get(LlmVersion, row.serving_version_id) if row.serving_version_id else None
        yield Served(
            llm=row.llm.name,
            alias=row.alias,
            state=row.state,
            version=target.version.number if target is not None else None,
            serving=serving.number if serving is not None else None,
            message=row.message,
        )


def _watches(session: Session) -> Iterator[Watch]:
    for row in session.scalars(select(DriftWatch).order_by(DriftWatch.name).limit(MAX_ROWS)):
        last = drift.last_run(session, row.id)
        yield Watch(
            name=row.name,
            enabled=row.enabled,
            severity=last.severity if last is not None else None,
            looked_at=last.at if last is not None else None,
            reason=last.reasons[0] if last is not None and last.reasons else "",
        )


def _postgres(session: Session) -> Postgres:
    rows = session.execute(CONNECTIONS).all()
    one = session.execute(DATABASE).one()
    return Postgres(
        version=one.version,
        max_connections=one.most,
        size_bytes=one.size_bytes,
        connections={row.state: row.connections for row in rows},
        oldest_transaction_s=max((row.oldest_s for row in rows if row.oldest_s is not None), default=0.0),
        deadlocks=one.deadlocks,
        commits=one.commits,
        rollbacks=one.rollbacks,
    )


def _audit(session: Session, settings: Settings) -> AuditLog:
    root, error = None, ""
    try:
        root = settings.audit_roots.newest()
    except (RaymillError, OSError) as trouble:
        error = str(trouble)
    return AuditLog(
        rows=session.scalar(select(func.max(AuditEvent.seq))) or 0,
        rooted_rows=root.rows if root is not None else 0,
        rooted_at=dt.datetime.fromisoformat(root.at) if root is not None else None,
        error=error,
        every_s=settings.audit_root_s,
    )


def _disks(settings: Settings) -> Iterator[Disk]:
    for folder, path in (("home", settings.home), ("backups", settings.backups_dir)):
        if path.exists():
            usage = shutil.disk_usage(path)
            yield Disk(folder=folder, path=path, free_bytes=usage.free, size_bytes=usage.total)


def _nodes() -> Iterator[Node]:
    if not ray.is_initialized():
        return
    free: dict[str, dict[str, float]] = available_resources_per_node()
    for node in ray.nodes():
        node_id = node["NodeID"]
        yield Node(
            node_id=node_id,
            alive=node["Alive"],
            resources=_countable(node.get("Resources", {})),
            available=_countable(free.get(node_id, {})),
        )


def _countable(resources: dict[str, Any]) -> dict[str, float]:
    """Without what Ray makes up for each node and placement group."""
    return {
        name: float(value) for name, value in resources.items() if ":" not in name and "_group_" not in name
    }


def parts_of(directory: Path) -> Parts:
    """What the processes of this machine wrote last."""
    breakers: dict[str, str] = {}
    for labels, value in scrape.samples(directory, "raymill_gateway_breaker"):
        if value and breakers.get(labels["target"]) != "open":
            breakers[labels["target"]] = "open" if value == 2 else "half_open"
    replicas: dict[str, int] = {}
    for part in scrape.parts(directory):
        replicas[part] = replicas.get(part, 0) + 1
    return Parts(
        replicas=replicas,
        in_flight=int(sum(value for _, value in scrape.samples(directory, "raymill_gateway_in_flight"))),
        full=scrape.not_ready(directory),
        breakers=dict(sorted(breakers.items())[:MAX_ROWS]),
    )
