"""A backup becomes a home, from which `raymill up` starts. All of it, or nothing.

Built beside the home and renamed when PostgreSQL has recovered it, so that a half-restored one is never started. Every
byte is hashed on its way. PostgreSQL replays the WAL up to the moment of the backup, not further, in single-user mode:
no port is open until the database has a password of its own.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import secrets
import shutil
import tarfile
from pathlib import Path

from raymill.cluster.backup import artifacts, keys, manifest, stream
from raymill.cluster.backup.manifest import Backup, Manifest
from raymill.policies.errors import Conflict, Invalid, Unavailable
from raymill.registry.artifacts import FileDigest
from raymill.registry.files import flush_folder, make_folder, write_private
from raymill.registry.postgres import NAME, EmbeddedPostgres
from raymill.registry.postgres_host import MAJOR, SystemUser, programs, server_user, telling_line
from raymill.registry.uploads import SPARE_BYTES, DiskFull

BASE = "database/base.tar"
WAL, AUDIT, KEYS = "wal/", "audit/", "keys/"
RECOVERY_S = 24 * 3600.0

REDO_END = re.compile(r"redo done at ([0-9A-F]+)/([0-9A-F]+)")
LAST_COMMIT = re.compile(r"last completed transaction was at log time (\S+ \S+)")

_HBA = """local all all scram-sha-256
host all all 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
"""


def verify(backup: Backup) -> int:
    """Read every byte of a backup. Returns how many.

    Raises:
        Tampered: a file is missing or damaged; names it.
    """
    for path, file in _all_files(backup):
        artifacts.check(path, file)
    return backup.manifest.size_bytes


def restore(
    backup: Backup, home: Path, *, newest: bool = False, passphrase: str | None = None, link: bool = False
) -> str:
    """Make a home of a backup. Returns until when the database goes, ISO 8601.

    Args:
        newest: replay all the WAL that was received since, not only up to the backup's moment.
        passphrase: what the keys were sealed with. Without it they are left out.
        link: artifacts as hard links where that is possible, for a home that is thrown away.

    Raises:
        Conflict: something lies there, or WAL is missing in between.
        NotFound: no WAL was received since.
        Invalid: the backup is of another major version of PostgreSQL, or the passphrase is wrong.
        Tampered: a file of the backup is damaged; names it. Nothing was restored.
        DiskFull: it will not fit.
        Unavailable: PostgreSQL does not recover it.
    """
    written = backup.manifest
    home = home.absolute()
    if written.postgres_major != MAJOR:
        raise Invalid(
            f"{written.name} is of PostgreSQL {written.postgres_major}, the server here is {MAJOR}: restore it with a "
            f"release of raymill that ships {written.postgres_major}"
        )
    _refuse_used(home)
    make_folder(home.parent)
    user = server_user()
    user.require_entry(home.parent)
    _make_room(home.parent, backup, link=link)
    opened = _keys(backup, passphrase)
    received = stream.segments_after(backup) if newest else []
    draft = home.with_name(f"{home.name}.restoring")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        make_folder(draft)
        _put(backup, draft, link=link)
        if not link:  # what is thrown away needs no secrets, and is no place for them
            keys.write_all(opened, draft / "keys")
        for path, name in received:
            shutil.copyfile(path, draft / "postgres" / "pg_wal" / name)
        until = _recover(draft, written, user, newest=newest, thrown_away=link)
        if not link:
            os.sync()  # all of the copies at once
        if home.exists():
            home.rmdir()
        draft.rename(home)
        flush_folder(home.parent)
        return until
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _put(backup: Backup, draft: Path, *, link: bool) -> None:
    data_dir = draft / "postgres"
    base = next(file for file in backup.manifest.files if file.path == BASE)
    artifacts.check(backup.path / BASE, base)
    with tarfile.open(backup.path / BASE) as tar:
        tar.extractall(data_dir, filter="data")
    wal, own = [], []
    for file in backup.manifest.files:
        source = backup.path / file.path
        if file.path.startswith(WAL):
            wal.append((source, FileDigest(**{**vars(file), "path": file.path.removeprefix(WAL)})))
        elif file.path.startswith((AUDIT, KEYS)):
            own.append((source, file))
    artifacts.put_all(wal, data_dir / "pg_wal")
    artifacts.put_all(own, draft)
    artifacts.put_all(_artifact_files(backup), draft, link=link)


def _recover(draft: Path, written: Manifest, user: SystemUser, *, newest: bool, thrown_away: bool) -> str:
    """Replay the WAL up to the moment, or all there is, and give the database the name, role and password that an embedded one has."""
    data_dir = draft / "postgres"
    password = secrets.token_urlsafe(24)
    write_private(EmbeddedPostgres(data_dir).password_file, password)
    if written.external:  # which may have its settings elsewhere, and they are of another machine
        (data_dir / "postgresql.conf").write_text("")
        (data_dir / "postgresql.auto.conf").write_text("")
        (data_dir / "pg_hba.conf").write_text(_HBA)
        (data_dir / "pg_ident.conf").touch()
    (data_dir / "recovery.signal").touch()
    for path in (data_dir, *data_dir.rglob("*")):
        user.own(path, 0o700 if path.is_dir() else 0o600)
    settings = {
        "restore_command": "false",  # all of the WAL that is wanted lies there
        "hot_standby": "off",
        "archive_mode": "off",
        "shared_preload_libraries": "",
        "recovery_init_sync_method": "syncfs",
        "fsync": "off" if thrown_away else "on",
        "exit_on_error": "on",
    }
    if not newest:
        settings["recovery_target_lsn"] = written.lsn
        settings["recovery_target_inclusive"] = "off"
        settings["recovery_target_action"] = "promote"
    command = [str(programs(user, draft.parent) / "postgres"), "--single", "-D", str(data_dir)]
    command += [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    done = user.run([*command, "template1"], stdin_text=_adopt(written, password), timeout_s=RECOVERY_S)
    if done.returncode != 0:
        raise Unavailable(
            f"PostgreSQL does not recover {written.name}: {telling_line(done.stdout)}; "
            "see with `raymill backup verify` if it is whole, or restore an older one"
        )
    if newest and not _reaches(done.stdout, written.lsn):
        raise Unavailable(
            f"the WAL that was received ends before {written.name} does: restore that to its own moment, without --newest"
        )
    last = LAST_COMMIT.findall(done.stdout)
    return dt.datetime.fromisoformat(last[-1]).isoformat() if newest and last else written.moment


def _reaches(told: str, lsn: str) -> bool:
    """Whether a server that tells of its recovery got as far as that place in the WAL."""
    ends = REDO_END.findall(told)
    return bool(ends) and _place(*ends[-1]) >= _place(*lsn.split("/"))


def _place(high: str, low: str) -> int:
    return (int(high, 16) << 32) + int(low, 16)


def _adopt(written: Manifest, password: str) -> str:
    """Statements, one on each line."""
    lines = []
    if written.role != NAME:
        make = f"CREATE ROLE {NAME} LOGIN CREATEDB REPLICATION"
        there = f"EXISTS (SELECT FROM pg_roles WHERE rolname = '{NAME}')"
        lines.append(f"DO $$ BEGIN IF NOT {there} THEN {make}; END IF; END $$")
        lines.append(f"GRANT {_quoted(written.role)} TO {NAME}")
    if written.database != NAME:
        lines.append(f"ALTER DATABASE {_quoted(written.database)} RENAME TO {NAME}")
    lines.append(f"ALTER ROLE {NAME} LOGIN PASSWORD '{password}'")
    return "\n".join(lines) + "\n"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _keys(backup: Backup, passphrase: str | None) -> dict[str, bytes]:
    sealed = backup.path / manifest.SEALED_KEYS
    if not backup.manifest.sealed_keys or passphrase is None:
        return {}
    file = next(each for each in backup.manifest.files if each.path == manifest.SEALED_KEYS)
    artifacts.check(sealed, file)
    return keys.open_sealed(sealed.read_bytes(), passphrase)


def _refuse_used(home: Path) -> None:
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise Conflict(
            f"{home} is not empty: name a folder that does not exist yet, then set RAYMILL_HOME to it"
        )
    if home.is_mount():
        raise Conflict(f"{home} is a mount point: name a folder below it, then set RAYMILL_HOME to that")


def _make_room(folder: Path, backup: Backup, *, link: bool) -> None:
    written = backup.manifest
    need = sum(file.size_bytes for file in written.files)
    if not link or folder.stat().st_dev != backup.path.stat().st_dev:
        need += sum(file.size_bytes for each in written.artifacts for file in each.files)
    free = shutil.disk_usage(folder).free - SPARE_BYTES
    if need > free:
        raise DiskFull(
            f"{written.name} takes {need:,} bytes, {folder} has room for {max(0, free):,}: free some of it, or name "
            "a folder on a larger disk"
        )


def _artifact_files(backup: Backup) -> list[tuple[Path, FileDigest]]:
    found = []
    for each in backup.manifest.artifacts:
        for file in each.files:
            path = f"{artifacts.FOLDER}/{each.name}/{file.path}"
            found.append(
                (backup.path / path, FileDigest(path=path, size_bytes=file.size_bytes, sha256=file.sha256))
            )
    return found


def _all_files(backup: Backup) -> list[tuple[Path, FileDigest]]:
    return [(backup.path / file.path, file) for file in backup.manifest.files] + _artifact_files(backup)
