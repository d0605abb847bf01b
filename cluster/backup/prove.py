"""The proof of a backup: it is restored elsewhere, its database started, and all of it compared with what was there.

Equal means: each table has the rows that it had at the moment, to the bit; each file of each artifact is what its row
says; the audit log walks from its first row to its last and fits every signed root.

Times are seconds. RTO is how long it took until the restored database answered, every byte read and hashed; RPO is how
long ago the moment was, for what was committed since is not in the backup.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg
from psycopg import IsolationLevel
from sqlalchemy import select

from raymill.cluster.backup import artifacts, manifest, tables
from raymill.cluster.backup.create import alone, sweep
from raymill.cluster.backup.manifest import Backup, Manifest
from raymill.cluster.backup.restore import restore
from raymill.policies.errors import Conflict, Invalid, NotFound
from raymill.registry.artifacts import ArtifactStore, FileDigest, Tampered, verify_files
from raymill.registry.audit_chain import AuditBroken
from raymill.registry.audit_export import Roots
from raymill.registry.database import Database
from raymill.registry.files import make_folder, write_private
from raymill.registry.postgres import EmbeddedPostgres
from raymill.registry.tables import Artifact


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was found of a restored backup."""

    backup: str
    ok: bool
    differences: tuple[str, ...]
    """What is not as it was; none when `ok`."""

    moment: str
    rpo_s: float
    rto_s: float
    compare_s: float
    """How long it took to compare, once the database answered."""

    tables: int
    rows: int
    artifacts: int
    artifact_bytes: int
    artifacts_linked: bool
    """They were not copied, for they lie on the same file system: copying them is not in `rto_s`."""

    audit_rows: int
    audit_vouched: int
    """Rows of the audit log that a signed root vouches for."""

    keys: str
    """`opened`, `sealed` (no passphrase was given) or `none`."""


def prove(backup: Backup, *, scratch: Path | None = None, passphrase: str | None = None) -> Proof:
    """Restore a backup to a folder that is thrown away, and compare. A good proof is kept beside the backup.

    Args:
        scratch: where that folder is made, by default beside the backup.

    Raises:
        As `restore`, apart from Conflict.
    """
    folder = backup.path.parent
    with alone(folder):
        sweep(folder)
        place = (scratch or folder) / f"{manifest.PROVING}{backup.manifest.name}"
        if place.exists():  # of a proof that was killed
            EmbeddedPostgres(place / "home" / "postgres").stop()
            shutil.rmtree(place)
        make_folder(place)
        begun = time.monotonic()
        try:
            restore(backup, place / "home", passphrase=passphrase, link=True)
            server = EmbeddedPostgres(place / "home" / "postgres")
            server.ensure_running()
            rto_s = time.monotonic() - begun
            try:
                found = compare(place / "home", backup, rto_s=rto_s, passphrase=passphrase)
            finally:
                server.stop()
        finally:
            shutil.rmtree(place, ignore_errors=True)
        if found.ok:
            at = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
            write_private(backup.path / manifest.PROOF, json.dumps({"at": at, **asdict(found)}, indent=2))
    return found


def compare_home(home: Path, backup: Backup, *, passphrase: str | None = None) -> Proof:
    """Hold a home that was restored earlier against its backup; its database is started for that, and stopped.

    Raises:
        NotFound: no database lies there.
        Conflict: a service runs there already, and writes.
    """
    server = EmbeddedPostgres(home / "postgres")
    if not (server.data_dir / "PG_VERSION").exists():
        raise NotFound(f"no database in {home}: restore one with `raymill backup restore BACKUP --to {home}`")
    if server.is_running():
        raise Conflict(f"the database in {home} runs: stop it with `raymill down` first")
    begun = time.monotonic()
    server.ensure_running()
    try:
        return compare(home, backup, rto_s=time.monotonic() - begun, passphrase=passphrase)
    finally:
        server.stop()


def compare(home: Path, backup: Backup, *, rto_s: float = 0.0, passphrase: str | None = None) -> Proof:
    """Hold a restored home, whose database runs, against what was backed up."""
    begun = time.monotonic()
    written = backup.manifest
    url = EmbeddedPostgres(home / "postgres").url()
    told = _tables(url, written)
    database = Database(url, pool_size=1)
    try:
        names, size_bytes, damaged = _artifacts(database, ArtifactStore(home / artifacts.FOLDER), written)
        rows, vouched, broken = _audit(database, home)
    finally:
        database.close()
    told += damaged + broken
    if not broken and rows != written.audit_rows:
        told.append(f"the audit log has {rows} rows, it had {written.audit_rows}")
    age = dt.datetime.now(dt.UTC) - written.at
    any_file = next((home / artifacts.FOLDER).rglob("*.*"), None)
    return Proof(
        backup=written.name,
        ok=not told,
        differences=tuple(told),
        moment=written.moment,
        rpo_s=round(age.total_seconds(), 3),
        rto_s=round(rto_s, 3),
        compare_s=round(time.monotonic() - begun, 3),
        tables=len(written.tables),
        rows=written.rows,
        artifacts=len(names),
        artifact_bytes=size_bytes,
        artifacts_linked=any_file is not None and any_file.is_file() and any_file.stat().st_nlink > 1,
        audit_rows=rows,
        audit_vouched=vouched,
        keys="none" if not written.sealed_keys else "opened" if passphrase else "sealed",
    )


def _tables(url: str, written: Manifest) -> list[str]:
    dsn = url.replace("postgresql+psycopg://", "postgresql://", 1)
    with psycopg.connect(dsn) as connection:
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        return tables.differences(written.tables, tables.states(connection))


def _artifacts(
    database: Database, store: ArtifactStore, written: Manifest
) -> tuple[list[str], int, list[str]]:
    """Every artifact that the restored database knows, against its files: names, bytes, and what is wrong."""
    with database.transaction() as session:
        rows = session.execute(select(Artifact.name, Artifact.files, Artifact.size_bytes)).all()
    told = []
    for name, files, _ in rows:
        if name in written.lost:
            told.append(f"artifact {name} was damaged or gone when the backup was made: make it again")
            continue
        try:
            verify_files(store.path(name), tuple(FileDigest(**file) for file in files))
        except (Tampered, Invalid) as error:
            told.append(str(error))
    return [row.name for row in rows], sum(row.size_bytes for row in rows), told


def _audit(database: Database, home: Path) -> tuple[int, int, list[str]]:
    """Rows, rows that a signed root vouches for, and what is wrong."""
    roots = Roots(home / "audit", home / "keys" / "signing")
    try:
        with database.transaction() as session:
            found = roots.verify(session)
    except (AuditBroken, Invalid) as error:
        return 0, 0, [f"audit log: {error}"]
    return found.rows, found.vouched, []
