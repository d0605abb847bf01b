"""An embedded PostgreSQL under our own supervision, for when DATABASE_URL is not set.

The server belongs to no process of ours: it lives on in its own session when the one that started it
dies, and any other process finds it again by its data directory. After `kill -9` of the server the next
`ensure_running` starts it again, with all that was committed, on the same port where that is still free.

Beside the data directory lie `<name>.password` (0600), `<name>.port`, `<name>.lock` and `<name>.log`.
For root the data directory belongs to another user, so root never writes into it. A data directory
belongs to one machine. Knows nothing of schemas. Times are seconds, sizes bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg

from raymill.policies.errors import Unavailable
from raymill.registry.files import locked, make_folder, read_or_empty, write_private
from raymill.registry.postgres_create import create_data_dir
from raymill.registry.postgres_host import (
    HOST,
    MAJOR,
    SystemUser,
    command_line,
    free_port,
    process_ids,
    programs,
    server_user,
    telling_line,
)

NAME = "raymill"
"""Both the database and the role that owns it. The superuser `postgres` has no usable password."""

POLL_S = 0.05
START_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class PostgresConfig:
    shared_buffers_mb: int = 128
    """PostgreSQL's own page cache; the operating system's comes on top."""

    max_connections: int = 200

    start_timeout_s: float = 60.0
    """How long `ensure_running` waits for its turn, and again for the start with its crash recovery."""

    stop_timeout_s: float = 30.0
    """After this a fast shutdown becomes an immediate one, which loses nothing but needs recovery."""

    log_bytes: int = 16 << 20
    """A longer log is emptied into `.log.1` by the next `ensure_running`; the one before that is dropped."""

    def __post_init__(self) -> None:
        if self.shared_buffers_mb < 1 or self.max_connections < 10:
            raise ValueError(
                f"shared_buffers_mb must be at least 1 and max_connections at least 10, "
                f"got {self.shared_buffers_mb} and {self.max_connections}"
            )


class EmbeddedPostgres:
    """One server, named by its data directory. Holds no state: any number of processes may have one."""

    def __init__(self, data_dir: Path, config: PostgresConfig | None = None) -> None:
        # Resolved, so that whoever comes by a link sees the same server and not a stranger's.
        self.data_dir = data_dir.resolve()
        self.config = config or PostgresConfig()
        self.password_file = self._beside("password")
        self.log_file = self._beside("log")
        self._port_file = self._beside("port")
        self._lock_file = self._beside("lock")
        # Part of the title of every server process, so a crashed server's orphans can be told apart.
        self.cluster_name = f"{NAME}-{hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:12]}"

    def ensure_running(self) -> str:
        """Start the server if it is not there, and return once it takes connections.

        Returns:
            SQLAlchemy URL, password included. Never log it.

        Raises:
            Unavailable: it does not start; the message holds the last line of its log.
        """
        self._trim_log()
        if self._answers():
            return self.url()
        user = server_user()
        make_folder(self.data_dir.parent)
        user.require_entry(self.data_dir.parent)
        with locked(self._lock_file, timeout_s=self.config.start_timeout_s):
            deadline = time.monotonic() + self.config.start_timeout_s
            for _ in range(START_ATTEMPTS):
                if self.pid() is None:
                    self._start(user)
                if self._wait_until_answers(deadline):
                    return self.url()
        raise Unavailable(
            f"PostgreSQL in {self.data_dir} took no connections for {self.config.start_timeout_s:.0f} s: "
            f"{self._last_log_line()}"
        )

    def is_running(self) -> bool:
        """The server's main process is alive. It may still be in recovery, which `ensure_running` awaits."""
        return self.pid() is not None

    def pid(self) -> int | None:
        """Process id of the running server's main process. A stale postmaster.pid is seen through."""
        lines = self._pid_lines()
        if not lines or not lines[0].isdecimal():
            return None
        pid = int(lines[0])
        command = command_line(pid)
        # The number may since have gone to a stranger, or to a zombie that nobody reaps.
        ours = command and Path(command[0]).name == "postgres" and str(self.data_dir) in command
        return pid if ours else None

    def url(self) -> str:
        """SQLAlchemy URL of the server, running or not.

        Raises:
            Unavailable: it was never started.
        """
        return f"postgresql+psycopg://{NAME}:{self._password()}@{HOST}:{self._port()}/{NAME}"

    def stop(self) -> None:
        """End the server: committed work is kept, open transactions roll back. No-op when it is not running.

        Raises:
            Unavailable: it is still there after twice `stop_timeout_s`.
        """
        if not self.is_running():
            return
        with locked(self._lock_file, timeout_s=self.config.start_timeout_s):
            for stop_signal in (signal.SIGINT, signal.SIGQUIT):  # PostgreSQL's fast and immediate shutdown
                pid = self.pid()
                if pid is None:
                    return
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, stop_signal)
                if _wait_until(lambda: self.pid() is None, self.config.stop_timeout_s):
                    return
        raise Unavailable(f"PostgreSQL in {self.data_dir} does not stop: end process {self.pid()} by hand")

    # --- starting, under the lock -------------------------------------------------------------------

    def _start(self, user: SystemUser) -> None:
        bin_dir = programs(user, self.data_dir.parent)
        if not self.data_dir.exists() or not any(self.data_dir.iterdir()):
            if not self.password_file.exists():
                write_private(self.password_file, secrets.token_urlsafe(24))
            create_data_dir(self.data_dir, role=NAME, password=self._password(), user=user, bin_dir=bin_dir)
        self._refuse_other_data()
        self._clear_after_crash()
        port = free_port(self._last_port(), seed=self.cluster_name)
        if port != self._last_port():
            write_private(self._port_file, str(port))
        log_bytes = self._log_bytes()
        settings = " ".join(f"-c {key}={value}" for key, value in self._settings(port).items())
        command = [str(bin_dir / "pg_ctl"), "start", "--silent", "--wait", f"--pgdata={self.data_dir}"]
        command += [f"--timeout={max(1, int(self.config.start_timeout_s))}", f"--options={settings}"]
        # pg_ctl leaves the server a child of init, in a session of its own, writing to our log.
        done = user.run(command, output=self.log_file, timeout_s=self.config.start_timeout_s + 10)
        if done.returncode != 0 and self.pid() is None and not self._port_was_taken(log_bytes):
            raise Unavailable(f"PostgreSQL in {self.data_dir} does not start: {self._last_log_line()}")

    def _refuse_other_data(self) -> None:
        major = read_or_empty(self.data_dir / "PG_VERSION").strip()
        if major != str(MAJOR):
            found = f"data of PostgreSQL {major}" if major else "files that are no PostgreSQL data"
            raise Unavailable(
                f"{self.data_dir} holds {found}, the server here is {MAJOR}: move it away, then restore a backup"
            )

    def _clear_after_crash(self) -> None:
        """Make way for a start: end what a killed server left running, and drop its pid file.

        PostgreSQL drops a stale pid file by itself, and with more checks, unless the number now belongs
        to somebody else or to a zombie; only we know that this process is not the server.
        """
        _wait_until(lambda: not self._end_orphans(), self.config.stop_timeout_s)
        lines = self._pid_lines()
        if lines and (not lines[0].isdecimal() or int(lines[0]) in process_ids()):
            (self.data_dir / "postmaster.pid").unlink(missing_ok=True)

    def _end_orphans(self) -> bool:
        """True when there were any. Without their main process they can commit nothing more that counts."""
        title = f"postgres: {self.cluster_name}:"
        orphans = [pid for pid in process_ids() if " ".join(command_line(pid)).startswith(title)]
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(orphans)

    def _settings(self, port: int) -> dict[str, str | int]:
        """Given on the command line, so they win over postgresql.conf. pg_ctl hands them to a shell."""
        return {
            "listen_addresses": HOST,
            "port": port,
            "unix_socket_directories": "''",
            "cluster_name": self.cluster_name,
            "max_connections": self.config.max_connections,
            "shared_buffers": f"{self.config.shared_buffers_mb}MB",
            "fsync": "on",
            "full_page_writes": "on",
            "synchronous_commit": "on",
            "password_encryption": "scram-sha-256",
            "max_wal_size": "512MB",
            "max_slot_wal_keep_size": "4GB",
            "jit": "off",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "'%m [%p] %u@%d '",
        }

    # --- looking ------------------------------------------------------------------------------------

    def _answers(self) -> bool:
        if self.pid() is None:
            return False
        try:
            with psycopg.connect(
                host=HOST,
                port=self._port(),
                user=NAME,
                password=self._password(),
                dbname=NAME,
                connect_timeout=5,
            ):
                return True
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise Unavailable(
                    f"PostgreSQL in {self.data_dir} refuses the password in {self.password_file}: "
                    "restore that file from a backup"
                ) from error
            return False

    def _wait_until_answers(self, deadline: float) -> bool:
        """False when the time is up, or when the server went away and is worth another start."""
        while time.monotonic() < deadline and self.pid() is not None:
            if self._answers():
                return True
            time.sleep(POLL_S)
        return False

    def _password(self) -> str:
        password = read_or_empty(self.password_file)
        if not password:
            raise Unavailable(f"the password file {self.password_file} is missing: restore it from a backup")
        return password.strip()

    def _pid_lines(self) -> list[str]:
        return read_or_empty(self.data_dir / "postmaster.pid").splitlines()

    def _port(self) -> int:
        lines = self._pid_lines()
        port = int(lines[3]) if len(lines) > 3 and lines[3].isdecimal() else self._last_port()
        if port is None:
            raise Unavailable(f"PostgreSQL in {self.data_dir} was never started: run `raymill up`")
        return port

    def _last_port(self) -> int | None:
        text = read_or_empty(self._port_file).strip()
        return int(text) if text.isdecimal() else None

    def _port_was_taken(self, log_bytes_before: int) -> bool:
        with self.log_file.open("rb") as log:
            log.seek(log_bytes_before)
            return b"Address already in use" in log.read()

    def _last_log_line(self) -> str:
        return telling_line(read_or_empty(self.log_file))

    def _log_bytes(self) -> int:
        return self.log_file.stat().st_size if self.log_file.exists() else 0

    def _trim_log(self) -> None:
        # Copied and emptied, not renamed: a running server keeps its file open.
        if self._log_bytes() > self.config.log_bytes:
            shutil.copy2(self.log_file, self._beside("log.1"))
            os.truncate(self.log_file, 0)

    def _beside(self, suffix: str) -> Path:
        return self.data_dir.with_name(f"{self.data_dir.name}.{suffix}")


def _wait_until(true: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
