"""The embedded PostgreSQL, real and on this machine: first start, crashes, strangers, other users."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from raymill.policies.errors import Unavailable
from raymill.registry import postgres_host
from raymill.registry.postgres import EmbeddedPostgres, PostgresConfig
from raymill.registry.postgres_host import command_line, process_ids, programs, server_user

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root hands PostgreSQL over to another user")

START_ELSEWHERE = """
import os, sys
from pathlib import Path
from raymill.registry.postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
print(server.ensure_running(), server.pid(), flush=True)
if "die" in sys.argv:
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not tmp_path: pytest makes that 0700, and root's PostgreSQL runs as a user who must pass through.
    path = Path(tempfile.mkdtemp(prefix="raymill-postgres-"))
    path.chmod(0o755)
    yield path
    EmbeddedPostgres(path / "postgres").stop()
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    path = Path(tempfile.mkdtemp(prefix="raymill-postgres-"))
    path.chmod(0o755)
    leftover = path / "postgres.new" / "base"
    leftover.mkdir(parents=True)  # as a start that was killed in the middle of initdb leaves it
    server = EmbeddedPostgres(path / "postgres")
    server.ensure_running()
    yield server
    server.stop()
    assert not server.is_running()
    shutil.rmtree(path)


def connect(
    server: EmbeddedPostgres, user: str | None = None, password: str | None = None
) -> psycopg.Connection[tuple[object, ...]]:
    url = make_url(server.url()).set(drivername="postgresql")
    if user or password:
        url = url.set(username=user or url.username, password=password or url.password)
    return psycopg.connect(url.render_as_string(hide_password=False), connect_timeout=60)


