"""Take a backup: everything in a folder of its own, which gets its name once all of it is on disk.

In this order: the database's files, the audit log's roots, then the moment, and the WAL up to it. What is read of the
database afterwards is read as of that moment, so that a restored one can be held against it while others write on.
"""

from __future__ import annotations

import datetime as dt
import errno
import importlib.metadata
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from raymill.cluster.backup import artifacts, fence, keys, manifest, stream, tables, wal
from raymill.cluster.backup.manifest import ArtifactFiles, Backup, Manifest, TableState
from raymill.cluster.settings import Settings
from raymill.policies.errors import Invalid, RaymillError, Unavailable
from raymill.registry import audit
from raymill.registry.artifacts import FileDigest, digest_files, sha256_file
from raymill.registry.database import Database
from raymill.registry.failpoints import failpoint
from raymill.registry.files import flush_folder, locked, make_folder
from raymill.registry.postgres import EmbeddedPostgres
from raymill.registry.postgres_host import MAJOR, programs, server_user
from raymill.registry.uploads import SPARE_BYTES, DiskFull

log = logging.getLogger(__name__)

WAL_BYTES = 128 << 20
"""Of room for what is written meanwhile."""

BUSY_S = 2.0

_SIZE = (
    "SELECT sum(pg_database_size(oid))::bigint FROM pg_database WHERE has_database_privilege(oid, 'CONNECT')"
)
_TABLESPACES = "SELECT spcname FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')"


class Seen(NamedTuple):
    """The database at the moment."""

    moment: fence.Moment
    tables: tuple[TableState, ...]
    artifacts: tuple[ArtifactFiles, ...]
    audit_rows: int
    schema: str | None
    server: stream.Server


