"""Submissions through all three steps, with a model that answers from a fixed table, through one kill -9 of the job engine.

Everything runs as processes of this machine: Postgres, the control plane, the job engine's pool, the model. The gateway is
left out: its share of a request is measured by `benchmarks/gateway.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from select import select as readable
from typing import Any

from benchmarks.goals import Results
from benchmarks.peers import ROOT
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from raymill.client.sdk import Raymill
from raymill.policies.errors import Unavailable
from raymill.registry import code, code_steps, identity
from raymill.registry.audit import SYSTEM
from raymill.registry.database import Database
from raymill.registry.postgres import EmbeddedPostgres
from raymill.registry.tables import CodeAnswer, CodeSubmission, JobEvent, JobState, Pipeline

POLL_S = 0.05
PATIENCE_S = 600.0
"""For the whole run: what is not over then counts as lost."""

START_S = 120.0
LEASE_S = 1.5
"""How soon another worker takes over what a killed one had; the service's default is 30 s."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    submissions: int = 200
    parallel: int = 16
    model_ms: int = 50
    kill_after: float = 0.4
    """Share of the submissions that are over when the engine is killed."""


class Ends:
    """Which submissions are over, looked up for all at once. Nobody waits for one longer than `until` (monotonic)."""

    def __init__(self, database: Database, until: float) -> None:
        self._database = database
        self._until = until
        self._over: set[uuid.UUID] = set()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def wait(self, submission_id: uuid.UUID) -> None:
        with self._changed:
            while submission_id not in self._over and time.monotonic() < self._until:
                if self._stopping.is_set():
                    return
                self._changed.wait(1.0)

    @property
    def count(self) -> int:
        return len(self._over)

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _look(self) -> None:
        over = select(CodeSubmission.id).join(Pipeline, Pipeline.id == CodeSubmission.pipeline_id)
        rows = over.where(Pipeline.finished_at.is_not(None))
        while not self._stopping.wait(POLL_S):
            with self._database.transaction() as session:
                found = set(session.scalars(rows))
            with self._changed:
                self._over = found
                self._changed.notify_all()


