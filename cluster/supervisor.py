"""The service's root process: `python -m raymill.cluster.supervisor`, started by `raymill up`.

Keeps alive: Postgres (when embedded), Ray's head (unless a cluster is joined), the job engine, the Serve
reconciler, the warm process and the TLS listener (when they are wanted). Has backups taken as often as the settings
say. Holds nothing of record: whatever is killed is started again and reads Postgres. When it is killed itself, the
next `raymill up` ends what it left and starts anew.
"""

from __future__ import annotations

import fcntl
import http
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO

import psutil

from raymill.cluster import logs, processes, tls
from raymill.cluster.backup.schedule import is_due
from raymill.cluster.front import Front
from raymill.cluster.joining import require_database
from raymill.cluster.ray_head import (
    DIRECT,
    RayHead,
    forget,
    plan_head,
    ray_environment,
    ray_temp_dir,
    start_head,
    warm_socket,
)
from raymill.cluster.service import Service, write_service
from raymill.cluster.settings import Settings, secret_file
from raymill.policies.errors import Conflict, RaymillError, Unavailable
from raymill.registry import identity
from raymill.registry.signing_keys import KeyRing

log = logging.getLogger(__name__)

TEND_S = 0.5
HEAD_START_S = 300.0
"""A head that gives up ends by itself; one that is slow on a busy machine would be slower yet if it began anew."""
HEAD_ATTEMPTS = 3
BACK_S = 45.0
"""For the service to answer again by itself after its head was lost."""
SETTLED_S = 30.0
"""A head that dies sooner than so long after its start is followed by one that knows nothing of it."""
LEAVE_S = 60.0
MARK = "RAYMILL_SERVICE"
"""In the environment of all that a service starts, so that what a dead supervisor left can be found."""

ENGINE = "engine"
CHILDREN = {"reconciler": "raymill.serve.reconciler", ENGINE: "raymill.cluster.engine"}
"""In the order in which they start: what answers people first."""

WARM = "warm"
"""The process that heavy jobs are copies of. It outlives Ray's head, and ends with all that is left at the end."""

BACKUP_POLL_S = 60.0
"""Between two looks whether a backup is due; ten of them after one that failed."""

WAL = "wal"
"""The process that receives the WAL for backups; the server keeps for it what it misses."""

MODULES = {**CHILDREN, WARM: "raymill.cluster.warm.server", WAL: "raymill.cluster.backup"}

RESTART_S = 2.0
PAUSES_S = {WARM: 60.0, WAL: 10.0}
"""Between two starts of a part that dies again and again. The warm process takes ten seconds of a core each time."""