def create(settings: Settings, folder: Path) -> Backup:
    """Back the service up into `folder`, while it runs.

    Raises:
        Unavailable: another backup is being taken, or the server cannot be copied; the message holds the cure.
        Denied, Invalid: likewise.
        DiskFull: it will not fit.
    """
    make_folder(folder)
    with alone(folder), _full_disk_is_told(folder):
        sweep(folder)
        return _create(settings, folder)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Nobody else takes, proves or deletes backups here. Raises Unavailable: somebody does."""
    with locked(folder / ".lock", timeout_s=BUSY_S):
        yield


def sweep(folder: Path) -> None:
    """Remove what a process that was killed left behind; the caller is `alone`."""
    for path in folder.glob(".*-*"):
        if path.name.startswith(manifest.PROVING):
            EmbeddedPostgres(path / "home" / "postgres").stop()
        if path.name.startswith((manifest.NEW, manifest.OLD, manifest.PROVING)):
            # Away from under a `pg_basebackup` that outlived the process which started it.
            going = path.with_name(f"{manifest.OLD}gone-{path.name.lstrip('.')}")
            path.rename(going)
            shutil.rmtree(going)


def _create(settings: Settings, folder: Path) -> Backup:
    begun = time.monotonic()
    pool = artifacts.Pool(manifest.kept(folder))
    database = settings.open_database(pool_size=1)
    dsn = settings.postgres_dsn
    name = _free_name(folder)
    draft = folder / f"{manifest.NEW}{name}"
    try:
        with _connection(dsn) as connection:
            _refuse_other_servers(connection)
            _make_room(folder, connection, pool)
            draft.mkdir(mode=0o700)
            _take_root(settings, database)
            seen = _copy_database(settings, dsn, connection, draft)
        failpoint("backup:before")
        copied, there, lost = artifacts.take(seen.artifacts, settings.artifacts, draft, pool)
        keys.copy_public(settings.keys_dir, draft / "keys")
        passphrase = settings.backup_passphrase
        if passphrase is not None:
            sealed = keys.seal(settings.keys_dir, passphrase.get_secret_value())
            (draft / manifest.SEALED_KEYS).write_bytes(sealed)
        files = _files(draft)
        written = Manifest(
            format=manifest.FORMAT,
            name=name,
            raymill=importlib.metadata.version("raymill"),
            schema=seen.schema,
            postgres_major=MAJOR,
            moment=seen.moment.at.isoformat(timespec="milliseconds"),
            lsn=seen.moment.lsn,
            system=seen.server.system,
            timeline=seen.server.timeline,
            home=settings.home_id,
            database=str(database.url.database),
            role=str(database.url.username),
            external=settings.embedded_postgres is None,
            tables=seen.tables,
            audit_rows=seen.audit_rows,
            artifacts=there,
            lost=lost,
            files=files,
            sealed_keys=passphrase is not None,
            writers_waited_s=seen.moment.writers_waited_s,
            took_s=round(time.monotonic() - begun, 3),
            copied_bytes=copied + sum(file.size_bytes for file in files),
        )
        _flush(draft)
        failpoint("backup:written")
        path = manifest.write(draft, written)
        _record(database, path, written)
        return Backup(path=path, manifest=written)
    finally:
        database.close()
        shutil.rmtree(draft, ignore_errors=True)


def _copy_database(
    settings: Settings, dsn: str, connection: psycopg.Connection[tuple[Any, ...]], draft: Path
) -> Seen:
    make_folder(settings.home)
    bin_dir = programs(server_user(), settings.home)
    target = draft / "database"
    with wal.kept_from_here(connection, f"raymill_backup_{os.getpid()}"):
        wal.base_backup(bin_dir, dsn, target)
        failpoint("backup:after")
        # Before the moment: a root that is taken later may be of rows that the backup does not have.
        if settings.audit_roots.folder.is_dir():
            shutil.copytree(settings.audit_roots.folder, draft / "audit")
        with fence.moment(dsn) as (moment, reading):
            wal.receive_until(bin_dir, dsn, target, draft / "wal", connection)
            rows = reading.execute("SELECT name, files FROM artifact ORDER BY name").fetchall()
            audit_rows = _one(reading, "SELECT count(*) FROM audit_event")
            schema = _one(reading, "SELECT max(version_num) FROM alembic_version")
            return Seen(
                moment,
                tables.states(reading),
                tuple(map(_artifact, rows)),
                audit_rows,
                schema,
                stream.server(connection),
            )


def _artifact(row: tuple[Any, ...]) -> ArtifactFiles:
    return ArtifactFiles(name=row[0], files=tuple(FileDigest(**file) for file in row[1]))


def _connection(dsn: str) -> psycopg.Connection[tuple[Any, ...]]:
    try:
        return psycopg.connect(dsn, autocommit=True, application_name="raymill backup")
    except psycopg.OperationalError as error:
        said = str(error).strip().splitlines()[0]
        raise Unavailable(
            f"Postgres does not answer ({said}): start it with `raymill up`, or see DATABASE_URL"
        ) from error


def _refuse_other_servers(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    major = connection.info.server_version // 10_000
    if major != MAJOR:
        raise Invalid(
            f"DATABASE_URL is PostgreSQL {major}, backups are proven by restoring them with the {MAJOR} that is "
            f"shipped: upgrade the server to {MAJOR}, or back it up by its own means"
        )
    found = [str(row[0]) for row in connection.execute(_TABLESPACES).fetchall()]
    if found:
        raise Invalid(
            f"the server has the tablespace {found[0]}: move what lies there to pg_default, or back it up by its own means"
        )
    if _one(connection, "SELECT to_regclass('alembic_version') IS NULL"):
        raise Invalid("the database is empty: `raymill up` makes its tables")


def _make_room(folder: Path, connection: psycopg.Connection[tuple[Any, ...]], pool: artifacts.Pool) -> None:
    rows = connection.execute("SELECT name, files FROM artifact").fetchall()
    database_bytes, new_bytes = _one(connection, _SIZE), pool.lacks(map(_artifact, rows))
    need, free = database_bytes + WAL_BYTES + new_bytes, shutil.disk_usage(folder).free - SPARE_BYTES
    if need > free:
        raise DiskFull(
            f"a backup takes about {need:,} bytes (database {database_bytes:,}, new artifacts {new_bytes:,}), {folder} "
            f"has room for {max(0, free):,}: free some of it, lower RAYMILL_BACKUP_KEEP, or move RAYMILL_BACKUP_DIR"
        )


def _take_root(settings: Settings, database: Database) -> None:
    """Have a signed root vouch for all of the log so far. Without a key the older ones have to do."""
    try:
        with database.transaction() as session:
            settings.audit_roots.take_if_due(session, 0.0)
    except RaymillError as error:
        log.warning("no root of the audit log was taken: %s", error)


def _record(database: Database, path: Path, written: Manifest) -> None:
    """The audit log tells of the backup, and vouches for its manifest."""
    try:
        with database.transaction() as session:
            audit.record(
                session,
                audit.SYSTEM,
                "backup.create",
                f"backup/{written.name}",
                moment=written.moment,
                manifest=sha256_file(path / manifest.MANIFEST),
            )
    except SQLAlchemyError as error:
        log.warning("the backup is whole, but the audit log does not tell of it: %s", error)


def _files(draft: Path) -> tuple[FileDigest, ...]:
    skip = f"{artifacts.FOLDER}/"
    found = [
        FileDigest(path=f"{top.name}/{file.path}", size_bytes=file.size_bytes, sha256=file.sha256)
        for top in sorted(draft.iterdir())
        if top.is_dir() and f"{top.name}/" != skip
        for file in digest_files(top)
    ]
    sealed = draft / manifest.SEALED_KEYS
    if sealed.exists():
        found.append(
            FileDigest(path=sealed.name, size_bytes=sealed.stat().st_size, sha256=sha256_file(sealed))
        )
    return tuple(found)


def _flush(draft: Path) -> None:
    """`pg_basebackup` and the copies of artifacts are on disk already, but for the WAL that came last and small files."""
    for path in (
        *draft.glob("wal/*"),
        *draft.glob("audit/**/*"),
        *draft.glob("keys*"),
        *draft.glob("keys/**/*"),
    ):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    for path in (draft, *(each for each in draft.rglob("*") if each.is_dir())):
        flush_folder(path)


def _free_name(folder: Path) -> str:
    at = dt.datetime.now(dt.UTC)
    while (folder / f"{at:%Y%m%dT%H%M%SZ}").exists():
        at += dt.timedelta(seconds=1)
    return f"{at:%Y%m%dT%H%M%SZ}"


def _one(connection: psycopg.Connection[tuple[Any, ...]], statement: str) -> Any:
    row = connection.execute(statement).fetchone()
    return row[0] if row is not None else None


@contextmanager
def _full_disk_is_told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise DiskFull(
            f"the disk of {folder} is full: free some of it, or move RAYMILL_BACKUP_DIR"
        ) from error
