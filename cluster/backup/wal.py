"""PostgreSQL's own programs that copy a running server: `pg_basebackup` and `pg_receivewal`.

Both speak the replication protocol, so the server may be anywhere. The password goes through the environment, for
every user of a machine can read a process's arguments.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString, NamedTuple

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Conninfo

from raymill.policies.errors import Denied, Invalid, RaymillError, Unavailable
from raymill.registry.postgres_host import MAJOR, telling_line
from raymill.registry.uploads import DiskFull

PARTIAL = ".partial"
REACH_S = 120.0


class Refusal(NamedTuple):
    """What a program says, and what cures it."""

    said: str
    cure: str
    error: type[RaymillError]


REFUSALS = (
    Refusal(
        "no pg_hba.conf entry for replication",
        "add `host replication {role} ADDRESS scram-sha-256` to the server's pg_hba.conf and reload it",
        Denied,
    ),
    Refusal(
        "permission denied to start WAL sender", "run `ALTER ROLE {role} REPLICATION` as a superuser", Denied
    ),
    Refusal(
        "permission denied to use replication slots",
        "run `ALTER ROLE {role} REPLICATION` as a superuser",
        Denied,
    ),
    Refusal(
        "must be superuser or replication role", "run `ALTER ROLE {role} REPLICATION` as a superuser", Denied
    ),
    Refusal(
        "requested standby connections",
        "raise max_wal_senders on the server: a backup takes one",
        Unavailable,
    ),
    Refusal(
        "replication slots are in use",
        "raise max_replication_slots on the server: a backup takes one",
        Unavailable,
    ),
    Refusal("wal_level", "set wal_level = replica on the server and restart it", Invalid),
    Refusal(
        "SSL support is not compiled in",
        "the programs here speak no TLS: give DATABASE_URL a private address or a tunnel, with sslmode=prefer",
        Invalid,
    ),
    Refusal(
        "No space left on device", "free some of the backups' disk, or move RAYMILL_BACKUP_DIR", DiskFull
    ),
    Refusal(
        "checksum verification failed", "the server's disk is damaged: restore an earlier backup", Invalid
    ),
)


@contextmanager
def kept_from_here(connection: psycopg.Connection[tuple[object, ...]], name: str) -> Iterator[None]:
    """No WAL from now on is removed until the block ends, or the connection, however that ends.

    Raises:
        Denied, Invalid, Unavailable: the server does not allow it; the message holds the cure.
    """
    try:
        connection.execute("SELECT pg_create_physical_replication_slot(%s, true, true)", (name,))
    except psycopg.Error as error:
        raise refusal(str(error), connection.info.user) from error
    yield
    connection.execute("SELECT pg_drop_replication_slot(%s)", (name,))


def base_backup(programs: Path, dsn: str, target: Path) -> None:
    """Copy all of the server into `target / "base.tar"`, with the WAL that makes it consistent.

    Args:
        target: must not exist.

    Raises:
        Denied, Invalid, Unavailable, DiskFull: it is refused; the message holds the cure.
    """
    arguments = ["--pgdata", str(target), "--format=tar", "--wal-method=fetch", "--checkpoint=fast"]
    arguments += ["--sync-method=syncfs", "--no-password"]
    _run(programs / "pg_basebackup", dsn, arguments)


def receive_until(
    programs: Path, dsn: str, base: Path, target: Path, connection: psycopg.Connection[tuple[object, ...]]
) -> None:
    """Receive into `target` what the server has written from the last segment in `base` on, up to now.

    Args:
        connection: in autocommit.
    """
    (written,) = json.loads((base / "backup_manifest").read_text())["WAL-Ranges"]
    target.mkdir(mode=0o700)
    # The receiver goes on where it finds an unfinished segment.
    (target / f"{_one(connection, 'SELECT pg_walfile_name(%s)', written['End-LSN'])}{PARTIAL}").touch()
    emit = "SELECT pg_logical_emit_message(true, 'raymill', 'backup')::text"
    until = _one(connection, emit)
    _one(connection, emit)  # it ends once it sees more than was asked for
    arguments = ["--directory", str(target), f"--endpos={until}", "--no-loop", "--no-password"]
    _run(programs / "pg_receivewal", dsn, arguments, timeout_s=REACH_S)
    for path in target.glob(f"*{PARTIAL}"):
        path.rename(path.with_suffix(""))


def _one(
    connection: psycopg.Connection[tuple[object, ...]], statement: LiteralString, *values: object
) -> object:
    row = connection.execute(statement, values).fetchone()
    assert row is not None
    return row[0]


def without_password(dsn: str) -> tuple[str, dict[str, str]]:
    """An address that others may read, and the environment that holds the password.

    Other secrets, such as a client key's (`sslpassword`), are left out: libpq has no variable for them, and the programs
    here speak no TLS, so they have no use for them.
    """
    parts = {key: str(value) for key, value in conninfo_to_dict(dsn).items() if value is not None}
    password = parts.get("password")
    secret = {option.keyword.decode() for option in Conninfo.get_defaults() if option.dispchar == b"*"}
    parts = {key: value for key, value in parts.items() if key not in secret}
    return make_conninfo("", **parts), {
        **os.environ,
        "LC_ALL": "C",
        **({"PGPASSWORD": password} if password else {}),
    }


def refusal(said: str, role: str) -> RaymillError:
    """An error with its cure, for what a program or the server said."""
    line = telling_line(said)
    for each in REFUSALS:
        if each.said in said:
            return each.error(f"the server cannot be copied ({line}): {each.cure.format(role=role)}")
    return Unavailable(
        f"the server cannot be copied ({line}): it must be PostgreSQL {MAJOR}, reachable, and let role {role} replicate"
    )


def _run(program: Path, dsn: str, arguments: list[str], *, timeout_s: float | None = None) -> None:
    address, environment = without_password(dsn)
    try:
        done = subprocess.run(
            [str(program), "--dbname", address, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(
            f"{program.name} did not end within {error.timeout:.0f} s: is the server reachable?"
        ) from error
    if done.returncode != 0:
        raise refusal(done.stderr or done.stdout, str(conninfo_to_dict(dsn).get("user")))
