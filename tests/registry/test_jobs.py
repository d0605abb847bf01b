"""The job engine's promises, on a real Postgres."""

from __future__ import annotations

import datetime as dt
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session
from tests.registry.making import (
    ADA,
    World,
    claim,
    claim_one,
    job_of,
    make_pipeline,
    read_job,
    read_pipeline,
    step,
    succeed,
)

from raymill.cluster.claim import Claimer
from raymill.cluster.settings import Settings
from raymill.cluster.wake import Wake
from raymill.policies.errors import Conflict, Invalid, NotFound
from raymill.registry import audit, jobs
from raymill.registry.artifacts import FileDigest, Published
from raymill.registry.database import Database
from raymill.registry.jobs import Beat, Claimed, ErrorClass, LeaseLost
from raymill.registry.tables import Artifact, AuditEvent, Job, JobEvent, JobState, JsonObject, Pipeline

PUBLISHED = Published(
    name="model/triage/000000000001",
    files=(FileDigest(path="a", size_bytes=1, sha256="0" * 64),),
    digest="1" * 64,
)


# --- submission (P1, P3) ----------------------------------------------------------------------------------


def test_the_same_key_and_recipe_give_the_same_pipeline_also_after_it_ended_P3(database: Database) -> None:
    first = make_pipeline(database, key="k1")
    succeed(database, claim_one(database))
    assert make_pipeline(database, key="k1").id == first.id
    with database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 1


def test_the_same_key_with_another_recipe_is_refused_P3(database: Database) -> None:
    make_pipeline(database, key="k1")
    with pytest.raises(Conflict, match="'k1' was used with another recipe: use a new key"):
        make_pipeline(database, key="k1", recipe={"model": "other"})


def test_eight_submissions_at_once_with_one_key_are_one_pipeline_P3(database: Database) -> None:
    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(lambda _: make_pipeline(database, key="k1").id, range(8)))
    assert len(found) == 1


def test_a_submission_is_audited_with_who_made_it(database: Database) -> None:
    pipeline = make_pipeline(database, step("a"), step("b", "a"))
    with database.transaction() as session:
        row = session.scalars(select(AuditEvent)).one()
    assert (row.actor, row.action, row.object) == ("ada", "pipeline.create", f"pipeline/{pipeline.id}")
    assert row.detail == {"name": "triage", "steps": ["a", "b"]}


# --- claims -----------------------------------------------------------------------------------------------


def test_the_most_urgent_is_claimed_first_then_the_oldest(database: Database) -> None:
    pipeline = make_pipeline(database, step("a"), step("b"), step("c"))
    with database.transaction() as session:
        session.execute(update(Job).where(Job.step == "c").values(priority=3))
    assert [claim_one(database).step for _ in range(3)] == ["c", "a", "b"]
    assert claim(database) == []
    assert read_pipeline(database, pipeline).state is JobState.RUNNING


def test_a_job_waits_for_all_its_parents_and_learns_its_address_then(database: Database) -> None:
    pipeline = make_pipeline(database, step("a"), step("b"), step("c", "a", "b"))
    assert job_of(database, pipeline, "c").address is None
    first, second = claim(database, limit=5)
    succeed(database, first)
    assert claim(database) == []
    succeed(database, second)
    child = claim_one(database)
    assert child.step == "c"
    assert child.address is not None


def test_an_address_follows_from_kind_config_and_inputs_alone(database: Database) -> None:
    def address_of_child(digest: str) -> str | None:
        pipeline = make_pipeline(database, step("a"), step("b", "a"))
        succeed(database, claim_one(database), {"digest": digest, "seconds": time.monotonic()})
        child = claim_one(database)
        assert child.pipeline_id == pipeline.id
        succeed(database, child)
        return child.address

    assert address_of_child("d1") == address_of_child("d1") != address_of_child("d2")


def test_queues_do_not_mix_and_a_later_time_is_waited_for(database: Database) -> None:
    make_pipeline(database, step("a", queue="heavy"), step("b"))
    with database.transaction() as session:
        session.execute(
            update(Job)
            .where(Job.step == "b")
            .values(run_at=func.clock_timestamp() + dt.timedelta(seconds=60))
        )
    assert claim(database) == []
    assert claim_one(database, queue="heavy").step == "a"


