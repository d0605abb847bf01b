"""A process that ends before, in and after each write of the engine: nothing is lost, nothing is done twice."""

from __future__ import annotations

import datetime as dt
import os
import signal
import uuid
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from sqlalchemy import func, select
from tests.cluster.small_engine import Processes, all_ended, check, effects, exit_code, processes, submit
from tests.registry.making import ADA, make_pipeline, read_job, step
from tests.registry.postgres_proxy import At, proxy_in_thread
from tests.waiting import eventually

from raymill.policies.errors import Invalid
from raymill.registry import failpoints, jobs
from raymill.registry.database import Database
from raymill.registry.failpoints import EXIT_CODE
from raymill.registry.jobs import JobSpec
from raymill.registry.tables import Job, JobState

__all__ = ["processes"]


@pytest.mark.parametrize("where", ["before", "written", "after"])
def test_a_submitter_that_ends_in_a_submission_sends_it_again_P1_P3(
    database: Database, processes: Processes, where: str
) -> None:
    assert exit_code(processes.submitter(3, f"enqueue:{where}=2*exit")) == EXIT_CODE
    assert exit_code(processes.submitter(3)) == 0
    with database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 3


@pytest.mark.parametrize(
    "point",
    [
        "claim:before=3*exit",
        "claim:after=exit",
        "events:before=exit",
        "events:after=exit",
        "beat:before=exit",
        "beat:after=exit",
        "succeed:before=exit",
        "succeed:written=exit",
        "succeed:after=exit",
        "complete:before=exit",
        "complete:after=exit",
        "fail:before=exit",
        "fail:written=exit",
        "fail:after=exit",
        "open:before=exit",
        "open:after=exit",
        "sweep:before=5*exit",
        "sweep:after=5*exit",
    ],
)
def test_an_engine_that_ends_at_a_write_leaves_everything_to_the_next_one_P1_P2_P4(
    database: Database, processes: Processes, point: str
) -> None:
    submit(database, 4)
    with database.transaction() as session:
        jobs.enqueue(
            jobs.raw(session),
            [
                JobSpec(kind="plain", config={"seconds": 0.9}),
                JobSpec(kind="plain", config={"seconds": 0.01}),
                JobSpec(kind="plain", config={"error": True}),
            ],
        )
    # A step of a pipeline is opened, not only claimed.
    make_pipeline(database, step("a", kind="plain"), step("b", "a", kind="plain"))
    first = processes.engine(point)
    assert exit_code(first) == EXIT_CODE
    with database.transaction() as session:  # the one that always fails is not waited for
        jobs.cancel_job(
            session, session.scalars(select(Job.id).where(Job.config["error"].as_boolean())).one(), ADA
        )
    assert exit_code(processes.engine()) == 0
    check(database)
    states = all_ended(database)
    assert states == {JobState.SUCCEEDED: 8, JobState.CANCELLED: 1}


@pytest.mark.parametrize("where", ["before", "written", "after"])
@pytest.mark.parametrize("what", ["cancel", "pause"])
def test_an_engine_that_ends_while_it_stops_a_job_P5(
    database: Database, tmp_path: Path, processes: Processes, what: str, where: str
) -> None:
    # Long enough for a busy machine to be told to stop before the end.
    spec = JobSpec(kind="plain", config={"seconds": 5.0})
    with database.transaction() as session:
        jobs.enqueue(jobs.raw(session), [spec])
    # A lease that a pause of a busy machine does not outlast: the sweeper would end the cancelled job first.
    patient = Processes(database.url.render_as_string(hide_password=False), tmp_path, lease_s=4.0)
    engine = patient.engine(f"stop:{where}=exit")
    eventually(lambda: read_job(database, spec.id).state is JobState.RUNNING)
    with database.transaction() as session:
        (jobs.cancel_job if what == "cancel" else jobs.pause_job)(session, spec.id, ADA)
    assert exit_code(engine) == EXIT_CODE
    helper = processes.engine()
    expected = JobState.CANCELLED if what == "cancel" else JobState.PAUSED
    eventually(lambda: read_job(database, spec.id).state is expected)
    assert exit_code(helper) == 0


