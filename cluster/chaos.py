"""`make chaos`: kill, stop and restart parts of a running service at random, and count what was lost or doubled.

    python -m raymill.cluster.chaos --rounds 100 --seed 1 [--json]

While jobs with effects are submitted over HTTP, each round does one thing to one part. At the end every job
whose submission was acknowledged must have ended exactly once, have its effect exactly once if it succeeded and not
at all if it did not, and no lease may be older than twice its length. The seed repeats the order of what is done,
not the timing. The command starts a service of its own under a temporary home.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
import psycopg
from sqlalchemy import text

from raymill.cluster.chaos_kinds import EFFECT
from raymill.cluster.ray_head import DIRECT, free_ports
from raymill.cluster.service import read_service
from raymill.cluster.settings import Settings
from raymill.cluster.supervisor import leftovers
from raymill.policies.errors import NotFound, Unavailable
from raymill.registry.database import Database
from raymill.registry.tables import JobState

JOBS = 200
HEAVY_EVERY = 40
"""One job in so many is a heavy one: a Ray job of its own."""

SUBMITTERS = 4
SETTLE_S = 600.0
PAUSE_S = (0.3, 1.5)
"""Between two rounds."""

REPORT_TERMINAL = [state.value for state in JobState if state.terminal]


@dataclass
class Report:
    """What a run of chaos came to. Times are seconds."""

    rounds: int
    seed: int
    kills: dict[str, int] = field(default_factory=dict)
    jobs: int = 0
    succeeded: int = 0
    lost: int = 0
    """Acknowledged, and not there or not ended."""

    doubled: int = 0
    """Jobs with a second effect, or with an effect though they did not succeed, or made twice."""

    stale_leases: int = 0
    slowest_recovery_s: float = 0.0
    """From what was done to the end of the first job that was started after it."""

    wall_s: float = 0.0

    @property
    def good(self) -> bool:
        return self.lost == self.doubled == self.stale_leases == 0 and self.jobs > 0


@dataclass
class Deed:
    """What is done to what in a round."""

    part: str
    how: str

    def __str__(self) -> str:
        return f"{self.how} {self.part}"


DEEDS = [
    *(Deed(part, "kill") for part in ("engine", "driver", "worker", "postgres", "connection", "api")),
    *(Deed(part, "stop") for part in ("engine", "driver", "worker", "api")),
    Deed("engine", "restart"),
    Deed("postgres", "restart"),
]

COMMANDS = {
    "engine": "raymill.cluster.engine",
    "driver": "raymill.cluster.driver",
    "worker": "ray::PoolWorker",
    "api": "ray::ServeReplica:api",
}


class Chaos:
    """Does deeds to a running service while jobs go through it."""

    def __init__(
        self,
        settings: Settings,
        *,
        rounds: int,
        seed: int,
        jobs: int = JOBS,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._settings = settings
        self._random = random.Random(seed)
        self._jobs = jobs
        self._say = say or _say
        self._report = Report(rounds=rounds, seed=seed)
        self._deeds: list[float] = []
        self._acknowledged: list[uuid.UUID] = []
        self._to_submit: list[int] = []
        self._lock = threading.Lock()
        self._run = uuid.uuid4().hex[:12]
        service = read_service(settings)
        self._url = service.url
        self._key = (settings.keys_dir / "admin.key").read_text().strip()

    def run(self) -> Report:
        """Raises Unavailable when the jobs do not end in ten minutes after the last round."""
        started = time.monotonic()
        report = self._report
        each = -(-self._jobs // max(1, report.rounds))
        left = self._jobs
        stop = threading.Event()
        submitters = [threading.Thread(target=self._submit_all, args=(stop,)) for _ in range(SUBMITTERS)]
        for thread in submitters:
            thread.start()
        kills: Counter[str] = Counter()
        for number in range(1, report.rounds + 1):
            with self._lock:
                self._to_submit += range(left - min(each, left), left)
            left -= min(each, left)
            time.sleep(self._random.uniform(*PAUSE_S))
            # What is not there just now (a driver, between heavy jobs) cannot be killed: something else is.
            for deed in self._random.sample(DEEDS, len(DEEDS)):
                if self._do(deed):
                    self._say(f"round {number}/{report.rounds}: {deed}")
                    kills[str(deed)] += 1
                    break
        stop.set()
        for thread in submitters:
            thread.join()
        database = self._settings.open_database()
        try:
            self._settle(database)
            self._count(database)
        finally:
            database.close()
        report.kills = dict(sorted(kills.items()))
        report.wall_s = round(time.monotonic() - started, 1)
        return report

    # What is done.

    def _do(self, deed: Deed) -> bool:
        """Whether there was anything to do it to."""
        if deed.part == "postgres":
            return self._postgres(deed.how)
        if deed.part == "connection":
            return self._cut_connection()
        found = self._processes(COMMANDS[deed.part])
        if not found:
            return False
        victim = self._random.choice(found)
        with suppress(psutil.NoSuchProcess):
            if deed.how == "kill":
                victim.kill()
            elif deed.how == "restart":
                victim.terminate()
            else:
                victim.suspend()
                # Sometimes for less than the lease, sometimes for more.
                time.sleep(self._settings.lease_s * self._random.choice((0.3, 1.3)))
                victim.resume()
            self._deeds.append(time.time())
            return True
        return False

    def _processes(self, command: str) -> list[psutil.Process]:
        found = []
        for process in leftovers(self._settings):
            with suppress(psutil.NoSuchProcess):
                line = process.cmdline()
                # A driver runs below a shell that has its name in its command line too.
                if any(command in part for part in line) and not (
                    line and Path(line[0]).name in {"sh", "bash"}
                ):
                    found.append(process)
        return found

    def _postgres(self, how: str) -> bool:
        embedded = self._settings.embedded_postgres
        pid = embedded.pid() if embedded is not None else None
        if embedded is None or pid is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL if how == "kill" else signal.SIGINT)  # SIGINT: fast shutdown
        self._deeds.append(time.time())
        return True

    def _cut_connection(self) -> bool:
        with suppress(psycopg.Error, OSError, Unavailable, NotFound):
            dsn = self._settings.postgres_dsn
            with psycopg.connect(dsn, autocommit=True, connect_timeout=2) as connection:
                rows = connection.execute(
                    "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'raymill%' "
                    "AND pid <> pg_backend_pid() ORDER BY pid"
                ).fetchall()
                if rows:
                    connection.execute("SELECT pg_terminate_backend(%s)", self._random.choice(rows))
                    self._deeds.append(time.time())
                    return True
        return False

    # What goes on meanwhile.

    def _submit_all(self, stop: threading.Event) -> None:
        while True:
            with self._lock:
                number = self._to_submit.pop() if self._to_submit else None
            if number is None:
                if stop.is_set():
                    return
                time.sleep(0.05)
                continue
            job_id = self._submit(number)
            with self._lock:
                self._acknowledged.append(job_id)

    def _submit(self, number: int) -> uuid.UUID:
        """As a client does: again with the same key until it is acknowledged."""
        heavy = number % HEAVY_EVERY == 0
        body = {
            "kind": "chaos_heavy" if heavy else "chaos",
            "queue": "heavy" if heavy else "short",
            "name": f"chaos-{self._run}",
            "config": {"number": number, "seconds": 2.0 if heavy else round(0.1 + 0.4 * (number % 7) / 6, 2)},
        }
        request = urllib.request.Request(
            f"{self._url}/api/v1/jobs",
            data=json.dumps(body).encode(),
            headers={
                "authorization": f"Bearer {self._key}",
                "content-type": "application/json",
                "idempotency-key": f"{self._run}-{number}",
            },
            method="POST",
        )
        deadline = time.monotonic() + SETTLE_S
        while True:
            try:
                with DIRECT.open(request, timeout=20) as answer:
                    return uuid.UUID(json.load(answer)["id"])
            except urllib.error.HTTPError as error:
                if error.code < 500 and error.code not in {408, 429}:
                    raise Unavailable(
                        f"job {number} was refused: {error.code} {error.read()[:300]!r}"
                    ) from error
            except (OSError, ValueError, KeyError):
                pass
            if time.monotonic() > deadline:
                raise Unavailable(f"job {number} was not acknowledged within {SETTLE_S:.0f} s")
            time.sleep(random.uniform(0.05, 0.5))

    def _settle(self, database: Database) -> None:
        """Wait until all have ended."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            open_ = database.patiently(
                lambda session: session.execute(
                    text("SELECT count(*) FROM job WHERE name = :name AND NOT state = ANY(:ended)"),
                    {"name": f"chaos-{self._run}", "ended": REPORT_TERMINAL},
                ).scalar_one()
            )
            if open_ == 0:
                return
            if time.monotonic() > deadline:
                self._say(f"{open_} jobs have not ended {SETTLE_S:.0f} s after the last round")
                return
            time.sleep(0.5)

    # What came of it.

    def _count(self, database: Database) -> None:
        report = self._report
        name = f"chaos-{self._run}"
        with database.transaction() as session:
            rows = session.execute(
                text("SELECT id, state, started_at, finished_at FROM job WHERE name = :name"), {"name": name}
            ).all()
            effects = Counter(
                uuid.UUID(found[0].removeprefix("job/"))
                for found in session.execute(
                    text("SELECT object FROM audit_event WHERE action = :effect"), {"effect": EFFECT}
                )
            )
            report.stale_leases = session.execute(
                text(
                    "SELECT count(*) FROM job WHERE state = 'running' "
                    "AND lease_until < clock_timestamp() - make_interval(secs => :lease_s)"
                ),
                {"lease_s": self._settings.lease_s},
            ).scalar_one()
        states = {row.id: row.state for row in rows}
        report.jobs = len(self._acknowledged)
        report.succeeded = sum(state == "succeeded" for state in states.values())
        report.lost = sum(states.get(job_id) not in REPORT_TERMINAL for job_id in self._acknowledged)
        report.lost += sum(
            states.get(job_id) == "succeeded" and effects[job_id] == 0 for job_id in self._acknowledged
        )
        report.doubled = sum(effects[job_id] > (state == "succeeded") for job_id, state in states.items())
        acknowledged = set(self._acknowledged)
        # Made by a submission that was sent again, or one job for two submissions.
        report.doubled += len(states.keys() - acknowledged) + len(self._acknowledged) - len(acknowledged)
        ended = [row for row in rows if row.started_at is not None and row.finished_at is not None]
        times = [(row.started_at.timestamp(), row.finished_at.timestamp()) for row in ended]
        report.slowest_recovery_s = round(self._slowest(times), 1)

    def _slowest(self, ends: Sequence[tuple[float, float]]) -> float:
        """From a deed to the end of the first job that was started after it; `ends` are (start, end)."""
        slowest = 0.0
        for at in self._deeds:
            after = [finished - at for started, finished in ends if started > at]
            if after:
                slowest = max(slowest, min(after))
        return slowest


