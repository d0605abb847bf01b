"""`raymill up`: start the service in the background and wait until it answers."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from raymill.cluster import processes
from raymill.cluster.joining import require_database
from raymill.cluster.ray_head import DIRECT
from raymill.cluster.service import read_service
from raymill.cluster.settings import Settings
from raymill.policies.errors import Conflict, NotFound, RaymillError, Unavailable

READY_S = 600.0
ELSEWHERE_S = 120.0
"""So long a shared folder may keep the lock of a machine that is gone."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="raymill up", description="Start the service and wait until it answers."
    )
    parser.add_argument("--port", type=int, help="HTTP port (default 8000, or RAYMILL_PORT)")
    parser.add_argument("--address", help="join the Ray cluster whose GCS listens at HOST:PORT")
    parser.add_argument("--dashboard-url", help="of that cluster (default http://127.0.0.1:8265)")
    parser.add_argument("--database-url", help="Postgres 15 or newer (default: an embedded one)")
    arguments = parser.parse_args()
    for name, value in vars(arguments).items():
        if value is not None:
            os.environ[f"RAYMILL_{name.upper()}"] = str(value)
    try:
        settings = Settings()
        require_database(settings)
        url = start(settings)
    except (RaymillError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    others = "" if settings.tls_cert is None else f", others by TLS on port {settings.tls_port}"
    sys.stdout.write(f"Raymill answers at {url}{others}; state lies under {settings.home}\n")


def start(settings: Settings) -> str:
    """Start the supervisor unless one runs, and wait until the service is ready. Returns its URL.

    Raises:
        Unavailable: it did not come up; the message says what to read.
    """
    log = settings.logs_dir / "supervisor.log"
    child: subprocess.Popen[bytes] | None = None
    begun = time.monotonic()
    while time.monotonic() < begun + READY_S:
        if child is None and supervisor_pid(settings) is None:
            child = _spawn(settings, log)
        if child is None and time.monotonic() > begun + ELSEWHERE_S:
            refuse_elsewhere(settings)
        url = _ready(settings)
        if url is not None:
            return url
        if child is not None and child.poll() is not None:
            raise Unavailable(f"the service did not start: {_last_error(log)}")
        time.sleep(0.2)
    raise Unavailable(f"the service was not ready within {READY_S:.0f} s: read {log.parent}")


def refuse_elsewhere(settings: Settings) -> None:
    """Raises Conflict where another machine that shares the home runs the service."""
    with contextlib.suppress(NotFound):
        if not (service := read_service(settings)).is_here:
            host = service.machine.partition("/")[0]
            raise Conflict(
                f"the service of {settings.home} runs on {host}, where it answers; end it there with `raymill down`"
            )


def supervisor_pid(settings: Settings) -> int | None:
    """Of the running supervisor."""
    from raymill.cluster.supervisor import lock

    try:
        lock(settings.home).close()
    except Conflict:
        try:
            return read_service(settings).supervisor_pid
        except NotFound:
            return -1  # it runs, but has not come far yet
    return None


def _spawn(settings: Settings, log: Path) -> subprocess.Popen[bytes]:
    _refuse_taken_port(settings.port)
    if settings.tls_cert is not None:
        _refuse_taken_port(settings.tls_port)
    settings.service_file.unlink(missing_ok=True)
    return processes.spawn([sys.executable, "-m", "raymill.cluster.supervisor"], log=log, env=os.environ)


def _refuse_taken_port(port: int) -> None:
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            raise Unavailable(
                f"port {port} is taken: stop what listens there or choose another (--port, RAYMILL_TLS_PORT)"
            ) from None


def _ready(settings: Settings) -> str | None:
    try:
        url = read_service(settings).url
        with DIRECT.open(f"{url}/readyz", timeout=2):
            return url
    except (NotFound, urllib.error.URLError, OSError, ValueError):
        return None


def _last_error(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line.partition(": ")[2] for line in lines if " ERROR " in line]
    return errors[-1] if errors else (lines[-1] if lines else f"read {log}")


if __name__ == "__main__":
    main()