@pytest.mark.parametrize("where", ["before", "written", "after"])
def test_an_engine_that_ends_while_it_gives_back(
    database: Database, processes: Processes, where: str
) -> None:
    spec = JobSpec(kind="plain", config={"seconds": 8.0})
    with database.transaction() as session:
        jobs.enqueue(jobs.raw(session), [spec])
    engine = processes.engine(f"give_back:{where}=exit")
    eventually(lambda: read_job(database, spec.id).state is JobState.RUNNING)
    send(engine, signal.SIGTERM)
    assert exit_code(engine) == EXIT_CODE
    with database.transaction() as session:
        session.get_one(Job, spec.id).config = {"seconds": 0.0}
    assert exit_code(processes.engine()) == 0
    assert read_job(database, spec.id).state is JobState.SUCCEEDED


def send(process: ForkServerProcess, signum: int) -> None:
    assert process.pid is not None
    os.kill(process.pid, signum)


# --- answers that do not come ------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["before", "after"])
@pytest.mark.parametrize(
    "statement",
    [b"ready AS MATERIALIZED", b"SET state = 'succeeded', lease_until = NULL", b"raymill_audit_append"],
    ids=["a claim", "a plain end", "an end with effects"],
)
def test_an_engine_that_never_hears_whether_it_took_effect_P1_P2(
    database: Database, tmp_path: Path, statement: bytes, at: At
) -> None:
    submit(database, 3)
    with database.transaction() as session:
        jobs.enqueue(jobs.raw(session), [JobSpec(kind="plain", config={"seconds": 0.1}) for _ in range(3)])
    with proxy_in_thread(database.url) as proxy:
        proxy.statement, proxy.cut = statement, at
        # A lease that no pause of the machine outlasts: what is told of it below is not about such pauses.
        processes = Processes(proxy.dsn.replace("postgresql:", "postgresql+psycopg:"), tmp_path, lease_s=30.0)
        try:
            assert exit_code(processes.engine()) == 0
        finally:
            processes.stop()
        assert proxy.cut is None  # it was cut
    check(database)
    assert all_ended(database) == {JobState.SUCCEEDED: 6}
    with database.transaction() as session:
        assert set(session.scalars(select(Job.attempt))) == {1}  # nobody had to wait for a lease


# --- stopped and woken ------------------------------------------------------------------------------------


def test_a_worker_that_slept_past_its_lease_ends_nothing_P2(database: Database, processes: Processes) -> None:
    spec = JobSpec(kind="chaos", config={"seconds": 1.0, "number": 0})
    later = JobSpec(
        kind="plain", run_at=dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    )  # engines wait for it
    with database.transaction() as session:
        jobs.enqueue(jobs.raw(session), [spec, later])
    sleeper = processes.engine()
    eventually(lambda: read_job(database, spec.id).state is JobState.RUNNING)
    send(sleeper, signal.SIGSTOP)
    other = processes.engine()
    eventually(lambda: read_job(database, spec.id).state is JobState.SUCCEEDED)
    ended = read_job(database, spec.id)
    send(sleeper, signal.SIGCONT)
    eventually(lambda: "lease lost, nothing of it takes effect" in processes.errors.read_text())
    with database.transaction() as session:
        jobs.cancel_job(session, later.id, ADA)
    assert exit_code(other) == exit_code(sleeper) == 0
    after = read_job(database, spec.id)
    assert (after.epoch, after.finished_at, after.attempt) == (ended.epoch, ended.finished_at, ended.attempt)
    assert ended.epoch >= 2
    assert effects(database) == {f"job/{spec.id}": 1}


# --- the switch itself ------------------------------------------------------------------------------------


def test_failpoints_are_read_strictly() -> None:
    assert failpoints.parse("claim:after=exit, complete:before=3*exit") == {
        "claim:after": 1,
        "complete:before": 3,
    }
    assert failpoints.parse("") == {}
    with pytest.raises(Invalid, match="RAYMILL_FAILPOINTS holds 'claim=exit'"):
        failpoints.parse("claim=exit")
    failpoints.failpoint(f"unknown:{uuid.uuid4()}")