class Supervisor:
    """Starts the parts in order, starts again what dies, stops them in reverse."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        os.environ[MARK] = str(settings.home)
        self._environment = {**ray_environment(settings), "RAYMILL_PYTHON": sys.executable}
        self._head: RayHead | None = None
        self._head_process: subprocess.Popen[bytes] | None = None
        self._head_at = 0.0
        self._joined = False
        """Our applications on somebody else's cluster are ours to end."""
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._restarted_at: dict[str, float] = {}
        self._warm = warm_socket(settings)
        self._backup: subprocess.Popen[bytes] | None = None
        self._backup_at = 0.0
        self._front = _front(settings)
        self.stopping = threading.Event()

    def start(self) -> None:
        """Postgres, schema and keys first; then Ray; then what needs both; the door for others last."""
        if self._settings.tls_cert is not None and self._settings.tls_key is not None:
            tls.read_pair(self._settings.tls_cert, self._settings.tls_key)
        require_database(self._settings)
        self._tend_postgres()
        database = self._settings.open_database()
        database.migrate()
        admin_key = secret_file(self._settings.keys_dir / "admin.key", identity.new_key())
        with database.transaction() as session:
            identity.ensure_admin(session, admin_key)
            identity.ensure_code_account(session, self._settings.code_key)
        database.close()
        KeyRing(self._settings.signing_dir).create_if_missing()
        self._settings.secret_box.create_if_missing()
        forget(self._settings)
        self._start_head()
        self._start_parts()
        if self._warm is not None:
            self._start_child(WARM)
        if self._settings.backup_wal:
            self._start_child(WAL)
        if self._front is not None:
            self._front.start(self._environment)

    def tend(self) -> None:
        """Start again what has died."""
        self._tend_postgres()
        if self._head_process is not None and self._head_process.poll() is not None:
            log.warning("Ray's head died (exit %s): starting another", self._head_process.returncode)
            self._clear_head()
            known = time.monotonic() - self._head_at > SETTLED_S
            if not known:
                forget(self._settings)  # what it knew may be why it died
            self._start_head()
            if known:
                # Serve knows what it ran; our own parts would only take the cores from it.
                self._wait_for(partial(answers, self._settings), BACK_S)
            self._start_parts()
        for name, child in self._children.items():
            pause_s = PAUSES_S.get(name, RESTART_S)
            if child.poll() is not None and time.monotonic() - self._restarted_at[name] > pause_s:
                log.warning("%s died (exit %s): starting it again", name, child.returncode)
                self._start_child(name)
        self._tend_backups()
        if self._front is not None:
            self._front.tend(self._environment)

    def stop(self) -> None:
        if self._front is not None:
            self._front.stop()
        self._stop_children()
        if self._joined:
            self._leave()
        if self._head_process is not None:
            processes.end_tree(self._head_process.pid)
        # Serve's proxy and replicas are nobody's children once their parent is gone.
        processes.end_all(leftovers(self._settings))
        self._settings.service_file.unlink(missing_ok=True)
        embedded = self._settings.embedded_postgres
        if embedded is not None:
            embedded.stop()

    def _tend_postgres(self) -> None:
        embedded = self._settings.embedded_postgres
        if embedded is not None and not embedded.is_running():
            log.info("starting Postgres in %s", embedded.data_dir)
            embedded.ensure_running()

    def _tend_backups(self) -> None:
        """Have a backup taken where one is due. In a process of its own, which gives way to all others."""
        every_s = self._settings.backup_every_s
        if self._backup is not None and self._backup.poll() is not None:
            failed, self._backup = self._backup.returncode != 0, None
            self._backup_at = time.monotonic() + BACKUP_POLL_S * (10 if failed else 1)
            if failed:
                log.error("the backup failed: see %s", self._settings.logs_dir / "backup.log")
        if every_s is None or self._backup is not None or time.monotonic() < self._backup_at:
            return
        self._backup_at = time.monotonic() + BACKUP_POLL_S
        try:
            due = is_due(self._settings.backups_dir, every_s)
        except (OSError, ValueError) as error:  # the folder's disk is away: no reason for the service to stop
            log.error("%s cannot be looked at: %s", self._settings.backups_dir, error)
            self._backup_at = time.monotonic() + BACKUP_POLL_S * 10
            return
        if due:
            self._backup = processes.spawn(
                [sys.executable, "-m", "raymill.cluster.backup", "scheduled"],
                log=self._settings.logs_dir / "backup.log",
                env=self._environment,
            )

    def _start_head(self) -> None:
        if self._settings.address is not None:
            self._join()
            self._write_service(self._settings.address, self._settings.dashboard_url)
            return
        # The same addresses after a restart: who holds them may go on.
        self._head = self._head or plan_head(self._settings)
        for attempt in range(1, HEAD_ATTEMPTS + 1):
            self._head_at = time.monotonic()
            self._head_process = start_head(self._head, self._settings)
            if self._wait_for(self._head.is_alive) or self.stopping.is_set():
                break
            # On a machine that is too busy Ray gives up on its own processes after 30 s. Or it was what an earlier one left.
            log.warning("Ray's head did not start (attempt %d of %d)", attempt, HEAD_ATTEMPTS)
            processes.end_tree(self._head_process.pid)
            forget(self._settings)
        else:
            raise Unavailable(
                f"Ray's head did not start in {HEAD_ATTEMPTS} attempts: see {self._settings.logs_dir / 'ray.log'}"
            )
        self._write_service(self._head.address, self._head.dashboard_url)

    def _join(self) -> None:
        """See that the cluster is fit for this service; in a process of its own, which may import Ray."""
        command = [sys.executable, "-m", "raymill.cluster.joining"]
        log.info("looking at the Ray cluster at %s", self._settings.address)
        done = subprocess.run(command, env=self._environment, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            said = done.stdout.strip().splitlines()
            raise Unavailable(
                said[-1] if said else f"the cluster at {self._settings.address} cannot be joined"
            )
        self._joined = True

    def _leave(self) -> None:
        """End what Serve runs for us there, whose processes are Ray's; in a process of its own, which may import Ray."""
        command = [sys.executable, "-m", "raymill.cluster.leaving"]
        try:
            subprocess.run(command, env=self._environment, timeout=LEAVE_S, check=True)
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
            log.warning("what Serve runs at %s may not have ended: %s", self._settings.address, error)

    def _start_parts(self) -> None:
        for name in CHILDREN:
            if name == ENGINE and not self._takes_jobs():
                return
            self._start_child(name)

    def _takes_jobs(self) -> bool:
        """Wait for Ray's dashboard, to which the engine hands jobs and which comes last. A head without one is ended."""
        head = self._head
        if head is None or self._wait_for(partial(node_is_alive, head.dashboard_url, self._settings)):
            return True
        if self._head_process is not None and not self.stopping.is_set():
            log.warning("Ray's dashboard did not start: starting the head again")
            processes.end_tree(self._head_process.pid)
        return False

    def _wait_for(self, is_there: Callable[[], bool], timeout_s: float = HEAD_START_S) -> bool:
        """Whether it came while the head lived. What needs it starts only then: it would slow the head's own start down."""
        assert self._head_process is not None
        deadline = time.monotonic() + timeout_s
        while self._head_process.poll() is None and time.monotonic() < deadline:
            if is_there():
                return True
            if self.stopping.wait(0.2):
                return False
        return False

    def _write_service(self, address: str, dashboard_url: str) -> None:
        write_service(
            self._settings,
            Service(
                url=f"http://{self._settings.local_host}:{self._settings.port}",
                ray_address=address,
                dashboard_url=dashboard_url,
                supervisor_pid=os.getpid(),
            ),
        )
        # The job submission client and `ray` commands find the cluster by these.
        self._environment |= {"RAY_ADDRESS": address, "RAY_API_SERVER_ADDRESS": dashboard_url}

    def _start_child(self, name: str) -> None:
        self._restarted_at[name] = time.monotonic()
        arguments = {WARM: [str(self._warm)], WAL: ["receive"]}.get(name, [])
        self._children[name] = processes.spawn(
            [sys.executable, "-m", MODULES[name], *arguments],
            log=self._settings.logs_dir / f"{name}.log",
            env=self._environment,
        )

    def _clear_head(self) -> None:
        """Kill what a dead head left, and what was tied to it. All of it may be killed at any moment, and asking it to end
        takes most of a minute: it would tell a head that is not there first."""
        for name in CHILDREN:
            self._children.pop(name, None)
        stay = {child.pid for child in self._children.values()}
        families = [self._children.get(WAL), self._backup, self._front]
        for each in families:
            if each is not None and each.pid is not None:
                stay |= {each.pid, *processes.descendants(each.pid)}
        # Not the warm process's family: those are copies, and belong to the head's jobs.
        processes.kill_all([each for each in leftovers(self._settings) if each.pid not in stay])

    def _stop_children(self) -> None:
        for name in CHILDREN.keys() & self._children.keys():
            processes.end_tree(self._children.pop(name).pid)


def _front(settings: Settings) -> Front | None:
    """The listener that speaks TLS, where there is a certificate for it."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return Front(
        cert=settings.tls_cert,
        key=settings.tls_key,
        host=settings.tls_host,
        port=settings.tls_port,
        service=f"{settings.local_host}:{settings.port}",
        front_key=settings.front_key,
        folder=ray_temp_dir(settings) / "tls",
        log_file=settings.logs_dir / "tls.log",
    )


def leftovers(settings: Settings) -> list[psutil.Process]:
    """What a service under this home has started and is still alive, Postgres apart."""
    return processes.belonging_to(MARK, str(settings.home), ray_temp_dir(settings))


def node_is_alive(dashboard_url: str, settings: Settings) -> bool:
    """Whether Ray's dashboard answers and lists a living node."""
    token = (settings.keys_dir / "ray.token").read_text().strip()
    request = urllib.request.Request(
        f"{dashboard_url}/api/v0/nodes", headers={"Authorization": f"Bearer {token}"}
    )
    try:
        with DIRECT.open(request, timeout=5) as answer:
            nodes = json.load(answer)["data"]["result"]["result"]
    except (urllib.error.URLError, OSError, ValueError, LookupError, TypeError):
        return False
    return any(node["state"] == "ALIVE" for node in nodes)


def answers(settings: Settings) -> bool:
    """Whether a gateway does, if only that it wants a key."""
    try:
        DIRECT.open(f"http://{settings.local_host}:{settings.port}/v1/models", timeout=5).close()
    except urllib.error.HTTPError as error:
        return error.code == http.HTTPStatus.UNAUTHORIZED
    except OSError:
        return False
    return True


def lock(home: Path) -> IO[bytes]:
    """Hold the home for this supervisor; the lock goes with the process.

    Raises:
        Conflict: another supervisor holds it.
    """
    home.mkdir(parents=True, exist_ok=True)
    file = (home / "supervisor.lock").open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise Conflict(f"a service runs under {home} already: `raymill down` stops it") from None
    return file


def main() -> None:
    logs.set_up("supervisor")
    settings = Settings()
    try:
        held = lock(settings.home)
        processes.end_all(leftovers(settings))
        supervisor = Supervisor(settings)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: supervisor.stopping.set())
        try:
            supervisor.start()
            log.info("service started under %s", settings.home)
            while not supervisor.stopping.wait(TEND_S):
                try:
                    supervisor.tend()
                except (
                    RaymillError,
                    OSError,
                ) as error:  # a Postgres that is killed while it starts; a full disk
                    log.warning("%s: trying again", error)
        finally:
            log.info("stopping")
            supervisor.stop()
        held.close()
    except RaymillError as error:
        log.error("%s", error)
        sys.exit(1)


if __name__ == "__main__":
    main()
