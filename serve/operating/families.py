"""Facts and alerts as Prometheus metrics: what no process counts, because the registry knows it.

Names carry their unit; labels are names of things that somebody made (queues, models, watches) or fixed words, and each
list of them is bounded (`facts.MAX_ROWS`). Read at each scrape, so they are of all processes and outlive them.
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from prometheus_client.core import Metric

from raymill.client.status_types import Alert
from raymill.cluster.numbers import counter, gauge
from raymill.registry.tables import DeploymentState
from raymill.serve.operating.facts import Facts

SEVERITY = {None: 0, "none": 0, "minor": 1, "major": 2}


def families(facts: Facts, alerts: Sequence[Alert]) -> Iterator[Metric]:
    info = gauge("build_info", "1, with the version that answers.", "version", "postgres")
    info.add_metric([importlib.metadata.version("raymill"), facts.postgres.version], 1)
    yield info
    yield from _alerts(alerts)
    yield from _jobs(facts)
    yield from _served(facts)
    yield from _drift(facts)
    yield from _backups(facts)
    yield from _audit(facts)
    yield from _postgres(facts)
    yield from _machines(facts)


def _alerts(alerts: Sequence[Alert]) -> Iterator[Metric]:
    family = gauge("alerts", "What `raymill status` shows as alerts.", "name", "severity")
    for (name, severity), count in Counter((each.name, each.severity) for each in alerts).items():
        family.add_metric([name, severity], count)
    yield family


def _jobs(facts: Facts) -> Iterator[Metric]:
    jobs = gauge("jobs", "Jobs that have not ended, and dead letters.", "queue", "kind", "state")
    oldest = gauge(
        "job_oldest_ready_seconds", "How long the oldest job that may start has waited.", "queue", "kind"
    )
    for each in facts.kinds:
        jobs.add_metric([each.queue, each.kind, each.state], each.jobs)
        if each.oldest_s is not None:
            oldest.add_metric([each.queue, each.kind], each.oldest_s)
    limit = gauge("queue_limit", "How many jobs of a queue run at once; absent: any number.", "queue")
    paused = gauge("queue_paused", "1: nothing of the queue is started.", "queue")
    failed = gauge("queue_failed_last_day", "Jobs that failed or died in the last 24 hours.", "queue")
    finished = gauge("queue_finished_last_hour", "Jobs that ended in the last hour.", "queue")
    for queue in facts.queues:
        if queue.max_running is not None:
            limit.add_metric([queue.queue], queue.max_running)
        paused.add_metric([queue.queue], queue.paused_at is not None)
        failed.add_metric([queue.queue], queue.failed_last_day)
        finished.add_metric([queue.queue], queue.finished_last_hour)
    yield from (jobs, oldest, limit, paused, failed, finished)


def _served(facts: Facts) -> Iterator[Metric]:
    states = gauge("deployment", "1 for the state that an alias's deployment is in.", "llm", "alias", "state")
    version = gauge(
        "deployment_serving_version", "Version that answers for an alias; 0: none.", "llm", "alias"
    )
    for row in facts.served:
        for state in DeploymentState:
            states.add_metric([row.llm, row.alias, state.value], row.state is state)
        version.add_metric([row.llm, row.alias], row.serving or 0)
    share = gauge("canary_share", "Share of an alias's requests that its canary answers.", "llm", "alias")
    age = gauge("canary_age_seconds", "How long a canary has run.", "llm", "alias")
    for trial in facts.canaries:
        share.add_metric([trial.llm, trial.alias], trial.share if trial.state == "running" else 0)
        age.add_metric([trial.llm, trial.alias], trial.age_s)
    yield from (states, version, share, age)


def _drift(facts: Facts) -> Iterator[Metric]:
    severity = gauge("drift_severity", "Of the newest look: 0 none, 1 minor, 2 major.", "watch")
    looked = gauge("drift_last_look_timestamp_seconds", "When a watch looked last, Unix time.", "watch")
    for watch in facts.watches:
        if watch.enabled:
            severity.add_metric([watch.name], SEVERITY[watch.severity])
        if watch.looked_at is not None:
            looked.add_metric([watch.name], watch.looked_at.timestamp())
    yield from (severity, looked)


def _backups(facts: Facts) -> Iterator[Metric]:
    backups = facts.backups
    yield _at(
        "backup_last_success_timestamp_seconds",
        "When the newest backup was begun, Unix time.",
        backups.newest,
    )
    text = "When the newest backup that was restored and found equal was begun, Unix time."
    yield _at("backup_last_proven_timestamp_seconds", text, backups.proven)
    yield _one(
        "backup_interval_seconds",
        "How often one is to be taken; absent: when somebody asks.",
        backups.every_s,
    )


def _audit(facts: Facts) -> Iterator[Metric]:
    rows = counter("audit_rows", "Rows of the audit log.")
    rows.add_metric([], facts.audit.rows)
    yield rows
    yield _one("audit_rooted_rows", "Rows that the newest signed root vouches for.", facts.audit.rooted_rows)
    yield _at(
        "audit_root_timestamp_seconds", "When the newest root was signed, Unix time.", facts.audit.rooted_at
    )
    yield _one(
        "audit_root_readable", "0: the newest root is not what was signed.", float(not facts.audit.error)
    )


def _postgres(facts: Facts) -> Iterator[Metric]:
    found = facts.postgres
    connections = gauge(
        "postgres_connections", "Connections to the database by state, all processes'.", "state"
    )
    for state, count in found.connections.items():
        connections.add_metric([state.replace(" ", "_")], count)
    yield connections
    yield _one("postgres_max_connections", "Connections that the server takes.", found.max_connections)
    yield _one("postgres_size_bytes", "Of the database on disk.", found.size_bytes)
    text = "Age of the oldest open transaction; 0: none is."
    yield _one("postgres_oldest_transaction_seconds", text, found.oldest_transaction_s)
    for name, text, value in (
        ("postgres_deadlocks", "Deadlocks that the server has broken.", found.deadlocks),
        ("postgres_commits", "Transactions that were committed.", found.commits),
        ("postgres_rollbacks", "Transactions that were rolled back.", found.rollbacks),
    ):
        family = counter(name, text)
        family.add_metric([], value)
        yield family


def _machines(facts: Facts) -> Iterator[Metric]:
    free = gauge("disk_free_bytes", "Free on the disk of a folder.", "folder")
    size = gauge("disk_size_bytes", "Size of the disk of a folder.", "folder")
    for disk in facts.disks:
        free.add_metric([disk.folder], disk.free_bytes)
        size.add_metric([disk.folder], disk.size_bytes)
    nodes = gauge("nodes", "Machines of the Ray cluster.", "state")
    living = [node for node in facts.nodes if node.alive]
    nodes.add_metric(["alive"], len(living))
    nodes.add_metric(["gone"], len(facts.nodes) - len(living))
    resources = gauge("cluster_resource", "Of living machines, by Ray's names.", "resource", "state")
    sums: dict[tuple[str, str], float] = defaultdict(float)
    for node in living:
        for state, have in (("total", node.resources), ("free", node.available)):
            for name in ("CPU", "GPU", "memory"):
                sums[name, state] += have.get(name, 0.0)
    for key, value in sums.items():
        resources.add_metric([*key], value)
    parts = gauge("processes", "Processes that have told their numbers just now.", "part")
    for part, count in facts.parts.replicas.items():
        parts.add_metric([part], count)
    yield from (free, size, nodes, resources, parts)


def _one(name: str, text: str, value: float | None) -> Metric:
    """A number without labels; None: it is left out."""
    family = gauge(name, text)
    if value is not None:
        family.add_metric([], value)
    return family


def _at(name: str, text: str, moment: dt.datetime | None) -> Metric:
    return _one(name, text, moment.timestamp() if moment is not None else None)
