"""One attempt at one job on a real Postgres, with kinds of our own: how it ends, and what never takes effect."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session
from tests.registry.making import ADA, claim_one, job_of, make_pipeline, read_job, read_pipeline, step
from tests.waiting import eventually

from raymill.cluster.attempt import Attempt, open_attempt
from raymill.cluster.context import JobContext, Outcome, Paused, Preempted
from raymill.cluster.kinds import KINDS, Kind
from raymill.cluster.settings import Settings
from raymill.policies.errors import Invalid
from raymill.registry import audit, jobs
from raymill.registry.artifacts import ArtifactStore
from raymill.registry.database import Database
from raymill.registry.jobs import Effects, LeaseLost
from raymill.registry.postgres import EmbeddedPostgres
from raymill.registry.tables import Artifact, AuditEvent, Job, JobEvent, JobState, JsonObject

Work = Callable[[JobContext], Outcome]

WORK: dict[str, Work] = {}
"""What the kind `note` does in the test that runs."""


def work(context: JobContext) -> Outcome:
    return WORK["note"](context)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, lease_s=1.5)


BEAT_S = 1.0
"""How far apart the beats of a `long` lease are."""


def long(settings: Settings) -> Settings:
    """With a lease that a pause of the machine does not outlast."""
    return settings.model_copy(update={"lease_s": 6 * BEAT_S})


@pytest.fixture
def does(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says what the kind `note` does."""

    def register(function: Work, effects: Effects | None = None) -> None:
        monkeypatch.setitem(WORK, "note", function)
        monkeypatch.setitem(KINDS, "note", Kind(queue="short", work=f"{__name__}:work", effects=effects))
        monkeypatch.setattr(Kind, "load", lambda _: work)

    return register


def run_next(
    database: Database, settings: Settings, on_abandon: Callable[[], None] | None = None
) -> JobState | None:
    return attempt_at_next(database, settings).run(on_abandon)


def attempt_at_next(database: Database, settings: Settings) -> Attempt:
    with database.transaction() as session:
        session.execute(update(Job).where(Job.state == JobState.QUEUED).values(run_at=func.clock_timestamp()))
    job = claim_one(database, lease_s=settings.lease_s)
    return open_attempt(database, settings, job.id, job.epoch, "w2")


def events_of(database: Database, kind: str) -> list[JsonObject]:
    with database.transaction() as session:
        rows = select(JobEvent).where(JobEvent.kind == kind).order_by(JobEvent.id)
        return [row.data for row in session.scalars(rows)]


def lease_of(database: Database, context: JobContext) -> dt.datetime:
    """Until when the job is its worker's."""
    moment = read_job(database, uuid.UUID(context.job_id)).lease_until
    assert moment is not None
    return moment


def wait_for_the_end(context: JobContext) -> Outcome:
    while True:
        context.check()
        time.sleep(0.02)


# --- good ends --------------------------------------------------------------------------------------------


def test_a_job_succeeds_with_its_result_artifact_and_events(
    database: Database, settings: Settings, does: Callable[..., None]
) -> None:
    def make(context: JobContext) -> Outcome:
        (context.work_dir / "draft").mkdir()
        (context.work_dir / "draft" / "a.txt").write_text(context.config["of"])
        context.event("step", step=1, loss=0.5)
        published = context.publish("model", context.work_dir / "draft")
        return Outcome(result={"digest": published.digest}, artifacts=(published,))

    does(make)
    make_pipeline(database, step("a"))
    assert run_next(database, settings) is JobState.SUCCEEDED
    with database.transaction() as session:
        job = session.scalars(select(Job)).one()
        artifact = session.scalars(select(Artifact)).one()
    assert (job.worker, job.result) == ("w2", {"digest": artifact.digest})
    assert artifact.name == f"model/triage/{job.address}"
    assert (
        ArtifactStore(settings.home / "artifacts").existing(artifact.name).joinpath("a.txt").read_text()
        == "a"
    )
    assert events_of(database, "step") == [{"step": 1, "loss": 0.5}]