def start_elsewhere(server: EmbeddedPostgres, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", START_ELSEWHERE, str(server.data_dir), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def ids(server: EmbeddedPostgres) -> list[int]:
    return [pid for pid in process_ids() if server.cluster_name in " ".join(command_line(pid))]


def test_the_first_start_gives_an_empty_durable_database_behind_a_password(server: EmbeddedPostgres) -> None:
    engine = create_engine(server.ensure_running())
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT name, setting FROM pg_settings"))
        settings: dict[str, str] = {row.name: row.setting for row in rows}
        tables = connection.execute(text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"))
        assert tables.scalar_one() == 0
        assert (
            connection.execute(text("SELECT rolsuper FROM pg_roles WHERE rolname = 'raymill'")).scalar()
            is False
        )
    engine.dispose()
    assert settings["server_version"].startswith("18.")
    assert (settings["fsync"], settings["full_page_writes"], settings["data_checksums"]) == ("on", "on", "on")
    assert (settings["listen_addresses"], settings["password_encryption"]) == ("127.0.0.1", "scram-sha-256")
    assert (settings["max_connections"], settings["server_encoding"]) == ("200", "UTF8")
    assert server.password_file.stat().st_mode & 0o777 == 0o600
    assert server.data_dir.stat().st_mode & 0o777 == 0o700
    assert not server.data_dir.with_name("postgres.new").exists()


@pytest.mark.parametrize("changed", [{"password": "wrong"}, {"user": "postgres"}])
def test_nobody_gets_in_without_the_password(server: EmbeddedPostgres, changed: dict[str, str]) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connect(server, **changed)


def test_a_second_process_finds_the_running_server(server: EmbeddedPostgres) -> None:
    other = start_elsewhere(server)
    assert other.communicate(timeout=60)[0].split() == [server.ensure_running(), str(server.pid())]


def test_after_kill_9_it_starts_again_with_all_that_was_committed_at_the_same_address(
    server: EmbeddedPostgres,
) -> None:
    url, killed = server.ensure_running(), server.pid()
    assert killed is not None
    with connect(server) as connection:
        connection.execute("CREATE TABLE kept (x int)")
        connection.execute("INSERT INTO kept VALUES (7)")
    # A backend in the middle of a computation does not notice that its main process died.
    busy = connect(server)
    backend = busy.info.backend_pid
    busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 1000000000000)")
    busy.pgconn.flush()
    time.sleep(0.2)
    os.kill(killed, signal.SIGKILL)

    assert server.ensure_running() == url

    assert server.pid() not in (None, killed)
    assert not command_line(backend)
    busy.close()
    with connect(server) as connection:
        assert connection.execute("SELECT x FROM kept").fetchall() == [(7,)]


def test_a_pid_file_that_names_a_living_stranger_does_not_stop_it(server: EmbeddedPostgres) -> None:
    url = server.ensure_running()
    pid_file = server.data_dir / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    server.stop()
    owner = server.data_dir.stat()
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    os.chown(pid_file, owner.st_uid, owner.st_gid)
    assert not server.is_running()
    assert server.ensure_running() == url


def test_a_port_that_was_taken_meanwhile_is_left_to_its_new_owner(server: EmbeddedPostgres) -> None:
    port = make_url(server.ensure_running()).port
    server.stop()
    with socket.create_server(("127.0.0.1", port or 0)):
        assert make_url(server.ensure_running()).port != port
        with connect(server) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_log_that_grew_too_long_is_emptied_under_the_running_server(server: EmbeddedPostgres) -> None:
    server.ensure_running()
    small = EmbeddedPostgres(server.data_dir, PostgresConfig(log_bytes=100))
    assert server.log_file.stat().st_size > 100
    small.ensure_running()
    assert server.log_file.stat().st_size == 0
    assert "ready to accept connections" in server.data_dir.with_name("postgres.log.1").read_text()
    with pytest.raises(psycopg.OperationalError):
        connect(server, password="wrong")
    assert server.log_file.read_text().lstrip("\0").startswith("20")


def test_a_lost_or_wrong_password_file_is_told_at_once(server: EmbeddedPostgres) -> None:
    server.ensure_running()
    password = server.password_file.read_text()
    try:
        server.password_file.write_text("other")
        with pytest.raises(Unavailable, match=r"refuses the password in .*postgres\.password: restore"):
            server.ensure_running()
        server.password_file.unlink()
        with pytest.raises(Unavailable, match=r"postgres\.password is missing: restore"):
            server.ensure_running()
    finally:
        server.password_file.write_text(password)
        server.password_file.chmod(0o600)


def test_four_processes_that_start_it_at_once_get_one_server_that_outlives_them(folder: Path) -> None:
    (folder / "postgres").mkdir()  # an empty folder is as good as none
    server = EmbeddedPostgres(folder / "postgres")
    starters = [start_elsewhere(server, "die") for _ in range(4)]
    answers = {starter.communicate(timeout=120)[0] for starter in starters}
    assert [starter.returncode for starter in starters] == [-signal.SIGKILL] * 4
    assert answers == {f"{server.url()} {server.pid()}\n"}
    (folder / "link").symlink_to(folder)
    assert EmbeddedPostgres(folder / "link" / "postgres").pid() == server.pid()
    with connect(server) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)

    server.stop()
    server.stop()

    assert not server.is_running()
    assert ids(server) == []