class Engine:
    """The pool's process; killed, and started again as the supervisor does."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._process, _ = started(environment, "benchmarks.code_engine", "engine")

    def kill(self) -> None:
        end(self._process)
        self._process, _ = started(self._environment, "benchmarks.code_engine", "engine")

    def stop(self) -> None:
        end(self._process)


def started(environment: dict[str, str], *module: str) -> tuple[subprocess.Popen[str], str]:
    """A Python process, once it has said its first line. Raises Unavailable: it did not."""
    process = subprocess.Popen(
        [sys.executable, "-m", *module],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    ready, _, _ = readable([process.stdout], [], [], START_S)
    said = process.stdout.readline().strip() if ready else ""
    if not said:
        end(process)
        raise Unavailable(f"{' '.join(module)} did not start: run it by hand and read what it says")
    return process, said


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    with process:
        pass


@contextmanager
def running(plan: Plan, folder: Path) -> Iterator[tuple[Database, Raymill, Engine]]:
    """Postgres, model, control plane and engine, with an account that may submit and steps that have a model."""
    with ExitStack() as stack:
        server = EmbeddedPostgres(folder / "postgres")
        stack.callback(server.stop)
        server.ensure_running()
        database = Database(server.url())
        stack.callback(database.close)
        database.migrate()
        key = identity.new_key()
        with database.transaction() as session:
            identity.ensure_admin(session, key)
            for step in code.STEPS:
                code_steps.put(session, step, {"model": "table", "max_tokens": 100_000}, SYSTEM)
        model, port = started(dict(os.environ), "benchmarks.code_model", str(plan.model_ms))
        stack.callback(end, model)
        environment = {
            **os.environ,
            "RAYMILL_HOME": str(folder / "home"),
            "DATABASE_URL": server.url(),
            "RAYMILL_CODE_GATEWAY_URL": f"http://127.0.0.1:{port}",
            "RAYMILL_POOL_THREADS": str(plan.parallel),
            "RAYMILL_LEASE_S": str(LEASE_S),
        }
        api, port = started(environment, "benchmarks.code_engine", "api")
        stack.callback(end, api)
        engine = Engine(environment)
        stack.callback(engine.stop)
        client = stack.enter_context(Raymill(f"http://127.0.0.1:{port}", key))
        yield database, client, engine


def measure(texts: Sequence[tuple[str, str, str]], plan: Plan, folder: Path) -> Results:
    """Submit, kill the engine once on the way, and count.

    Args:
        texts: file name, language and code of each row, taken in turn until there are enough.
    """
    with ExitStack() as stack:
        database, client, engine = stack.enter_context(running(plan, folder))
        until = time.monotonic() + PATIENCE_S
        pool = ThreadPoolExecutor(plan.parallel)
        stack.callback(pool.shutdown, cancel_futures=True)
        ends = Ends(database, until)
        stack.callback(ends.stop)

        def one(number: int) -> float:
            name, language, source = texts[number % len(texts)]
            since = time.monotonic()
            made = client.code.submit(files={name: source}, language=language, idempotency_key=f"n{number}")
            ends.wait(made.id)
            return time.monotonic() - since

        begun = time.monotonic()
        work = [pool.submit(one, number) for number in range(plan.submissions)]
        while ends.count < plan.kill_after * plan.submissions:
            for each in work:
                if each.done():
                    each.result()  # raises what kept it from being submitted
            if time.monotonic() > until:
                raise Unavailable(
                    f"{ends.count} of {plan.submissions} submissions were over after {PATIENCE_S:.0f} s: "
                    "run `python -m benchmarks.code_engine engine` by hand and read what it says"
                )
            time.sleep(POLL_S)
        before = ends.count / (time.monotonic() - begun)
        engine.kill()
        seconds = sorted(each.result() for each in work)
        took_s = time.monotonic() - begun
        with database.transaction() as session:
            found = counted(session, plan, took_s)
            found["submissions"]["per_s_before_the_kill"] = round(before, 2)
            return {
                **found,
                "seconds_per_submission": {
                    "p50": round(seconds[len(seconds) // 2], 3),
                    "p99": round(seconds[len(seconds) * 99 // 100], 3),
                },
            }


def counted(session: Session, plan: Plan, took_s: float) -> Results:
    """What the rows say of the run."""
    rows = list(session.scalars(select(CodeSubmission)))
    states = Counter(session.scalars(select(Pipeline.state).where(Pipeline.name == code.PIPELINE)))
    over = states[JobState.SUCCEEDED] + states[JobState.FAILED]
    # An end that took effect twice would have told of it twice.
    ends = (
        select(func.count())
        .where(JobEvent.kind == "state", JobEvent.data["state"].astext == "succeeded")
        .group_by(JobEvent.job_id)
        .having(func.count() > 1)
    )
    twice = len(session.execute(ends).all())
    measured = [row.quality["measured"] for row in rows if row.quality is not None]
    found = sum(each["findings_before"] for each in measured)
    # Also where the model never came to code that parses, and the submission failed for it.
    parsed = [row for row in rows if _parses(row.before)]
    tokens = session.execute(
        select(func.sum(CodeAnswer.prompt_tokens), func.sum(CodeAnswer.completion_tokens))
    ).one()
    return {
        "submissions": {
            "per_s": round(over / took_s, 2),
            "lost": plan.submissions - over,
            "doubled": max(0, len(rows) - plan.submissions) + twice,
            "succeeded": states[JobState.SUCCEEDED],
            "failed": states[JobState.FAILED],
            "seconds": round(took_s, 2),
            "engine_kills": 1,
        },
        "findings_removed_share": round(sum(each["resolved"] for each in measured) / found, 4)
        if found
        else None,
        "findings": {
            name: sum(each[name] for each in measured)
            for name in ("resolved", "remaining", "new", "unchecked")
        },
        "rebuilt_parse_share": _share(sum(_parses(row.after) for row in parsed), len(parsed)),
        "tokens_per_submission": {
            "prompt": _share(tokens[0] or 0, len(rows)),
            "completion": _share(tokens[1] or 0, len(rows)),
        },
    }


def _parses(analysis: dict[str, Any] | None) -> bool:
    return analysis is not None and all(file["parses"] for file in analysis["files"])


def _share(part: float, whole: int) -> float | None:
    return round(float(part) / whole, 4) if whole else None
