"""Quotas of teams, accelerators, and why a job waits: in claims, on a real Postgres."""

from __future__ import annotations

import datetime as dt
import threading
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select, text
from tests.registry.making import ADA, claim, job_of, make_pipeline, read_job, step, succeed
from tests.registry.using import make_account

from raymill.policies.errors import Invalid
from raymill.registry import accelerators, jobs, quotas, teams
from raymill.registry.accelerators import Gpus
from raymill.registry.database import Database
from raymill.registry.jobs import Done, JobSpec, Needs, StepSpec
from raymill.registry.jobs.waiting import reasons
from raymill.registry.tables import AuditEvent, Job


def make_team(database: Database, name: str, **bounds: int | None) -> uuid.UUID:
    with database.transaction() as session:
        team = teams.create_team(session, name, ADA)
        quotas.set_quota(session, name, bounds, ADA)
        return team.id


def enqueue(database: Database, *specs: JobSpec) -> list[uuid.UUID]:
    return database.hold_once(lambda held: jobs.enqueue(held, specs))


def spec(team_id: uuid.UUID | None = None, **given: object) -> JobSpec:
    needs = Needs(**{key: given.pop(key) for key in ("gpus", "cpus", "accelerator") if key in given})  # type: ignore[arg-type]
    return JobSpec(kind="note", team_id=team_id, needs=needs, **given)  # type: ignore[arg-type]


def tell(database: Database, found: Mapping[str, Gpus]) -> None:
    with database.transaction() as session:
        accelerators.tell(session, found)


def why(database: Database, *ids: uuid.UUID) -> list[str | None]:
    with database.transaction() as session:
        rows = [session.get_one(Job, each) for each in ids]
        found = reasons(session, rows)
        return [found.get(each) for each in ids]


# --- quotas ---------------------------------------------------------------------------------------------


def test_racing_claims_never_exceed_a_quota_and_leave_nothing_that_fits(database: Database) -> None:
    """Eight workers claim and end jobs of two teams; the worst that any moment held is read from the rows' times."""
    ops = make_team(database, "ops", max_running=3)
    art = make_team(database, "art", max_gpus=4, max_cpus=6)
    free = [spec() for _ in range(20)]
    few = [spec(ops) for _ in range(40)]
    wide = [spec(art, gpus=1 + n % 3, cpus=2) for n in range(30)]
    ids = enqueue(
        database,
        *(each for group in zip(few, wide, strict=False) for each in group),
        *free,
        *few[30:],
        *wide[30:],
    )
    seen: list[tuple[int, int, int]] = []
    worst = text(
        "SELECT count(*) FILTER (WHERE team_id = :ops), coalesce(sum(gpus) FILTER (WHERE team_id = :art), 0),"
        " coalesce(sum(cpus) FILTER (WHERE team_id = :art), 0) FROM job WHERE state = 'running'"
    )
    over = threading.Event()

    def work(number: int) -> None:
        with_floors = jobs.Floors() if number % 2 else None
        held = database.hold()
        empty = 0
        while empty < 3 and not over.is_set():
            taken = held.run(
                lambda connection: jobs.claim(
                    connection, "short", f"w{number}", limit=1 + number % 4, floors=with_floors
                )
            )
            empty = 0 if taken else empty + 1
            with database.transaction() as session:
                seen.append(tuple(session.execute(worst, {"ops": ops, "art": art}).one()))
            if taken:
                done = [Done(job.id, job.epoch, {}) for job in taken]
                held.run(lambda connection, done=done: jobs.complete(connection, done))  # type: ignore[misc]
        held.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert max(running for running, _, _ in seen) == 3
    assert max(gpus for _, gpus, _ in seen) <= 4
    assert max(cpus for _, _, cpus in seen) <= 6
    with database.transaction() as session:
        left = session.scalar(select(func.count()).where(Job.id.in_(ids), Job.state != "succeeded"))
    assert left == 0