def test_what_a_job_reads_is_held_against_what_was_registered(
    database: Database, settings: Settings, does: Callable[..., None]
) -> None:
    def make(context: JobContext) -> Outcome:
        if context.inputs:
            (parent,) = context.inputs.values()
            context.verified(parent["artifact"])
            return Outcome(result={"digest": "d"})
        (context.work_dir / "draft").mkdir()
        (context.work_dir / "draft" / "a.txt").write_text(context.config["of"])
        published = context.publish("model", context.work_dir / "draft")
        return Outcome(
            result={"digest": published.digest, "artifact": published.name}, artifacts=(published,)
        )

    does(make)
    pipeline = make_pipeline(database, step("a"), step("b", "a"), step("c", "a"))
    assert run_next(database, settings) is JobState.SUCCEEDED
    assert run_next(database, settings) is JobState.SUCCEEDED
    artifact = job_of(database, pipeline, "a").result["artifact"]  # type: ignore[index]
    (ArtifactStore(settings.home / "artifacts").existing(artifact) / "a.txt").write_text("b")
    assert run_next(database, settings) is JobState.FAILED
    assert "a.txt in artifact" in str(job_of(database, pipeline, "c").error)


def test_a_child_is_given_its_parents_results(
    database: Database, settings: Settings, does: Callable[..., None]
) -> None:
    does(lambda context: Outcome(result={"digest": "d", "seen": dict(context.inputs)}))
    pipeline = make_pipeline(database, step("a"), step("b", "a"))
    for _ in range(2):
        run_next(database, settings)
    assert job_of(database, pipeline, "b").result == {
        "digest": "d",
        "seen": {"a": {"digest": "d", "seen": {}}},
    }


def test_events_reach_postgres_while_the_work_goes_on(
    database: Database, settings: Settings, does: Callable[..., None]
) -> None:
    def make(context: JobContext) -> Outcome:
        context.event("step", step=1)
        eventually(lambda: events_of(database, "step") == [{"step": 1}])
        return Outcome(result={"digest": "d"})

    does(make)
    make_pipeline(database)
    assert run_next(database, settings) is JobState.SUCCEEDED


def test_values_that_postgres_cannot_keep_do_no_harm(
    database: Database, settings: Settings, does: Callable[..., None]
) -> None:
    def make(context: JobContext) -> Outcome:
        context.event("step", loss=float("nan"), grad_norm=float("-inf"), text="a\0b\ud800", many=[1.5, "\0"])
        raise Invalid("row 3 holds \0")

    does(make)
    pipeline = make_pipeline(database)
    assert run_next(database, settings) is JobState.FAILED
    assert events_of(database, "step") == [
        {"loss": "nan", "grad_norm": "-inf", "text": "a\ufffdb?", "many": [1.5, "\ufffd"]}
    ]
    assert read_pipeline(database, pipeline).error == "only: row 3 holds \ufffd"


def test_a_long_job_keeps_its_lease(
    database: Database, settings: Settings, does: Callable[..., None]
) -> None:
    def make(context: JobContext) -> Outcome:
        first = lease_of(database, context)
        while lease_of(database, context) < first + dt.timedelta(seconds=2 * BEAT_S):
            with database.transaction() as session:
                assert jobs.sweep(session) == []
            time.sleep(0.1)
        return Outcome(result={"digest": "d"})

    does(make)
    make_pipeline(database)
    assert run_next(database, long(settings)) is JobState.SUCCEEDED


def test_events_that_the_database_refuses_cost_no_lease(
    database: Database, settings: Settings, does: Callable[..., None]
) -> None:
    def make(context: JobContext) -> Outcome:
        first = lease_of(database, context)
        context.event("k" * 40, much="longer than a kind may be")
        eventually(lambda: lease_of(database, context) > first)
        with database.transaction() as session:
            assert jobs.sweep(session) == []
        context.event("step", step=1)
        return Outcome(result={"digest": "d"})

    does(make)
    make_pipeline(database)
    assert run_next(database, long(settings)) is JobState.SUCCEEDED
    assert events_of(database, "step") == [{"step": 1}]


# --- bad ends ---------------------------------------------------------------------------------------------


def test_an_error_of_the_user_fails_at_once(
    database: Database, settings: Settings, does: Callable[..., None]
) -> None:
    def make(_: JobContext) -> Outcome:
        raise Invalid("row 7 has no answer: add one")

    does(make)
    pipeline = make_pipeline(database)
    assert run_next(database, settings) is JobState.FAILED
    assert read_pipeline(database, pipeline).error == "only: row 7 has no answer: add one"