def test_a_first_start_that_fails_leaves_no_half_made_data(folder: Path) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, 1 << 18))"  # a full disk
    command = [sys.executable, "-c", limited + START_ELSEWHERE, str(folder / "postgres")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("raymill.policies.errors.Unavailable: initdb for ")
    assert not (folder / "postgres").exists()
    assert not (folder / "postgres.new").exists()

    assert EmbeddedPostgres(folder / "postgres").ensure_running()


def test_a_folder_with_something_else_in_it_is_left_alone(folder: Path) -> None:
    data = folder / "postgres"
    data.mkdir()
    (data / "thesis.txt").write_text("three years of work")
    with pytest.raises(Unavailable, match="holds files that are no PostgreSQL data"):
        EmbeddedPostgres(data).ensure_running()
    (data / "PG_VERSION").write_text("15\n")
    with pytest.raises(Unavailable, match="holds data of PostgreSQL 15, the server here is 18"):
        EmbeddedPostgres(data).ensure_running()
    assert sorted(path.name for path in data.iterdir()) == ["PG_VERSION", "thesis.txt"]


def test_an_address_before_the_first_start_is_refused(folder: Path) -> None:
    with pytest.raises(Unavailable, match="is missing"):
        EmbeddedPostgres(folder / "postgres").url()
    assert not EmbeddedPostgres(folder / "postgres").is_running()


@as_root
def test_root_hands_it_to_a_user_who_cannot_become_root_again(server: EmbeddedPostgres) -> None:
    server.ensure_running()
    status = Path(f"/proc/{server.pid()}/status").read_text().splitlines()
    fields = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    assert "0" not in fields["Uid"].split() + fields["Gid"].split()
    assert fields["Groups"].strip() == ""
    environment = Path(f"/proc/{server.pid()}/environ").read_bytes().split(b"\0")
    assert {item.split(b"=")[0] for item in environment if item} <= {
        *(b"PATH", b"LD_LIBRARY_PATH", b"LC_ALL", b"PWD", b"OLDPWD", b"SHLVL", b"_"),
        *(b"PG_GRANDPARENT_PID", b"PGDATA", b"PGSYSCONFDIR", b"PGLOCALEDIR"),
    }


@as_root
def test_a_closed_parent_folder_is_named_and_stays_closed(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(Unavailable, match=rf"cannot enter {closed}: set RAYMILL_HOME"):
        EmbeddedPostgres(closed / "state" / "postgres").ensure_running()
    assert closed.stat().st_mode & 0o777 == 0o700


@as_root
def test_programs_in_a_closed_folder_are_copied_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = postgres_host._package_folder()
    closed = folder / "venv"
    shutil.copytree(shipped.parent / f"{shipped.name}.libs", closed / f"{shipped.name}.libs")
    shutil.copytree(shipped / "pginstall18", closed / shipped.name / "pginstall18")
    closed.chmod(0o700)
    monkeypatch.setattr(postgres_host, "_package_folder", lambda: closed / shipped.name)

    server = EmbeddedPostgres(folder / "postgres")
    server.ensure_running()

    copy = folder / "postgres-bin-0.6.0"
    assert command_line(server.pid() or 0)[0].startswith(str(copy))
    made_at = copy.stat().st_mtime_ns
    assert programs(server_user(), folder).is_relative_to(copy)
    assert copy.stat().st_mtime_ns == made_at
    assert closed.stat().st_mode & 0o777 == 0o700


@as_root
def test_it_runs_as_an_ordinary_user(folder: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    home = folder / "home"
    home.mkdir(mode=0o700)
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    server = EmbeddedPostgres(home / "postgres")

    def start_kill_start_stop() -> None:
        os.setgroups([])
        os.setresgid(nobody.pw_gid, nobody.pw_gid, nobody.pw_gid)
        os.setresuid(nobody.pw_uid, nobody.pw_uid, nobody.pw_uid)
        url = server.ensure_running()
        os.kill(server.pid() or 0, signal.SIGKILL)
        assert server.ensure_running() == url
        with connect(server) as connection:
            assert connection.execute("SELECT current_user").fetchone() == ("raymill",)
        server.stop()
        assert not server.is_running()

    in_a_fork(start_kill_start_stop)
    assert (home / "postgres").owner() == "nobody"
    assert home.stat().st_mode & 0o777 == 0o700


def in_a_fork(work: Callable[[], None]) -> None:
    """Run `work` in a copy of this process, as another user may not be able to start this Python."""
    pid = os.fork()
    if pid == 0:
        failed = True
        try:
            work()
            failed = False
        finally:  # whatever happened, the child never returns into pytest
            traceback.print_exc()
            os._exit(failed)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
