"""The WAL as it is written, received all the time into the folder of backups: what is lost with a machine is then a second.

    <folder>/wal/<system>-<timeline>/    segments of one server's history, by `pg_receivewal`; the last one is `.partial`

A replication slot keeps on the server what has not been received, up to `max_slot_wal_keep_size`: a folder that is away
for long costs the server no more than that. Beyond it the slot is lost and a new one begins here; backups from before the
gap are then restored to their own moment, and a new one is wanted.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import psycopg

from raymill.cluster.backup import wal
from raymill.cluster.backup.manifest import Backup
from raymill.cluster.settings import Settings
from raymill.policies.errors import Conflict, NotFound
from raymill.registry.files import make_folder
from raymill.registry.postgres_host import programs, server_user

log = logging.getLogger(__name__)

SLOT = "raymill_wal"
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
        Denied, Invalid, Unavailable: the server does not allow it; the message holds the cure.
    """
    dsn = settings.postgres_dsn
    with psycopg.connect(dsn, autocommit=True, connect_timeout=5) as connection:
        folder = server(connection).folder(settings.backups_dir)
        _mend(connection, folder)
    make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
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


def segments_after(backup: Backup) -> list[tuple[Path, str]]:
    """What was received since a backup was begun: file, and the name that recovery looks for.

    Raises:
        NotFound: nothing was.
        Conflict: a segment is missing in between.
    """
    own = sorted(path.name for path in (backup.path / "wal").glob("0*"))
    folder = Server(backup.manifest.system, backup.manifest.timeline).folder(backup.path.parent)
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


def forget_before(backup: Backup) -> int:
    """Delete the WAL that no backup from this one on needs. Returns how many segments."""
    first = min((path.name for path in (backup.path / "wal").glob("0*")), default="")
    folder = Server(backup.manifest.system, backup.manifest.timeline).folder(backup.path.parent)
    going = [path for path in folder.glob("0*") if path.name[:SEGMENT_NAME] < first]
    for path in going:
        path.unlink()
    return len(going)


def _number(name: str) -> int:
    """Of a segment of 16 MiB, of which each log file has 256."""
    return (int(name[8:16], 16) << 8) + int(name[16:SEGMENT_NAME], 16)