def test_another_error_is_tried_again_until_attempts_run_out(
    database: Database, settings: Settings, does: Callable[..., None]
) -> None:
    def make(context: JobContext) -> Outcome:
        marks = len(list(context.work_dir.iterdir()))
        (context.work_dir / str(marks)).touch()  # the next attempt finds it
        raise OSError(f"no space left, try {marks}\nand a second line")

    does(make)
    pipeline = make_pipeline(database)
    assert [run_next(database, settings) for _ in range(3)] == [
        JobState.QUEUED,
        JobState.QUEUED,
        JobState.DEAD,
    ]
    assert (
        read_pipeline(database, pipeline).error
        == "only: OSError: no space left, try 2 (unexpected error 3 of 3)"
    )


def test_effects_that_are_refused_fail_the_job_and_leave_nothing(
    database: Database, settings: Settings, does: Callable[..., None]
) -> None:
    def refuse(session: Session, _: Job, __: JsonObject) -> None:
        audit.record(session, ADA, "test.effect", "x")
        raise Invalid("the model has no base")

    does(lambda _: Outcome(result={"digest": "d"}), refuse)
    pipeline = make_pipeline(database)
    assert run_next(database, settings) is JobState.FAILED
    assert read_pipeline(database, pipeline).error == "only: the model has no base"
    with database.transaction() as session:
        assert session.scalars(select(AuditEvent.action)).all() == ["pipeline.create"]


def test_a_result_that_cannot_be_stored_is_an_attempt_that_failed(
    database: Database, settings: Settings, does: Callable[..., None]
) -> None:
    does(lambda _: Outcome(result={"digest": object()}))
    make_pipeline(database)
    assert run_next(database, settings) is JobState.QUEUED
    with database.transaction() as session:
        assert "not JSON serializable" in (session.scalars(select(Job.error)).one() or "")


def test_other_bytes_under_a_registered_name_are_refused(
    database: Database, settings: Settings, does: Callable[..., None]
) -> None:
    content = iter(["one", "two"])

    def make(context: JobContext) -> Outcome:
        draft = context.work_dir / "draft"
        draft.mkdir()
        (draft / "a.txt").write_text(next(content))
        published = context.publish("model", draft)
        return Outcome(result={"digest": published.digest}, artifacts=(published,))

    does(make)
    make_pipeline(database)
    assert run_next(database, settings) is JobState.SUCCEEDED
    pipeline = make_pipeline(database)
    assert run_next(database, settings) is JobState.FAILED
    assert "is registered with other bytes" in (read_pipeline(database, pipeline).error or "")
    (file,) = (settings.home / "artifacts").rglob("a.txt")
    assert file.read_text() == "one"


# --- cancelled, or lost -----------------------------------------------------------------------------------


def test_a_cancel_is_seen_by_who_checks(
    database: Database, settings: Settings, does: Callable[..., None]
) -> None:
    does(wait_for_the_end)
    pipeline = make_pipeline(database)
    attempt = attempt_at_next(database, settings)
    with database.transaction() as session:
        jobs.cancel_pipeline(session, pipeline.id, ADA)
    assert attempt.run() is JobState.CANCELLED
    assert read_pipeline(database, pipeline).state is JobState.CANCELLED


def test_who_does_not_check_ends_cancelled_all_the_same_P5(
    database: Database, settings: Settings, does: Callable[..., None]
) -> None:
    def make(context: JobContext) -> Outcome:
        with database.transaction() as session:  # too late for a beat to tell of it
            jobs.cancel_job(session, session.scalars(select(Job.id)).one(), ADA)
        context.event("log", text="done")
        return Outcome(result={"digest": "d"})

    does(make)
    make_pipeline(database)
    attempt = attempt_at_next(database, settings)
    assert attempt.run() is JobState.CANCELLED
    assert read_job(database, attempt.id).result is None


def test_work_that_heeds_no_cancel_is_abandoned(
    database: Database, settings: Settings, does: Callable[..., None]
) -> None:
    abandoned = threading.Event()

    def make(_: JobContext) -> Outcome:
        assert abandoned.wait(60)
        return Outcome(result={"digest": "d"})

    does(make)
    make_pipeline(database)
    attempt = attempt_at_next(database, settings)
    with database.transaction() as session:
        jobs.cancel_job(session, attempt.id, ADA)
    assert attempt.run(abandoned.set) is None
    assert read_job(database, attempt.id).state is JobState.CANCELLED