def test_a_busy_worker_that_ends_and_takes_keeps_quotas_too(database: Database) -> None:
    ops = make_team(database, "ops", max_running=2)
    enqueue(database, *(spec(ops) for _ in range(5)), spec())
    first = claim(database, limit=6)
    assert len(first) == 3  # two of the team, and the one that is nobody's
    done = [Done(job.id, job.epoch, {}) for job in first[:1]]
    ended, taken = database.hold_once(
        lambda held: jobs.complete_and_claim(held, done, "short", "w1", limit=5)
    )
    assert (len(ended), taken) == (1, [])  # a queue with such jobs is claimed from under the lock, next
    assert len(claim(database, limit=5)) == 1


def test_a_quota_counts_gpus_and_lets_smaller_jobs_pass(database: Database) -> None:
    art = make_team(database, "art", max_gpus=4)
    big, bigger, small, none = enqueue(
        database, spec(art, gpus=3), spec(art, gpus=8), spec(art, gpus=1), spec(art)
    )
    assert [job.id for job in claim(database, limit=1)] == [big]
    assert {job.id for job in claim(database, limit=9)} == {small, none}
    (told,) = why(database, bigger)
    assert told is not None
    assert told.startswith("it asks for 8 GPUs, and the quota of team art is 4: ask for less")
    with database.transaction() as session:
        quota = quotas.set_quota(session, "art", {"max_gpus": None}, ADA)
        assert (quota.running, quota.gpus, quota.queued, quota.max_gpus) == (3, 4, 1, None)
    with database.transaction() as session:
        assert session.scalar(select(func.count()).where(AuditEvent.action == "team.quota")) == 2
    assert [job.id for job in claim(database)] == [bigger]


def test_a_bound_below_nothing_is_refused(database: Database) -> None:
    make_team(database, "ops")
    with (
        database.transaction() as session,
        pytest.raises(Invalid, match="max_gpus is -1: it must be 0 or more"),
    ):
        quotas.set_quota(session, "ops", {"max_gpus": -1}, ADA)


def test_steps_count_against_the_team_of_who_asked(database: Database) -> None:
    make_team(database, "ops", max_running=0)
    make_account(database, "ada", team="ops")
    make_pipeline(database, step("only"))
    assert claim(database) == []


# --- accelerators ---------------------------------------------------------------------------------------


def test_jobs_wait_until_their_accelerators_are_free(database: Database) -> None:
    asked = [spec(queue="heavy", gpus=4, accelerator="H100") for _ in range(3)]
    ids = enqueue(database, *asked, spec(queue="heavy", gpus=4, accelerator="any"))
    assert claim(database, queue="heavy", limit=9) == []
    tell(database, {"any": Gpus(16, 16), "H100": Gpus(8, 8), "A100": Gpus(8, 8)})
    taken = claim(database, queue="heavy", limit=9)
    assert [job.id for job in taken] == [ids[0], ids[1], ids[3]]  # eight H100, and four of any
    assert (
        claim(database, queue="heavy", limit=9) == []
    )  # Ray has not placed them yet: what was claimed counts
    succeed(database, taken[0])
    tell(database, {"any": Gpus(16, 9), "H100": Gpus(8, 3), "A100": Gpus(8, 6)})  # something else holds one
    assert claim(database, queue="heavy", limit=9) == []
    tell(database, {"any": Gpus(16, 12), "H100": Gpus(8, 4)})
    assert len(claim(database, queue="heavy", limit=9)) == 1