def test_no_job_is_claimed_twice_by_claimers_at_once(database: Database) -> None:
    for number in range(5):
        make_pipeline(database, *(step(f"s{number}-{each}") for each in range(12)))

    def work(_: int) -> list[str]:
        mine = []
        while found := database.patiently(
            lambda session: jobs.claim(jobs.raw(session), "short", "w", limit=3)
        ):
            mine += [job.step for job in found]
        return mine

    with ThreadPoolExecutor(6) as threads:
        taken = [name for mine in threads.map(work, range(6)) for name in mine]
    assert len(taken) == len(set(taken)) == 60


def test_a_locked_job_is_skipped_not_waited_for(database: Database) -> None:
    make_pipeline(database, step("a"))
    make_pipeline(database, step("b"))
    with database.transaction() as session:
        (held,) = jobs.claim(jobs.raw(session), "short", "w1")
        assert claim_one(database).step != held.step


# --- the same step in two pipelines -----------------------------------------------------------------------


def test_pipelines_that_make_the_same_thing_take_turns_also_in_one_batch(database: Database) -> None:
    for _ in range(3):
        make_pipeline(database)
    (first,) = claim(database, limit=8)
    assert claim(database, limit=8) == []
    succeed(database, first)
    (second,) = claim(database, limit=8)
    assert second.concurrency_key == first.concurrency_key
    assert second.pipeline_id != first.pipeline_id


def test_two_claimers_at_once_never_take_the_same_thing(database: Database) -> None:
    for _ in range(2):
        make_pipeline(database)
    claimed: list[Claimed] = []
    with database.transaction() as session:
        first = jobs.claim(jobs.raw(session), "short", "w1")
        # The other one finds the twin free, for our claim is not committed, and waits for the index.
        other = threading.Thread(target=lambda: claimed.extend(claim(database)))
        other.start()
        time.sleep(0.3)
    other.join()
    assert len(first) == 1
    assert claimed == []


# --- the fence (P2) ---------------------------------------------------------------------------------------


def beat(session: Session, job: Claimed, lease_s: float = 30.0) -> Beat:
    return jobs.beat(jobs.raw(session), [(job.id, job.epoch)], lease_s=lease_s)[0]


def lost_and_claimed_again(database: Database) -> tuple[Claimed, Claimed]:
    """A job as its first worker knew it, and as the second one does."""
    make_pipeline(database)
    old = claim_one(database, lease_s=0.01)
    time.sleep(0.03)
    assert [job.id for job in sweep(database)] == [old.id]
    with database.transaction() as session:
        session.execute(update(Job).values(run_at=func.clock_timestamp()))
    return old, claim_one(database)


def sweep(database: Database) -> list[Job]:
    with database.transaction() as session:
        return jobs.sweep(session)


def test_a_worker_that_lost_its_lease_can_end_nothing_P2(database: Database) -> None:
    old, new = lost_and_claimed_again(database)
    assert (old.epoch, new.epoch) == (1, 2)
    with database.transaction() as session:
        assert not beat(session, old).owned
        assert beat(session, new) == (True, False, False)
    with pytest.raises(LeaseLost, match="not ours any more at epoch 1"):
        succeed(database, old, artifacts=(PUBLISHED,))
    with pytest.raises(LeaseLost), database.transaction() as session:
        jobs.fail(session, old.id, old.epoch, "no", ErrorClass.INPUT)
    with pytest.raises(LeaseLost), database.transaction() as session:
        jobs.end_cancel(session, old.id, old.epoch)
    assert read_job(database, new.id).state is JobState.RUNNING
    assert succeed(database, new) is JobState.SUCCEEDED


def test_a_living_worker_is_not_swept_P4(database: Database) -> None:
    make_pipeline(database)
    job = claim_one(database, lease_s=0.05)
    with database.transaction() as session:
        assert beat(session, job, lease_s=30).owned
    time.sleep(0.07)
    assert sweep(database) == []


def test_a_swept_job_waits_a_moment_and_says_who_was_lost_P4(database: Database) -> None:
    old, _ = lost_and_claimed_again(database)
    with database.transaction() as session:
        rows = session.scalars(select(JobEvent).where(JobEvent.job_id == old.id).order_by(JobEvent.id)).all()
    assert [row.data["state"] for row in rows] == ["queued", "running", "queued", "running"]
    assert rows[2].data["error"] == "worker w1 was lost"


