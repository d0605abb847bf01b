"""Jobs that stand alone, limits, pauses, lost workers and dead letters, on a real Postgres."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session
from tests.registry.making import (
    ADA,
    claim,
    claim_one,
    job_of,
    make_pipeline,
    read_job,
    read_pipeline,
    step,
    succeed,
)

from raymill.policies.errors import Conflict, Invalid, NotFound
from raymill.registry import jobs
from raymill.registry.database import Database
from raymill.registry.jobs import Claimed, Done, ErrorClass, Floors, JobSpec, Priority
from raymill.registry.tables import AuditEvent, Job, JobEvent, JobState, OnParentFailure


def spec(**given: object) -> JobSpec:
    return JobSpec(**{"kind": "note", **given})  # type: ignore[arg-type]


def enqueue(database: Database, *specs: JobSpec) -> list[Job]:
    with database.transaction() as session:
        ids = jobs.enqueue(jobs.raw(session), specs)
    return [read_job(database, job_id) for job_id in ids]


def take(
    database: Database, limit: int = 1, queue: str = "short", floors: Floors | None = None
) -> list[Claimed]:
    return database.hold_once(lambda held: jobs.claim(held, queue, "w1", limit=limit, floors=floors))


def complete(database: Database, *taken: Claimed) -> set[object]:
    done = [Done(job.id, job.epoch, {"digest": "d"}) for job in taken]
    return set(database.hold_once(lambda held: jobs.complete(held, done)))


def at_once(database: Database) -> None:
    with database.transaction() as session:
        session.execute(update(Job).where(Job.state == JobState.QUEUED).values(run_at=func.clock_timestamp()))


def lose(database: Database, job: Claimed) -> JobState:
    with database.transaction() as session:
        return jobs.lose(session, job.id, job.epoch, "worker w1 was lost", lambda _: "last words")


# --- made once (P1, P3) -----------------------------------------------------------------------------------


def test_jobs_are_made_in_one_statement_and_end_in_one(database: Database) -> None:
    made = enqueue(database, *(spec(config={"n": n}) for n in range(50)))
    taken = take(database, 100)
    assert [job.id for job in taken] == [job.id for job in made]
    assert taken[7].config == {"n": 7}
    assert complete(database, *taken) == {job.id for job in made}
    assert complete(database, *taken) == set()  # told twice, done once
    ended = read_job(database, made[0].id)
    assert (ended.state, ended.result, ended.attempt) == (JobState.SUCCEEDED, {"digest": "d"}, 1)


def test_a_busy_worker_ends_jobs_and_takes_the_next_in_one_statement(database: Database) -> None:
    made = enqueue(database, *(spec(name=f"n{n}") for n in range(4)), spec(name="gone"))
    taken = take(database, 2)
    lost = Done(made[4].id, 1, {})  # never claimed at that epoch: not this worker's to end

    def both(limit: int, *done: Done) -> tuple[set[object], list[str]]:
        ended, following = database.hold_once(
            lambda held: jobs.complete_and_claim(held, done, "short", "w1", limit=limit)
        )
        taken.extend(following)
        return set(ended), [job.name for job in following]

    done = [Done(job.id, job.epoch, {"digest": "d"}) for job in taken]
    assert both(2, *done, lost) == ({job.id for job in made[:2]}, ["n2", "n3"])
    assert both(3, *done) == (set(), ["gone"])  # told twice, done once
    assert [read_job(database, job.id).state for job in taken] == ["succeeded"] * 2 + ["running"] * 3
    assert both(1, Done(taken[2].id, taken[2].epoch, {})) == ({taken[2].id}, [])


def test_ending_and_taking_keep_the_limit_of_a_concurrency_key(database: Database) -> None:
    enqueue(database, *(spec(concurrency_key="k", concurrency_limit=2) for _ in range(5)))
    taken = take(database, 5)
    assert len(taken) == 2
    done = [Done(job.id, job.epoch, {}) for job in taken]
    ended, following = database.hold_once(
        lambda held: jobs.complete_and_claim(held, done, "short", "w1", limit=5)
    )
    assert (len(ended), following) == (2, [])  # the freed slots are for the next claim
    assert len(take(database, 5)) == 2


def test_a_job_that_is_sent_twice_is_made_once_P3(database: Database) -> None:
    one = spec()
    assert enqueue(database, one)[0].id == enqueue(database, one)[0].id == one.id
    first, again = (enqueue(database, spec(idempotency_key="k", config={"a": 1}))[0] for _ in range(2))
    assert first.id == again.id
    complete(database, *take(database, 2))
    assert enqueue(database, spec(idempotency_key="k", config={"a": 1}))[0].id == first.id
    with pytest.raises(Conflict, match="'k' was used with another request: use a new key"):
        enqueue(database, spec(idempotency_key="k", config={"a": 2}))


def test_eight_at_once_with_one_key_are_one_job_P3(database: Database) -> None:
    with ThreadPoolExecutor(8) as threads:
        found = {
            job.id
            for made in threads.map(lambda _: enqueue(database, spec(idempotency_key="k")), range(8))
            for job in made
        }
    assert len(found) == 1


def test_a_unique_job_is_one_until_it_ends(database: Database) -> None:
    first = enqueue(database, spec(unique_key="nightly"))[0]
    assert enqueue(database, spec(unique_key="nightly"))[0].id == first.id
    (taken,) = take(database)
    assert enqueue(database, spec(unique_key="nightly"))[0].id == first.id
    complete(database, taken)
    assert enqueue(database, spec(unique_key="nightly"))[0].id != first.id


def test_what_cannot_be_is_refused(database: Database) -> None:
    with pytest.raises(NotFound, match="no queue 'fast': `raymill queue list`"):
        enqueue(database, spec(queue="fast"))
    with pytest.raises(Invalid, match="priority 9 is unknown"):
        enqueue(database, spec(priority=9))


# --- order ------------------------------------------------------------------------------------------------


def test_priorities_go_first_and_a_later_time_is_waited_for(database: Database) -> None:
    later = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    enqueue(
        database,
        spec(name="low", priority=Priority.LOW),
        spec(name="normal"),
        spec(name="urgent", priority=Priority.URGENT),
        spec(name="later", priority=Priority.URGENT, run_at=later),
    )
    assert [job.name for job in take(database, 9)] == ["urgent", "normal", "low"]


def test_a_floor_never_hides_work_for_long(database: Database) -> None:
    floors = Floors()
    enqueue(database, *(spec(name=f"n{n}") for n in range(6)))
    assert [job.name for job in take(database, 3, floors=floors)] == ["n0", "n1", "n2"]
    # One that committed late, below the floor, and a more urgent one.
    enqueue(database, spec(name="late", run_at=dt.datetime.now(dt.UTC) - dt.timedelta(minutes=1)))
    enqueue(database, spec(name="urgent", priority=Priority.URGENT))
    assert [job.name for job in take(database, 3, floors=floors)] == ["urgent", "n3", "n4"]
    assert [job.name for job in take(database, 3, floors=floors)] == ["n5"]
    assert [job.name for job in take(database, 3, floors=floors)] == ["late"]


# --- limits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 3])
def test_a_concurrency_key_is_never_exceeded_by_claimers_at_once(database: Database, limit: int) -> None:
    enqueue(
        database,
        *(spec(concurrency_key="gpu", concurrency_limit=limit) for _ in range(30)),
        spec(name="free"),
    )
    most = 0
    lock = threading.Lock()
    ended: list[object] = []

    def work(number: int) -> None:
        nonlocal most
        held = database.hold()
        while len(ended) < 31:
            taken = held.run(lambda connection: jobs.claim(connection, "short", f"w{number}", limit=4))
            with database.transaction() as session:
                running = session.scalar(
                    select(func.count())
                    .select_from(Job)
                    .where(Job.state == JobState.RUNNING, Job.concurrency_key == "gpu")
                )
            with lock:
                most = max(most, running or 0)
                ended.extend(complete(database, *taken) if taken else ())
        held.close()

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, range(6)))
    assert 1 <= most <= limit
    assert len(set(ended)) == 31


def test_a_queue_runs_no_more_than_its_limit_and_nothing_while_it_rests(database: Database) -> None:
    with database.transaction() as session:
        jobs.set_queue(session, "mail", ADA, max_running=4)
    enqueue(database, *(spec(queue="mail") for _ in range(40)))
    with ThreadPoolExecutor(8) as threads:
        taken = [job for each in threads.map(lambda _: take(database, 3, "mail"), range(8)) for job in each]
    assert len(taken) == 4
    complete(database, taken[0])
    with database.transaction() as session:
        jobs.pause_queue(session, "mail", ADA)
    assert take(database, 9, "mail") == []
    assert complete(database, taken[1])  # what runs goes on
    with database.transaction() as session:
        jobs.resume_queue(session, "mail", ADA)
    assert len(take(database, 9, "mail")) == 2
    with database.transaction() as session:
        jobs.set_queue(session, "mail", ADA, max_running=None)
    assert len(take(database, 99, "mail")) == 34
    with pytest.raises(Conflict, match="queue 'mail' is short"), database.transaction() as session:
        jobs.set_queue(session, "mail", ADA, runner="heavy")


# --- lost workers (P4) ------------------------------------------------------------------------------------


def test_a_job_that_loses_its_workers_without_progress_is_poison(database: Database) -> None:
    made = enqueue(database, spec(max_attempts=1))[0]
    for ended in (JobState.QUEUED, JobState.QUEUED, JobState.DEAD):
        at_once(database)
        assert lose(database, take(database)[0]) is ended
    dead = read_job(database, made.id)
    assert (dead.losses, dead.last_log, dead.attempt, dead.failures) == (3, "last words", 3, {})
    assert "3 times in a row without progress" in (dead.error or "")


def test_a_job_that_gets_somewhere_each_time_may_lose_any_number(database: Database) -> None:
    enqueue(database, spec())
    for _ in range(6):
        at_once(database)
        (job,) = take(database)
        with database.transaction() as session:
            jobs.add_events(session, job, [("step", {"step": 1})])
        assert lose(database, job) is JobState.QUEUED


def test_a_worker_that_has_to_go_costs_the_job_nothing(database: Database) -> None:
    made = enqueue(database, spec(max_attempts=1))[0]
    for _ in range(5):
        (job,) = take(database)
        with database.transaction() as session:
            assert jobs.give_back(session, job.id, job.epoch, "the machine is taken away") is JobState.QUEUED
    row = read_job(database, made.id)
    assert (row.failures, row.losses) == ({}, 0)


def test_what_a_lost_answer_had_given_is_found_again(database: Database) -> None:
    enqueue(database, spec(), spec())
    known, unknown = take(database, 2)
    assert database.hold_once(lambda held: jobs.unheard(held, "w1", [known.id])) == [unknown]
    assert database.hold_once(lambda held: jobs.unheard(held, "w2", [])) == []


# --- errors of each class ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("why", "tries", "ended"),
    [
        (ErrorClass.INPUT, 1, JobState.FAILED),
        (ErrorClass.UNEXPECTED, 3, JobState.DEAD),
        (ErrorClass.RESOURCE, 2, JobState.DEAD),
        (ErrorClass.TRANSIENT, 12, JobState.DEAD),
    ],
)
def test_each_class_of_error_has_its_own_number_of_tries(
    database: Database, why: ErrorClass, tries: int, ended: JobState
) -> None:
    enqueue(database, spec())
    states = []
    for _ in range(tries):
        at_once(database)
        (job,) = take(database)
        with database.transaction() as session:
            states.append(jobs.fail(session, job.id, job.epoch, "no", why))
    assert states == [JobState.QUEUED] * (tries - 1) + [ended]


# --- pause and resume -------------------------------------------------------------------------------------


def test_a_job_rests_at_once_when_it_waits_and_when_its_worker_has_seen_it_else(database: Database) -> None:
    waiting, running = enqueue(database, spec(name="a"), spec(name="b", priority=Priority.HIGH))
    (job,) = take(database)
    assert job.id == running.id
    with database.transaction() as session:
        assert jobs.pause_job(session, waiting.id, ADA).state is JobState.PAUSED
        assert jobs.pause_job(session, running.id, ADA).state is JobState.RUNNING
    assert take(database) == []
    (beat,) = database.hold_once(lambda held: jobs.beat(held, [(job.id, job.epoch)]))
    assert beat == (True, False, True)
    with database.transaction() as session:
        assert jobs.end_pause(session, job.id, job.epoch) is JobState.PAUSED
    with database.transaction() as session:
        jobs.resume_job(session, running.id, ADA)
    (again,) = take(database)
    assert (again.id, again.epoch) == (running.id, 2)
    complete(database, again)
    with (
        pytest.raises(Conflict, match="has succeeded: only a job that waits or runs"),
        database.transaction() as session,
    ):
        jobs.pause_job(session, running.id, ADA)


def test_a_worker_lost_while_a_rest_was_asked_for_leaves_the_job_resting(database: Database) -> None:
    made = enqueue(database, spec())[0]
    (job,) = take(database)
    with database.transaction() as session:
        jobs.pause_job(session, made.id, ADA)
    assert lose(database, job) is JobState.PAUSED


def test_a_paused_parent_holds_its_children_until_it_goes_on(database: Database) -> None:
    pipeline = make_pipeline(database, step("a"), step("b", "a"))
    with database.transaction() as session:
        jobs.pause_pipeline(session, pipeline.id, ADA)
    assert claim(database) == []
    with database.transaction() as session:
        jobs.resume_pipeline(session, pipeline.id, ADA)
    for name in ("a", "b"):
        job = claim_one(database)
        assert job.step == name
        succeed(database, job)
    assert read_pipeline(database, pipeline).state is JobState.SUCCEEDED


# --- parents that fail ------------------------------------------------------------------------------------


def fail(database: Database, job: Claimed) -> JobState:
    with database.transaction() as session:
        return jobs.fail(session, job.id, job.epoch, "row 7 is empty", ErrorClass.INPUT)


def test_a_pipeline_says_what_becomes_of_the_children_of_a_bad_step(database: Database) -> None:
    def child(name: str, how: OnParentFailure) -> jobs.StepSpec:
        return jobs.StepSpec(
            step=name,
            kind="note",
            queue="short",
            config={"of": name},
            depends_on=("a",),
            on_parent_failure=how,
        )

    pipeline = make_pipeline(
        database,
        step("a"),
        child("skipped", OnParentFailure.SKIP),
        child("failed", OnParentFailure.FAIL),
        child("run", OnParentFailure.RUN),
        step("after", "failed"),
    )
    fail(database, claim_one(database))
    states = {name: job_of(database, pipeline, name).state.value for name in ("skipped", "failed", "after")}
    assert states == {"skipped": "cancelled", "failed": "failed", "after": "cancelled"}
    assert read_pipeline(database, pipeline).finished_at is None
    job = claim_one(database)
    assert job.step == "run"
    succeed(database, job)
    ended = read_pipeline(database, pipeline)
    assert (ended.state, ended.error) == (JobState.FAILED, "a: row 7 is empty")


# --- dead letters -----------------------------------------------------------------------------------------


def test_a_step_runs_again_with_all_that_its_end_had_ended(database: Database) -> None:
    pipeline = make_pipeline(database, step("a"), step("b", "a"), step("c", "b"), step("d"))
    first, other = claim(database, limit=2)
    fail(database, first)
    succeed(database, other)
    assert read_pipeline(database, pipeline).state is JobState.FAILED
    with (
        pytest.raises(Conflict, match="step a before it ended as failed: retry job"),
        database.transaction() as session,
    ):
        jobs.redrive(session, job_of(database, pipeline, "b").id, ADA)
    with database.transaction() as session:
        jobs.retry_pipeline(session, pipeline.id, ADA)
    assert read_pipeline(database, pipeline).state is JobState.RUNNING
    for name in ("a", "b", "c"):
        job = claim_one(database)
        assert job.step == name
        succeed(database, job)
    assert read_pipeline(database, pipeline).state is JobState.SUCCEEDED
    with pytest.raises(Conflict, match="no step of it ended badly"), database.transaction() as session:
        jobs.retry_pipeline(session, pipeline.id, ADA)


def test_dead_letters_are_redriven_by_filter_with_all_their_tries(database: Database) -> None:
    enqueue(
        database,
        *(spec(kind=kind, max_attempts=1) for kind in ("a", "b", "b")),
        spec(kind="b", unique_key="u", max_attempts=1),
    )
    for job in take(database, 9):
        with database.transaction() as session:
            jobs.fail(session, job.id, job.epoch, f"{job.kind} is broken", ErrorClass.UNEXPECTED)
    enqueue(database, spec(kind="b", unique_key="u"))
    with database.transaction() as session:
        again = jobs.redrive_matching(session, ADA, kind="b", error="is broken")
    assert len(again) == 2  # the third has a successor with its unique key
    with database.transaction() as session:
        states = Counter(session.scalars(select(Job.state)))
        assert states == {JobState.QUEUED: 3, JobState.DEAD: 2}
        assert session.scalars(select(Job.failures).where(Job.id.in_(again))).all() == [{}, {}]
        assert session.scalars(select(AuditEvent.action)).all() == ["job.redrive"] * 2
    with pytest.raises(Invalid, match="only jobs that are dead"), database.transaction() as session:
        jobs.redrive_matching(session, ADA, states=[JobState.RUNNING])
    with pytest.raises(Conflict, match="is queued: only one that failed"), database.transaction() as session:
        jobs.redrive(session, again[0], ADA)


def test_a_job_that_stands_alone_tells_only_of_what_is_out_of_the_ordinary(database: Database) -> None:
    enqueue(database, spec(), spec())
    good, bad = take(database, 2)
    complete(database, good)
    fail(database, bad)
    with database.transaction() as session:
        told = session.execute(select(JobEvent.job_id, JobEvent.data)).all()
    assert [(row[0], row[1]["state"]) for row in told] == [(bad.id, "failed")]


# --- many at once -----------------------------------------------------------------------------------------


def test_beats_and_ends_of_the_same_jobs_do_not_wait_for_each_other(database: Database) -> None:
    enqueue(database, *(spec() for _ in range(200)))
    taken = take(database, 200)
    stop = threading.Event()
    both_beat = threading.Barrier(3, timeout=60)

    def beat() -> int:
        count = 0
        held = database.hold()
        while not stop.is_set():
            held.run(
                lambda connection: jobs.beat(connection, [(job.id, job.epoch) for job in reversed(taken)])
            )
            count += 1
            if count == 1:
                both_beat.wait()
            time.sleep(0.005)
        held.close()
        return count

    with ThreadPoolExecutor(2) as threads:
        beating = [threads.submit(beat) for _ in range(2)]
        try:
            both_beat.wait()
            # A row that a beat changes at each of its tries is left to the caller, who goes on (see `complete`).
            end_by = time.monotonic() + 60
            for start in range(0, 200, 20):
                left = taken[start : start + 20]
                while left:
                    assert time.monotonic() < end_by
                    ended = complete(database, *left)
                    left = [job for job in left if job.id not in ended]
        finally:
            stop.set()
        assert all(each.result() > 0 for each in beating)


def test_a_claim_uses_the_index_of_what_is_ready(database: Database) -> None:
    def plan(session: Session) -> str:
        jobs.enqueue(jobs.raw(session), [spec() for _ in range(2000)])
        session.execute(text("ANALYZE job"))
        statement = "EXPLAIN " + jobs.claims.CLAIM
        parameters = {
            "queue": "short",
            "limit": 1,
            "worker": "w",
            "lease_s": 30.0,
            "floors": jobs.claims.NO_FLOORS,
        }
        return "\n".join(str(row[0]) for row in jobs.raw(session).execute(statement, parameters))

    with database.transaction() as session:
        told = plan(session)
    assert "job_ready_idx" in told
    assert "Seq Scan on job" not in told
