"""A new PostgreSQL data directory: all of it, with its role and its database, or nothing.

Knows nothing of running servers.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
from pathlib import Path

from raymill.policies.errors import Unavailable
from raymill.registry.files import flush_folder, write_private
from raymill.registry.postgres_host import SystemUser, telling_line


def create_data_dir(data_dir: Path, *, role: str, password: str, user: SystemUser, bin_dir: Path) -> None:
    """Make `data_dir` with a database `role` owned by a role `role`. The caller holds a lock.

    Built beside `data_dir` and renamed when it is complete, so a half-made one is never taken for real.

    Raises:
        Unavailable: initdb failed (a full disk, say). What it had made is removed.
    """
    half_made = data_dir.with_name(f"{data_dir.name}.new")
    superuser_password = half_made.with_name(f"{half_made.name}.password")
    shutil.rmtree(half_made, ignore_errors=True)
    try:
        half_made.mkdir()
        user.own(half_made, 0o700)
        # initdb demands a superuser password. It is thrown away: nobody logs in as the superuser.
        write_private(superuser_password, secrets.token_urlsafe(24))
        user.own(superuser_password, 0o600)
        initdb = [str(bin_dir / "initdb"), f"--pgdata={half_made}", "--username=postgres"]
        initdb += [f"--pwfile={superuser_password}", "--auth=scram-sha-256", "--encoding=UTF8"]
        initdb += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        _must(user.run(initdb), f"initdb for {data_dir}")
        # Single-user mode: no port is open yet, and the superuser needs no password.
        statements = (
            f"CREATE ROLE {role} LOGIN CREATEDB REPLICATION PASSWORD '{password}'",
            f"GRANT pg_monitor, pg_signal_backend, pg_checkpoint TO {role}",
            f"CREATE DATABASE {role} OWNER {role}",
        )
        single = [str(bin_dir / "postgres"), "--single", "-D", str(half_made)]
        single += ["-c", "exit_on_error=on", "postgres"]
        _must(user.run(single, stdin_text="\n".join(statements) + "\n"), f"the first database in {data_dir}")
        half_made.rename(data_dir)
        flush_folder(data_dir.parent)
    finally:
        superuser_password.unlink(missing_ok=True)
        shutil.rmtree(half_made, ignore_errors=True)


def _must(done: subprocess.CompletedProcess[str], what: str) -> None:
    if done.returncode != 0:
        raise Unavailable(f"{what} failed: {telling_line(done.stdout)}")
