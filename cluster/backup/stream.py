"""The WAL as it is written, received all the time into the folder of backups: what is lost with a machine is then a second.

    <folder>/wal/<system>-<timeline>/    segments of one server's history, by `pg_receivewal`; the last one is `.partial`
                                    /owner    the home that receives there, and where it lies

Two services that were restored from one backup have the same system and timeline, and not the same history: the second one
is refused, and a backup takes no WAL of another home.

A replication slot keeps on the server what has not been received, up to `max_slot_wal_keep_size`: a folder that is away
for long costs the server no more than that. Beyond it the slot is lost and a new one begins here; backups from before the
gap are then restored to their own moment, and a new one is wanted.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import psycopg

from raymill.cluster.backup import wal
from raymill.cluster.backup.manifest import Backup
from raymill.cluster.settings import Settings, secret_file
from raymill.policies.errors import Conflict, NotFound
from raymill.registry.files import make_folder, read_or_empty
from raymill.registry.postgres_host import programs, server_user

log = logging.getLogger(__name__)

SLOT = "raymill_wal"
OWNER = "owner"
IDLE_S = 3600.0
"""Nobody receives where nothing was written for so long: a service's replicas write every few seconds."""

SEGMENT_NAME = 24
"""Hex digits: timeline, and the number of the segment in two parts."""

_SERVER = "SELECT system_identifier::text, timeline_id FROM pg_control_system(), pg_control_checkpoint()"


class Server(NamedTuple):
    """Whose WAL it is: the same data has another timeline after each restore."""

    system: str
    timeline: int

    def folder(self, backups: Path) -> Path:
        return backups / "wal" / f"{self.system}-{self.timeline}"


def server(connection: psycopg.Connection[Any]) -> Server:
    row = connection.execute(_SERVER).fetchone()
    assert row is not None
    return Server(*row)


def receive(settings: Settings) -> NoReturn:
    """Become `pg_receivewal`, which ends with the server, or when it is asked to.

    Raises:
        Conflict: another service receives the same history into the same folder.
        Denied, Invalid, Unavailable: the server does not allow it; the message holds the cure.
    """
    dsn = settings.postgres_dsn
    with psycopg.connect(dsn, autocommit=True) as connection:
        folder = server(connection).folder(settings.backups_dir)
        _refuse_others(folder, settings.home_id)
        _mend(connection, folder)
    make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    secret_file(folder / OWNER, f"{settings.home_id} {settings.home}")
    _refuse_others(folder, settings.home_id)  # one that was faster
    address, environment = wal.without_password(dsn)
    program = programs(server_user(), settings.home) / "pg_receivewal"
    arguments = [
        "--dbname",
        address,
        "--directory",
        str(folder),
        f"--slot={SLOT}",
        "--synchronous",
        "--no-loop",
    ]
    os.execve(program, [str(program), *arguments, "--no-password"], environment)


def _mend(connection: psycopg.Connection[Any], folder: Path) -> None:
    """Have a slot that still has all its WAL. What was received before a gap is of no use to later backups."""
    query = "SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = %s"
    row = connection.execute(query, (SLOT,)).fetchone()
    try:
        if row is not None and row[0]:
            log.warning(
                "the server could not keep the WAL for as long as %s was away: beginning anew", folder
            )
            connection.execute("SELECT pg_drop_replication_slot(%s)", (SLOT,))
            row = None
        if row is None:
            shutil.rmtree(folder, ignore_errors=True)
            connection.execute("SELECT pg_create_physical_replication_slot(%s, true)", (SLOT,))
    except psycopg.Error as error:
        raise wal.refusal(str(error), connection.info.user) from error


def _refuse_others(folder: Path, home_id: str) -> None:
    owner, _, home = read_or_empty(folder / OWNER).partition(" ")
    if owner not in {"", home_id}:
        raise Conflict(
            f"{folder} holds the WAL of another service, at {home}, which was restored from the same backup: give this one a "
            "RAYMILL_BACKUP_DIR of its own; or, where that service is gone, move the folder away and take a backup"
        )


def segments_after(backup: Backup) -> list[tuple[Path, str]]:
    """What was received since a backup was begun: file, and the name that recovery looks for.

    Raises:
        NotFound: nothing was.
        Conflict: a segment is missing in between, or it is another service's.
    """
    own = sorted(path.name for path in (backup.path / "wal").glob("0*"))
    folder = Server(backup.manifest.system, backup.manifest.timeline).folder(backup.path.parent)
    owner, _, home = read_or_empty(folder / OWNER).partition(" ")
    if owner and backup.manifest.home not in {"", owner}:
        raise Conflict(
            f"the WAL in {folder} is of another service, at {home}, which was restored from the same backup as that of "
            f"{backup.manifest.name}: restore that to its own moment"
        )
    found = [(path, path.name[:SEGMENT_NAME]) for path in sorted(folder.glob("0*"))]
    found = [(path, name) for path, name in found if name >= own[0]]
    if not found:
        raise NotFound(
            f"no WAL was received since {backup.manifest.name}: set RAYMILL_BACKUP_WAL=1 for the next time, and restore "
            "to the backup's own moment"
        )
    numbers = [_number(name) for _, name in found]
    expected = range(min(_number(own[-1]), numbers[0]), numbers[-1] + 1)
    missing = sorted(set(expected) - {*numbers, *map(_number, own)})
    if missing:
        raise Conflict(
            f"{len(missing)} segments of the WAL between {backup.manifest.name} and the newest are missing in {folder}: "
            "restore a newer backup, or this one to its own moment"
        )
    return found


def forget(backups: Path, kept: Sequence[Backup]) -> int:
    """Delete the WAL that none of the backups needs, of former timelines too. Returns how many segments.

    Args:
        kept: all that there are.
    """
    first: dict[Path, str] = {}
    for backup in kept:
        folder = Server(backup.manifest.system, backup.manifest.timeline).folder(backups)
        begun = min((path.name for path in (backup.path / "wal").glob("0*")), default="")
        first[folder] = min(first.get(folder, begun), begun)
    gone = 0
    for folder in sorted((backups / "wal").glob("*-*")):
        segments = sorted(folder.glob("0*"))
        if folder not in first and time.time() - max(map(_written, segments), default=0.0) > IDLE_S:
            shutil.rmtree(folder)
            gone += len(segments)
            continue
        # Of no backup only those are kept that a receiver still writes.
        going = [
            path
            for path in segments
            if (path.name[:SEGMENT_NAME] < first[folder] if folder in first else not path.suffix)
        ]
        for path in going:
            path.unlink()
        gone += len(going)
    return gone


def _written(path: Path) -> float:
    """When, in seconds since 1970; now, where a receiver is just renaming it."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _number(name: str) -> int:
    """Of a segment of 16 MiB, of which each log file has 256."""
    return (int(name[8:16], 16) << 8) + int(name[16:SEGMENT_NAME], 16)