def table(report: Report) -> str:
    rows = [
        ("rounds", f"{report.rounds} (seed {report.seed} repeats them)"),
        *((f"  {name}", str(count)) for name, count in report.kills.items()),
        ("jobs acknowledged", f"{report.jobs}, {report.succeeded} succeeded"),
        ("lost", str(report.lost)),
        ("doubled", str(report.doubled)),
        ("leases older than twice their length", str(report.stale_leases)),
        ("slowest recovery", f"{report.slowest_recovery_s} s"),
        ("in all", f"{report.wall_s} s"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make chaos", description="Kill parts of a service at random; count the loss."
    )
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--lease-s", type=float, default=6.0)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    arguments = parser.parse_args()
    # Not below root's home: Postgres runs as another user, who must get in.
    home = Path(tempfile.mkdtemp(prefix="raymill-chaos-"))
    home.chmod(0o755)
    os.environ |= {
        "RAYMILL_HOME": str(home / "service"),
        "RAYMILL_PORT": str(free_ports(1)[0]),
        "RAYMILL_LEASE_S": str(arguments.lease_s),
        "RAYMILL_KINDS": "raymill.cluster.chaos_kinds",
    }
    settings = Settings()
    failed = True
    try:
        started = subprocess.run(
            [sys.executable, "-m", "raymill.cluster.up"], capture_output=True, text=True, check=False
        )
        if started.returncode != 0:
            sys.stderr.write(f"the service did not start: {started.stderr.strip()[-500:]}\n")
            return 1
        say = (lambda _: None) if arguments.json else _say
        report = Chaos(
            settings, rounds=arguments.rounds, seed=arguments.seed, jobs=arguments.jobs, say=say
        ).run()
        _say(json.dumps(asdict(report), indent=2) if arguments.json else f"\n{table(report)}")
        failed = not report.good
    finally:
        subprocess.run([sys.executable, "-m", "raymill.cluster.down"], capture_output=True, check=False)
        if failed:
            sys.stderr.write(f"what the service wrote is left in {home}\n")
        else:
            shutil.rmtree(home, ignore_errors=True)
    return int(failed)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