def test_the_cluster_is_to_have_what_runs_and_what_is_next(database: Database) -> None:
    def wanted(slots: int) -> dict[str, int]:
        with database.transaction() as session:
            return accelerators.wanted(session, slots)

    assert wanted(8) == {}
    tell(database, {"any": Gpus(4, 4), "H100": Gpus(4, 4)})
    enqueue(database, spec(queue="heavy", gpus=4, accelerator="H100"))
    assert len(claim(database, queue="heavy", limit=1)) == 1
    ops = make_team(database, "ops", max_gpus=1)
    enqueue(
        database,
        spec(queue="heavy", gpus=2, accelerator="L4"),
        spec(queue="heavy"),  # takes a slot
        spec(queue="heavy", gpus=8, accelerator="H100"),
        spec(queue="heavy", gpus=1, accelerator="any", priority=3),
        spec(ops, queue="heavy", gpus=2, accelerator="L4"),  # its team may not
        spec(queue="heavy", gpus=16, accelerator="L4", run_at=dt.datetime(2100, 1, 31, tzinfo=dt.UTC)),
    )
    assert wanted(2) == {"H100": 4, "any": 1}
    assert wanted(3) == wanted(4) == {"H100": 4, "any": 1, "L4": 2}
    assert wanted(9) == {"H100": 12, "any": 1, "L4": 2}
    with database.transaction() as session:
        jobs.pause_queue(session, "heavy", ADA)
    assert wanted(9) == {"H100": 4}


# --- why a job waits ------------------------------------------------------------------------------------


def test_each_reason_is_told_in_words_for_a_page_at_once(database: Database) -> None:
    ops = make_team(database, "ops", max_running=1, max_gpus=8)
    tell(database, {"any": Gpus(8, 2), "H100": Gpus(8, 2)})
    with database.transaction() as session:
        for name, most in (("narrow", 1), ("shut", None)):
            jobs.set_queue(session, name, ADA, max_running=most)
        jobs.pause_queue(session, "shut", ADA)
    pipeline = make_pipeline(database, step("first"), step("second"), step("last", "first", "second"))
    later = dt.datetime(2100, 1, 31, 8, tzinfo=dt.UTC)
    running = enqueue(database, spec(ops), spec(queue="narrow"), spec(concurrency_key="k"))
    for queue in ("short", "narrow"):
        claim(database, queue=queue, limit=9)
    waiting = enqueue(
        database,
        spec(queue="shut"),
        spec(run_at=later),
        spec(queue="narrow"),
        spec(concurrency_key="k"),
        spec(ops),
        spec(queue="heavy", gpus=1, accelerator="B200"),
        spec(queue="heavy", gpus=9, accelerator="H100"),
        spec(queue="heavy", gpus=3, accelerator="any"),
        spec(queue="heavy"),
        spec(),
    )
    with database.transaction() as session:
        jobs.pause_job(session, waiting[-1], ADA)
    told = why(database, job_of(database, pipeline, "last").id, *waiting, running[0])
    assert told == [
        "these steps come first: first, second",
        "queue shut is paused: `raymill queue resume` starts it again",
        "not before 2100-01-31 08:00:00 UTC",
        "queue narrow runs 1 job, and may run 1",
        "concurrency key k has 1 running job, and may have 1",
        "team ops holds 1 job of a quota of 1, and it asks for 1",
        "it asks for 1 GPU of type B200, and no node has one: the cluster has H100",
        "it asks for 9 GPUs of type H100, and the cluster has 8: ask for fewer, or add nodes",
        "it asks for 3 GPUs, and 2 of 8 are free",
        "it is next, once a worker is free",
        "it is paused: `raymill jobs resume` lets it go on",
        None,
    ]


def test_where_a_step_runs_is_no_part_of_its_address(database: Database) -> None:
    here = StepSpec(step="train", kind="note", queue="short", config={"lr": 1, "resources": None})
    there = StepSpec(
        step="train",
        kind="note",
        queue="short",
        config={"lr": 1, "resources": {"accelerator": "H100", "gpus": 1}},
    )
    made = [make_pipeline(database, each) for each in (here, there)]
    first, second = (job_of(database, each, "train") for each in made)
    assert read_job(database, first.id).address == read_job(database, second.id).address
