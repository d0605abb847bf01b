"""`raymill down`: stop the service. Running jobs are started again by the next `raymill up`."""

from __future__ import annotations

import sys

import psutil

from raymill.cluster import processes
from raymill.cluster.settings import Settings
from raymill.cluster.supervisor import leftovers
from raymill.cluster.up import refuse_elsewhere, supervisor_pid
from raymill.policies.errors import Conflict

STOP_S = 120.0


def main() -> None:
    settings = Settings()
    pid = supervisor_pid(settings)
    if pid is not None:
        try:
            refuse_elsewhere(settings)
        except Conflict as error:
            sys.exit(f"error: {error}")
    if pid is not None and pid > 0:
        psutil.Process(pid).terminate()
        if not processes.wait_until_gone(pid, STOP_S):
            processes.end_tree(pid)
    left = leftovers(settings)
    processes.end_all(left)
    embedded = settings.embedded_postgres
    if embedded is not None and embedded.is_running():
        embedded.stop()
    was_running = pid is not None or bool(left)
    sys.stdout.write("Raymill is stopped\n" if was_running else f"nothing ran under {settings.home}\n")


if __name__ == "__main__":
    main()