def test_work_whose_machine_goes_may_leave_something_and_the_job_waits_again(
    database: Database, settings: Settings, does: Callable[..., None]
) -> None:
    left: list[str] = []

    def make(context: JobContext) -> Outcome:
        attempt.leave("its machine goes")
        try:
            context.check()
        except Preempted as notice:
            left.append(f"a checkpoint, because {notice}")
            raise
        return Outcome(result={"digest": "d"})

    does(make)
    make_pipeline(database)
    attempt = attempt_at_next(database, settings)
    assert attempt.run() is JobState.QUEUED
    assert left == ["a checkpoint, because its machine goes"]
    job = read_job(database, attempt.id)
    assert (job.state, job.error, job.failures) == (JobState.QUEUED, "its machine goes", {})


def test_what_breaks_while_the_machine_goes_is_no_failure_of_the_job(
    database: Database, settings: Settings, does: Callable[..., None]
) -> None:
    def make(_: JobContext) -> Outcome:
        attempt.leave("its machine goes")
        raise OSError("the network is gone already")

    does(make)
    make_pipeline(database)
    attempt = attempt_at_next(database, settings)
    assert attempt.run() is JobState.QUEUED
    assert read_job(database, attempt.id).failures == {}


def test_who_has_lost_the_lease_leaves_nothing_behind(
    database: Database, settings: Settings, does: Callable[..., None]
) -> None:
    does(wait_for_the_end)
    make_pipeline(database)
    attempt = attempt_at_next(database, settings)
    with database.transaction() as session:
        session.execute(update(Job).values(epoch=2))
    with pytest.raises(LeaseLost):
        attempt.leave("its machine goes")
    with pytest.raises(LeaseLost):
        attempt.check()


def test_work_that_has_heard_of_a_pause_gets_the_time_to_come_to_rest(
    database: Database, settings: Settings, does: Callable[..., None]
) -> None:
    abandoned = threading.Event()

    def make(context: JobContext) -> Outcome:
        while True:
            try:
                context.check()
            except Paused:
                time.sleep(settings.lease_s)  # longer than a pause that nobody heeds is waited for
                raise
            time.sleep(0.02)

    does(make)
    make_pipeline(database)
    attempt = attempt_at_next(database, settings)
    with database.transaction() as session:
        jobs.pause_job(session, attempt.id, ADA)
    assert attempt.run(abandoned.set) is JobState.PAUSED
    assert not abandoned.is_set()


def test_who_lost_the_lease_stops_and_commits_nothing_P2(
    database: Database, settings: Settings, does: Callable[..., None]
) -> None:
    abandoned = threading.Event()
    does(wait_for_the_end)
    make_pipeline(database)
    attempt = attempt_at_next(database, settings)
    with database.transaction() as session:
        session.execute(update(Job).values(epoch=2))
    assert attempt.run(abandoned.set) is None
    does(lambda _: Outcome(result={"digest": "d"}))
    assert attempt.run() is None
    assert read_job(database, attempt.id).state is JobState.RUNNING
    with pytest.raises(LeaseLost):
        open_attempt(database, settings, attempt.id, 1, "w3")


# --- the database is away ---------------------------------------------------------------------------------


@pytest.fixture
def own_server() -> Iterator[EmbeddedPostgres]:
    # Not tmp_path: pytest makes that 0700, and root's PostgreSQL runs as a user who must pass through.
    folder = Path(tempfile.mkdtemp(prefix="raymill-attempt-"))
    folder.chmod(0o755)
    server = EmbeddedPostgres(folder / "postgres")
    server.ensure_running()
    yield server
    server.stop()
    shutil.rmtree(folder)


def test_an_attempt_outlives_the_death_of_the_database_and_succeeds_once(
    own_server: EmbeddedPostgres, settings: Settings, does: Callable[..., None]
) -> None:
    database = Database(own_server.url())
    database.migrate()

    def make(context: JobContext) -> Outcome:
        pid = own_server.pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        context.event("step", step=1)
        restart.start()
        return Outcome(result={"digest": "d"})

    def come_back() -> None:
        time.sleep(2)
        own_server.ensure_running()

    def effect(session: Session, job: Job, _: JsonObject) -> None:
        audit.record(session, ADA, "test.effect", f"job/{job.id}")

    restart = threading.Thread(target=come_back)
    does(make, effect)
    make_pipeline(database)
    assert run_next(database, settings) is JobState.SUCCEEDED
    restart.join()
    assert events_of(database, "step") == [{"step": 1}]
    with database.transaction() as session:
        actions = session.scalars(select(AuditEvent.action).order_by(AuditEvent.seq)).all()
    assert actions == ["pipeline.create", "test.effect"]
    database.close()
