"""The process of a heavy job: `python -m raymill.cluster.driver JOB_ID EPOCH`, run as a Ray job.

It holds the lease itself, so the engine may die and come back meanwhile. Its output goes to Ray's
dashboard and to a log of the attempt that outlives the cluster.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import ray

from raymill.cluster import logs, tracing
from raymill.cluster.attempt import Attempt, open_attempt
from raymill.cluster.job_logs import job_log
from raymill.cluster.processes import give_way
from raymill.cluster.ray_jobs import DRIVER, submission_id
from raymill.cluster.settings import Settings
from raymill.registry.jobs import LeaseLost

EXIT_LEASE_LOST = 75  # EX_TEMPFAIL of sysexits.h


def main() -> None:
    job_id, epoch = uuid.UUID(sys.argv[1]), int(sys.argv[2])
    give_way()
    settings = Settings()
    _tee(job_log(settings, job_id, epoch))
    # Ray's library must be loaded before regopy's (which the registry brings): the other way round the two
    # share C++ symbols and `ray.init` aborts with "munmap_chunk(): invalid pointer" (ray 2.60, regopy 1.5.2).
    assert ray.__version__
    logs.set_up("job")
    logs.about(job_id=str(job_id))
    database = settings.open_database(pool_size=2)
    try:
        attempt = open_attempt(
            database, settings, job_id, epoch, worker=DRIVER + submission_id(job_id, epoch)
        )
    except LeaseLost:
        logging.getLogger(__name__).warning("job %s: epoch %d owns it no longer", job_id, epoch)
        sys.exit(EXIT_LEASE_LOST)
    attempt.event("process", pid=os.getpid())
    _give_back_on_sigterm(attempt, settings.grace_s)
    # Work cannot be interrupted in the middle of a training step; ending the process can. What Ray
    # started for it ends with it.
    state = attempt.run(on_abandon=lambda: os._exit(EXIT_LEASE_LOST))
    logging.getLogger(__name__).info("job %s ended: %s", job_id, state.value if state else "lease lost")
    tracing.flush()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # libraries leave threads behind that would hold the process for seconds


def _give_back_on_sigterm(attempt: Attempt, grace_s: float) -> None:
    """A machine that is taken away, or a service that stops, is no failure of the job. The work may leave a checkpoint
    first; what does not end within `grace_s` is left as it is."""

    def leave() -> None:
        reason = "its machine or the service was stopped"
        try:
            attempt.leave(reason)
        except LeaseLost:
            os._exit(EXIT_LEASE_LOST)
        time.sleep(grace_s)  # when the work ends before, so does the process
        attempt.give_back(reason)
        os._exit(128 + signal.SIGTERM)

    def begin(*_: object) -> None:
        threading.Thread(target=leave, name="leave", daemon=True).start()

    signal.signal(signal.SIGTERM, begin)


def _tee(path: Path) -> None:
    """Copy stdout and stderr, those of native code too, to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tee = subprocess.Popen(["tee", "-a", str(path)], stdin=subprocess.PIPE)  # ends when this process does
    assert tee.stdin is not None
    os.dup2(tee.stdin.fileno(), 1)
    os.dup2(tee.stdin.fileno(), 2)


if __name__ == "__main__":
    main()
