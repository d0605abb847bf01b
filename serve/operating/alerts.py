"""What somebody should look at now, each with its cure. Pure: from `Facts` alone.

`critical`: something that was promised does not hold now. `warning`: it will not for long, or somebody must decide.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator

from raymill.client.status_types import Alert
from raymill.registry.provider_settings import OURS
from raymill.registry.sizes import size
from raymill.registry.tables import DeploymentState
from raymill.serve.operating.facts import Facts

WAITS_S = 600.0
"""A job that may start and has not for so long is told of, unless its queue is paused."""

LOW_DISK_BYTES = 5 << 30
LATE = 2.0
"""A backup or a root of the audit log is late after so many times the interval that was asked for."""

LONG_TRANSACTION_S = 600.0


def alerts(facts: Facts) -> list[Alert]:
    """Critical ones first."""
    found = [alert for look in LOOKS for alert in look(facts)]
    return sorted(found, key=lambda alert: alert.severity != "critical")


def _parts(facts: Facts) -> Iterator[Alert]:
    for part, what in (
        ("gateway", "answers under /v1"),
        ("engine", "starts jobs"),
        ("reconciler", "starts models or takes them back"),
    ):
        if not facts.parts.replicas.get(part):
            yield Alert(
                severity="critical",
                name="part_silent",
                subject=part,
                message=f"no {part} has written its numbers for 15 s: nothing {what}",
                cure=f"it is started again by itself; if not, read logs/{part}.log and run `raymill doctor`",
            )
    if facts.parts.full:
        yield Alert(
            severity="critical",
            name="gateway_full",
            subject="gateway",
            message="every gateway replica has its queues nearly full and takes no more requests",
            cure="send less, or see why Postgres takes no usage records",
        )


def _cure_of(target: str) -> str:
    provider = target.partition("/")[0]
    return (
        "`raymill status` and logs/gateway.log" if provider == OURS else f"`raymill provider test {provider}`"
    )


def _breakers(facts: Facts) -> Iterator[Alert]:
    for target, state in facts.parts.breakers.items():
        yield Alert(
            severity="warning",
            name="breaker_open",
            subject=target,
            message=f"the breaker of {target} is {state.replace('_', '-')}: it fails too often",
            cure=f"{_cure_of(target)}; requests go to the route's next target",
        )


def _deployments(facts: Facts) -> Iterator[Alert]:
    for row in facts.served:
        if row.state is DeploymentState.FAILED:
            yield Alert(
                severity="critical" if row.serving is None else "warning",
                name="deployment_failed",
                subject=f"{row.llm}@{row.alias}",
                message=row.message or "it could not be started",
                cure="mend what the message says, then promote or roll the alias back",
            )


def _jobs(facts: Facts) -> Iterator[Alert]:
    for queue in facts.queues:
        if queue.dead:
            yield Alert(
                severity="warning",
                name="dead_letters",
                subject=queue.queue,
                message=f"{queue.dead} dead letters lie in queue {queue.queue}",
                cure="`raymill jobs list --state dead`, mend the cause, then `raymill jobs redrive`",
            )
        if queue.paused_at is None and (queue.oldest_ready_s or 0.0) > WAITS_S:
            yield Alert(
                severity="warning",
                name="queue_waits",
                subject=queue.queue,
                message=f"a job of queue {queue.queue} has waited for {queue.oldest_ready_s:.0f} s",
                cure="see what runs (`raymill jobs list --state running`), raise the limit or the number of slots",
            )


def _backups(facts: Facts) -> Iterator[Alert]:
    backups = facts.backups
    if backups.newest is None:
        yield _backup("there is no backup", "`raymill backup create`, and set RAYMILL_BACKUP_EVERY_S")
        return
    if backups.every_s is not None:
        age_s = (facts.at - backups.newest).total_seconds()
        if age_s > LATE * backups.every_s:
            message = (
                f"the newest backup is {age_s:.0f} s old, one is to be taken every {backups.every_s:.0f} s"
            )
            yield _backup(message, "read logs/backup.log", critical=True)
    if backups.proven is None:
        yield _backup("no backup was restored and found equal", "`raymill backup prove`")


def _backup(message: str, cure: str, *, critical: bool = False) -> Alert:
    return Alert(
        severity="critical" if critical else "warning",
        name="backup_old",
        subject="backups",
        message=message,
        cure=cure,
    )


def _drift(facts: Facts) -> Iterator[Alert]:
    for watch in facts.watches:
        if watch.enabled and watch.severity in {"minor", "major"}:
            yield Alert(
                severity="critical" if watch.severity == "major" else "warning",
                name="drift",
                subject=watch.name,
                message=f"{watch.severity} drift: {watch.reason}",
                cure=f"`raymill drift runs {watch.name}`",
            )


def _audit(facts: Facts) -> Iterator[Alert]:
    log = facts.audit
    if log.error:
        yield Alert(
            severity="critical",
            name="audit_root",
            subject="audit",
            message=f"the newest signed root cannot be read: {log.error}",
            cure="`raymill audit verify`",
        )
    elif log.rows > log.rooted_rows and _older(facts.at, log.rooted_at, LATE * log.every_s):
        yield Alert(
            severity="warning",
            name="audit_root",
            subject="audit",
            message=f"{log.rows - log.rooted_rows} rows of the audit log have no signed root for too long",
            cure="read logs/reconciler.log: the disk of RAYMILL_AUDIT_DIR may be full or away",
        )


def _older(now: dt.datetime, then: dt.datetime | None, than_s: float) -> bool:
    """None, for a log that has no root yet, is not old: the first one is taken soon."""
    return then is not None and (now - then).total_seconds() > than_s


def _disks(facts: Facts) -> Iterator[Alert]:
    for disk in facts.disks:
        if disk.free_bytes < LOW_DISK_BYTES:
            yield Alert(
                severity="warning",
                name="disk_low",
                subject=disk.folder,
                message=f"{size(disk.free_bytes)} are left on the disk of {disk.path}",
                cure="make room, or give the service another disk",
            )


def _postgres(facts: Facts) -> Iterator[Alert]:
    if facts.postgres.oldest_transaction_s > LONG_TRANSACTION_S:
        yield Alert(
            severity="warning",
            name="long_transaction",
            subject="postgres",
            message=f"a transaction is open for {facts.postgres.oldest_transaction_s:.0f} s: old rows pile up",
            cure="find it in pg_stat_activity; a long dump is best run on a restored backup",
        )


LOOKS: tuple[Callable[[Facts], Iterator[Alert]], ...] = (
    _parts,
    _breakers,
    _deployments,
    _jobs,
    _backups,
    _drift,
    _audit,
    _disks,
    _postgres,
)