# --- bad ends ---------------------------------------------------------------------------------------------


def fail(database: Database, job: Claimed, error: str, *, retry: bool) -> JobState:
    why = ErrorClass.UNEXPECTED if retry else ErrorClass.INPUT
    with database.transaction() as session:
        return jobs.fail(session, job.id, job.epoch, error, why)


def test_attempts_run_out_and_the_pipeline_says_why(database: Database) -> None:
    pipeline = make_pipeline(database, step("a", tries=2), step("b", "a"), step("c", "b"))
    assert fail(database, claim_one(database), "out of memory", retry=True) is JobState.QUEUED
    with database.transaction() as session:
        session.execute(update(Job).values(run_at=func.clock_timestamp()))
    assert fail(database, claim_one(database), "out of memory", retry=True) is JobState.DEAD
    assert job_of(database, pipeline, "a").error == "out of memory (unexpected error 2 of 2)"
    for name, parent, state in (("b", "a", "dead"), ("c", "b", "cancelled")):
        child = job_of(database, pipeline, name)
        assert (child.state, child.error) == (JobState.CANCELLED, f"step {parent} ended as {state}")
    ended = read_pipeline(database, pipeline)
    assert (ended.state, ended.error) == (JobState.FAILED, "a: out of memory (unexpected error 2 of 2)")
    assert ended.finished_at is not None


def test_a_wrong_input_is_not_tried_again(database: Database) -> None:
    pipeline = make_pipeline(database, step("a"), step("b"))
    first, second = claim(database, limit=2)
    assert fail(database, first, "row 7 is empty", retry=False) is JobState.FAILED
    # What does not depend on it goes on to its own end.
    assert read_pipeline(database, pipeline).finished_at is None
    succeed(database, second)
    assert read_pipeline(database, pipeline).error == "a: row 7 is empty"


def test_a_pipeline_succeeds_with_its_last_job(database: Database) -> None:
    pipeline = make_pipeline(database, step("a"), step("b", "a"))
    succeed(database, claim_one(database))
    assert read_pipeline(database, pipeline).finished_at is None
    succeed(database, claim_one(database))
    ended = read_pipeline(database, pipeline)
    assert (ended.state, ended.error) == (JobState.SUCCEEDED, None)
    assert ended.finished_at is not None


# --- cancel (P5) ------------------------------------------------------------------------------------------


def cancel(database: Database, job: Job | Claimed) -> Job:
    with database.transaction() as session:
        return jobs.cancel_job(session, job.id, ADA)


def test_a_queued_job_is_cancelled_at_once_with_its_children(database: Database) -> None:
    pipeline = make_pipeline(database, step("a"), step("b", "a"))
    assert cancel(database, job_of(database, pipeline, "a")).state is JobState.CANCELLED
    assert job_of(database, pipeline, "b").state is JobState.CANCELLED
    assert read_pipeline(database, pipeline).state is JobState.CANCELLED
    assert claim(database) == []


def test_after_an_acknowledged_cancel_no_effect_commits_P5(database: Database) -> None:
    pipeline = make_pipeline(database)
    job = claim_one(database)
    assert cancel(database, job).state is JobState.RUNNING
    with database.transaction() as session:
        assert beat(session, job) == (True, True, False)
    assert succeed(database, job, artifacts=(PUBLISHED,)) is JobState.CANCELLED
    ended = read_job(database, job.id)
    assert (ended.state, ended.result) == (JobState.CANCELLED, None)
    with database.transaction() as session:
        assert session.get(Artifact, PUBLISHED.name) is None
    assert read_pipeline(database, pipeline).state is JobState.CANCELLED


@pytest.mark.parametrize("how", ["end_cancel", "fail", "sweep"])
def test_a_cancelled_worker_may_end_in_any_way(database: Database, how: str) -> None:
    make_pipeline(database)
    job = claim_one(database, lease_s=0.01)
    cancel(database, job)
    time.sleep(0.03)
    with database.transaction() as session:
        if how == "end_cancel":
            jobs.end_cancel(session, job.id, job.epoch)
        elif how == "fail":
            jobs.fail(session, job.id, job.epoch, "broken", ErrorClass.UNEXPECTED)
        else:
            jobs.sweep(session)
    assert read_job(database, job.id).state is JobState.CANCELLED


def test_cancelling_again_or_after_the_end_changes_nothing(database: Database) -> None:
    make_pipeline(database)
    job = claim_one(database)
    requested = cancel(database, job).cancel_requested_at
    assert cancel(database, job).cancel_requested_at == requested
    succeed(database, job)
    assert cancel(database, job).state is JobState.CANCELLED
    with database.transaction() as session:
        actions = session.scalars(select(AuditEvent.action)).all()
        assert actions == ["pipeline.create", "job.cancel"]
        with pytest.raises(NotFound, match="`raymill jobs list`"):
            jobs.cancel_job(session, read_pipeline(database, make_pipeline(database)).id, ADA)


def test_pipelines_can_be_cancelled_while_their_jobs_end(database: Database) -> None:
    # Both take locks on jobs and on their pipeline: in one order, or they would wait for each other.
    for _ in range(8):
        pipeline = make_pipeline(database, *(step(f"s{number}") for number in range(6)))
        claimed = claim(database, limit=6)
        assert len(claimed) == 6
        barrier = threading.Barrier(7)

        def end(job: Claimed, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            succeed(database, job)

        def cancel_all(pipeline: Pipeline = pipeline, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            with database.transaction() as session:
                jobs.cancel_pipeline(session, pipeline.id, ADA)

        with ThreadPoolExecutor(7) as threads:
            ends = [threads.submit(end, job) for job in claimed]
            ends.append(threads.submit(cancel_all))
            for done in ends:
                done.result()
        assert read_pipeline(database, pipeline).finished_at is not None


# --- effects (P2) -----------------------------------------------------------------------------------------


def test_success_told_twice_is_one_effect_P2(database: Database) -> None:
    make_pipeline(database)
    job = claim_one(database)
    effects: list[str] = []

    def effect(session: Session, _: Job, result: JsonObject) -> None:
        effects.append("ran")
        audit.record(session, ADA, "test.effect", "x")
        result["effects"] = len(effects)

    for _ in range(2):  # the answer to COMMIT was lost, so the worker says it again
        with database.transaction() as session:
            jobs.succeed(session, job.id, job.epoch, result={}, artifacts=(PUBLISHED,), effects=effect)
    assert effects == ["ran"]
    assert read_job(database, job.id).result == {"effects": 1}
    with database.transaction() as session:
        assert session.scalars(select(AuditEvent.action)).all() == ["pipeline.create", "test.effect"]


def test_when_an_effect_raises_nothing_of_the_end_is_kept(database: Database) -> None:
    make_pipeline(database, step("a"), step("b", "a"))
    job = claim_one(database)

    def effect(session: Session, _: Job, __: JsonObject) -> None:
        audit.record(session, ADA, "test.effect", "x")
        raise Invalid("the scores do not fit")

    with pytest.raises(Invalid), database.transaction() as session:
        jobs.succeed(session, job.id, job.epoch, result={}, artifacts=(PUBLISHED,), effects=effect)
    assert read_job(database, job.id).state is JobState.RUNNING
    with database.transaction() as session:
        assert session.get(Artifact, PUBLISHED.name) is None
        assert session.scalars(select(AuditEvent.action)).all() == ["pipeline.create"]
    assert claim(database) == []  # the child was not let go
    assert succeed(database, job) is JobState.SUCCEEDED


# --- reuse by address -------------------------------------------------------------------------------------


def take(world: World) -> list[Claimed]:
    claimer = Claimer(world.database, Settings(home=world.home), "short", "w1", running=list)
    try:
        return claimer.take(4)
    finally:
        claimer.close()


def made_once(world: World) -> Published:
    """An imported base in the store, and a second pipeline that wants the same one."""
    make_pipeline(world.database, step("base", kind="import_base"))
    published = world.publish("base", "triage", {"model.safetensors": b"weights"})
    (job,) = take(world)
    succeed(world.database, job, {"digest": published.digest, "artifact": published.name}, (published,))
    make_pipeline(world.database, step("base", kind="import_base"), step("next", "base"))
    return published


def test_a_step_that_was_made_before_is_taken_over(world: World) -> None:
    published = made_once(world)
    assert take(world) == []
    with world.database.transaction() as session:
        first, second = session.scalars(select(Job).where(Job.step == "base").order_by(Job.id)).all()
        assert (second.state, second.reused_job_id) == (JobState.SUCCEEDED, first.id)
        assert second.result == first.result == {"digest": published.digest, "artifact": published.name}
        told = session.scalars(select(JobEvent).where(JobEvent.job_id == second.id)).all()[-1]
        assert told.data == {"state": "succeeded", "attempt": 1, "step": "base", "reused": True}


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_step_whose_files_are_not_there_is_made_again(world: World, damage: str) -> None:
    published = made_once(world)
    file = world.store.path(published.name) / "model.safetensors"
    if damage == "gone":
        file.unlink()
        file.parent.rmdir()
    else:
        file.write_bytes(b"weig")
    (job,) = take(world)
    again = world.home / "again"
    again.mkdir()
    (again / "model.safetensors").write_bytes(b"weights")
    published = world.store.publish(published.name, again)
    assert succeed(world.database, job, {"digest": published.digest}, (published,)) is JobState.SUCCEEDED
    with world.database.transaction() as session:
        assert session.get_one(Artifact, published.name).digest == published.digest


def test_what_comes_out_differently_the_second_time_is_refused(world: World) -> None:
    published = made_once(world)
    (world.store.path(published.name) / "model.safetensors").unlink()
    (job,) = take(world)
    other = Published(name=published.name, files=PUBLISHED.files, digest="2" * 64)
    with pytest.raises(Conflict, match="is registered with other bytes, which never change: restore it"):
        succeed(world.database, job, {"digest": other.digest}, (other,))


def test_a_kind_that_governs_is_never_taken_over(world: World) -> None:
    for _ in range(2):
        make_pipeline(world.database, step("promote", kind="promote"))
        (job,) = take(world)
        with world.database.transaction() as session:
            jobs.succeed(session, job.id, job.epoch, result={"digest": "d"})
    assert read_job(world.database, job.id).reused_job_id is None


def test_a_kind_of_another_release_fails_and_does_not_stand_in_the_way(world: World) -> None:
    unknown = make_pipeline(world.database, step("a", kind="transmute"))
    make_pipeline(world.database, step("b", kind="import_base"))
    assert [job.step for job in take(world)] == ["b"]
    assert (read_pipeline(world.database, unknown).error or "").startswith("a: no job kind 'transmute'")


# --- events -----------------------------------------------------------------------------------------------


def test_whoever_has_seen_an_event_never_meets_a_smaller_id_later(database: Database) -> None:
    pipeline = make_pipeline(database, *(step(f"s{number}") for number in range(4)))
    claimed = claim(database, limit=4)
    stop = threading.Event()
    seen: list[int] = []

    def read() -> None:
        last_look = False
        while not last_look:
            last_look = stop.is_set()  # once more when the last has been written
            with database.transaction() as session:
                last = seen[-1] if seen else 0
                rows = select(JobEvent.id).where(JobEvent.pipeline_id == pipeline.id, JobEvent.id > last)
                seen.extend(session.scalars(rows.order_by(JobEvent.id)))

    def write(job: Claimed) -> None:
        for number in range(15):
            with database.transaction() as session:
                jobs.add_events(session, job, [("step", {"step": number}), ("log", {"text": "x"})])

    reader = threading.Thread(target=read)
    reader.start()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, claimed))
    stop.set()
    reader.join()
    with database.transaction() as session:
        everything = session.scalars(select(JobEvent.id).order_by(JobEvent.id)).all()
    assert seen == everything
    assert len(seen) == 8 + 4 * 30  # queued and running of each, and what they said


def test_a_submission_wakes_who_waits_at_commit_and_not_before(database: Database) -> None:
    wake = Wake(database.url, "raymill_job")
    assert wake.wait(0.1)  # it has just begun to listen: something may have happened before
    assert not wake.wait(0.1)
    with database.transaction() as session:
        jobs.notify(session, "raymill_job", "short")
        session.flush()
        assert not wake.wait(0.1)
    assert wake.wait(60)
    wake.close()


def test_a_wake_that_lost_its_connection_listens_again(database: Database) -> None:
    wake = Wake(database.url, "raymill_job")
    wake.wait(0.1)
    with database.transaction() as session:
        session.execute(
            text(
                # Until they are gone, which may take longer than the first wait below.
                "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    assert not wake.wait(0.2)
    assert wake.wait(0.2)
    wake.close()
