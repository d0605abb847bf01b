"""The job engine against a plain-Python model of it: any order of what can happen gives the same states."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import func, select, text, update
from tests.registry.making import ADA

from raymill.policies.errors import Conflict
from raymill.registry import audit, jobs
from raymill.registry.database import Database
from raymill.registry.jobs import MAX_LOSSES, RETRIES, Claimed, Done, ErrorClass, JobSpec, LeaseLost
from raymill.registry.tables import AuditEvent, Job, JobState, Pipeline

QUEUED, RUNNING, PAUSED = JobState.QUEUED, JobState.RUNNING, JobState.PAUSED
SUCCEEDED, FAILED, CANCELLED, DEAD = JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.DEAD
BAD = {FAILED, CANCELLED, DEAD}


@dataclass
class ModelJob:
    """What a job should be."""

    alone: bool
    parents: list[uuid.UUID] = field(default_factory=list)
    key: str | None = None
    state: JobState = QUEUED
    epoch: int = 0
    failures: dict[ErrorClass, int] = field(default_factory=dict)
    losses: int = 0
    progressed: int = 0
    cancel: bool = False
    pause: bool = False
    ended_by: uuid.UUID | None = None
    effects: int = 0


class EngineMachine(RuleBasedStateMachine):
    """Every rule does the same to the registry and to the model; claims are remembered, stale ones too."""

    database: Database
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[uuid.UUID, ModelJob] = {}
        with self.database.transaction() as session:
            for table in ("job_event", "job", "pipeline"):
                session.execute(text(f"DELETE FROM {table}"))

    def job(self, job_id: uuid.UUID) -> ModelJob:
        return self.model[job_id]

    def owns(self, claimed: Claimed) -> bool:
        job = self.job(claimed.id)
        return job.state is RUNNING and job.epoch == claimed.epoch

    # What is made.

    @rule(key=st.sampled_from([None, None, "k"]))
    def enqueue(self, key: str | None) -> None:
        spec = JobSpec(kind="note", concurrency_key=key)
        with self.database.transaction() as session:
            jobs.enqueue(jobs.raw(session), [spec])
        self.model[spec.id] = ModelJob(alone=True, key=key)

    @rule(shape=st.sampled_from(["line", "fan"]))
    def pipeline(self, shape: str) -> None:
        name = uuid.uuid4().hex
        parents = {"line": [(), ("a",), ("b",)], "fan": [(), (), ("a", "b")]}[shape]
        steps = [
            jobs.StepSpec(step=step, kind="note", queue="short", config={"of": name + step}, depends_on=after)
            for step, after in zip("abc", parents, strict=True)
        ]
        with self.database.transaction() as session:
            made = jobs.create_pipeline(session, name="m", recipe={"n": name}, steps=steps, actor=ADA)
            rows = session.scalars(select(Job).where(Job.pipeline_id == made.id).order_by(Job.id)).all()
        for row in rows:
            self.model[row.id] = ModelJob(alone=False, parents=list(row.depends_on))

    # What workers do.

    def ready(self, job: ModelJob) -> bool:
        taken = job.key is not None and any(
            j.key == job.key and j.state is RUNNING for j in self.model.values()
        )
        return job.state is QUEUED and not taken and all(self.job(p).state is SUCCEEDED for p in job.parents)

    @rule(target=claims)
    def claim(self) -> Claimed | None:
        with self.database.transaction() as session:
            session.execute(update(Job).where(Job.state == QUEUED).values(run_at=func.clock_timestamp()))
        with self.database.transaction() as session:
            taken = jobs.claim(jobs.raw(session), "short", "w1")
        if not taken:
            assert not any(self.ready(job) for job in self.model.values())
            return None
        (claimed,) = taken
        job = self.job(claimed.id)
        assert self.ready(job)
        job.state, job.epoch = RUNNING, job.epoch + 1
        assert claimed.epoch == job.epoch
        return claimed

    @rule(claimed=claims)
    def progress(self, claimed: Claimed | None) -> None:
        if claimed is None:
            return
        with self.database.transaction() as session:
            jobs.add_events(session, claimed, [("step", {"step": 1})])
        if self.owns(claimed):
            self.job(claimed.id).progressed = claimed.epoch

    @rule(claimed=claims)
    def beat(self, claimed: Claimed | None) -> None:
        if claimed is None:
            return
        with self.database.transaction() as session:
            (found,) = jobs.beat(jobs.raw(session), [(claimed.id, claimed.epoch)])
        job = self.job(claimed.id)
        owned = self.owns(claimed)
        assert found == (owned, owned and job.cancel, owned and job.pause)

    @rule(claimed=claims)
    def succeed(self, claimed: Claimed | None) -> None:
        if claimed is None:
            return
        job = self.job(claimed.id)

        def effect(session: object, row: Job, _: object) -> None:
            audit.record(session, ADA, "model.effect", f"job/{row.id}")  # type: ignore[arg-type]

        again = job.state is SUCCEEDED and job.epoch == claimed.epoch
        try:
            with self.database.transaction() as session:
                jobs.succeed(session, claimed.id, claimed.epoch, result={"digest": "d"}, effects=effect)
        except LeaseLost:
            assert not self.owns(claimed)
            assert not again
            return
        if again:
            return
        assert self.owns(claimed)
        if job.cancel:
            self.end(claimed.id, CANCELLED)
        else:
            job.effects += 1
            self.end(claimed.id, SUCCEEDED)

    @rule(claimed=claims)
    def complete(self, claimed: Claimed | None) -> None:
        if claimed is None:
            return
        with self.database.transaction() as session:
            done = jobs.complete(jobs.raw(session), [Done(claimed.id, claimed.epoch, {})])
        job = self.job(claimed.id)
        assert bool(done) == (self.owns(claimed) and job.alone and not job.cancel)
        if done:
            self.end(claimed.id, SUCCEEDED)

    @rule(target=claims, claimed=claims)
    def complete_and_claim(self, claimed: Claimed | None) -> Claimed | None:
        if claimed is None:
            return None
        with self.database.transaction() as session:
            session.execute(update(Job).where(Job.state == QUEUED).values(run_at=func.clock_timestamp()))
        ready = [job for job in self.model.values() if self.ready(job)]  # before the end frees a slot
        with self.database.transaction() as session:
            ended, taken = jobs.complete_and_claim(
                jobs.raw(session), [Done(claimed.id, claimed.epoch, {})], "short", "w1", limit=1
            )
        job = self.job(claimed.id)
        assert bool(ended) == (self.owns(claimed) and job.alone and not job.cancel)
        if ended:
            self.end(claimed.id, SUCCEEDED)
        assert bool(taken) == bool(ready)
        if not taken:
            return None
        (following,) = taken
        job = self.job(following.id)
        assert any(job is each for each in ready)
        job.state, job.epoch = RUNNING, job.epoch + 1
        assert following.epoch == job.epoch
        return following

    @rule(claimed=claims, why=st.sampled_from(ErrorClass))
    def fail(self, claimed: Claimed | None, why: ErrorClass) -> None:
        if claimed is None:
            return
        job = self.job(claimed.id)
        owned = self.owns(claimed)
        try:
            with self.database.transaction() as session:
                jobs.fail(session, claimed.id, claimed.epoch, "no", why)
        except LeaseLost:
            assert not owned
            return
        assert owned
        job.failures[why] = job.failures.get(why, 0) + (not job.cancel)
        if job.cancel:
            self.end(claimed.id, CANCELLED)
        elif why is ErrorClass.INPUT:
            self.end(claimed.id, FAILED)
        elif job.failures[why] >= (RETRIES[why].tries or 3):
            self.end(claimed.id, DEAD)
        else:
            self.another(job)

    @rule(claimed=claims)
    def give_back(self, claimed: Claimed | None) -> None:
        if claimed is None:
            return
        owned = self.owns(claimed)
        try:
            with self.database.transaction() as session:
                jobs.give_back(session, claimed.id, claimed.epoch, "shutdown")
        except LeaseLost:
            assert not owned
            return
        assert owned
        if self.job(claimed.id).cancel:
            self.end(claimed.id, CANCELLED)
        else:
            self.another(self.job(claimed.id))

    @rule(claimed=claims)
    def stop(self, claimed: Claimed | None) -> None:
        """The worker has seen a cancel or a pause."""
        if claimed is None or not self.owns(claimed):
            return
        job = self.job(claimed.id)
        with self.database.transaction() as session:
            jobs.end_pause(session, claimed.id, claimed.epoch)
        if job.cancel:
            self.end(claimed.id, CANCELLED)
        else:
            self.another(job)

    @rule()
    def sweep(self) -> None:
        """Every running worker goes silent."""
        with self.database.transaction() as session:
            past = func.clock_timestamp() - text("interval '1 second'")
            session.execute(update(Job).where(Job.state == RUNNING).values(lease_until=past))
        with self.database.transaction() as session:
            swept = {job.id for job in jobs.sweep(session)}
        running = {job_id for job_id, job in self.model.items() if job.state is RUNNING}
        assert swept == running
        for job_id in sorted(running):
            job = self.job(job_id)
            if job.cancel:
                self.end(job_id, CANCELLED)
                continue
            job.losses = 1 if job.progressed == job.epoch else job.losses + 1
            if job.losses >= MAX_LOSSES:
                self.end(job_id, DEAD)
            else:
                self.another(job)

    # What people do.

    def any_id(self, data: int) -> uuid.UUID | None:
        return list(self.model)[data % len(self.model)] if self.model else None

    @rule(data=st.integers(0, 1000))
    def cancel(self, data: int) -> None:
        if (job_id := self.any_id(data)) is None:
            return
        with self.database.transaction() as session:
            jobs.cancel_job(session, job_id, ADA)
        job = self.job(job_id)
        if job.state is RUNNING:
            job.cancel = True
        elif not job.state.terminal:
            self.end(job_id, CANCELLED)

    @rule(data=st.integers(0, 1000))
    def pause(self, data: int) -> None:
        if (job_id := self.any_id(data)) is None:
            return
        job = self.job(job_id)
        try:
            with self.database.transaction() as session:
                jobs.pause_job(session, job_id, ADA)
        except Conflict:
            assert job.state.terminal
            return
        if job.state is RUNNING:
            job.pause = True
        elif job.state is QUEUED:
            job.state = PAUSED

    @rule(data=st.integers(0, 1000))
    def resume(self, data: int) -> None:
        if (job_id := self.any_id(data)) is None:
            return
        job = self.job(job_id)
        try:
            with self.database.transaction() as session:
                jobs.resume_job(session, job_id, ADA)
        except Conflict:
            assert job.state.terminal
            return
        job.pause = False
        if job.state is PAUSED:
            job.state = QUEUED

    @rule(data=st.integers(0, 1000))
    def redrive(self, data: int) -> None:
        if (job_id := self.any_id(data)) is None:
            return
        job = self.job(job_id)
        blocked = job.ended_by is not None and self.job(job.ended_by).state in BAD
        try:
            with self.database.transaction() as session:
                jobs.redrive(session, job_id, ADA)
        except Conflict:
            assert job.state not in BAD or blocked
            return
        assert job.state in BAD
        assert not blocked
        self.again(job_id)

    # What follows, in the model.

    def another(self, job: ModelJob) -> None:
        job.state, job.pause = PAUSED if job.pause else QUEUED, False

    def end(self, job_id: uuid.UUID, state: JobState) -> None:
        job = self.job(job_id)
        job.state, job.pause = state, False
        if state is SUCCEEDED:
            return
        for child_id, child in self.model.items():
            if job_id in child.parents and child.state in {QUEUED, PAUSED}:
                child.ended_by = job_id
                self.end(child_id, CANCELLED)

    def again(self, job_id: uuid.UUID) -> None:
        job = self.job(job_id)
        job.state, job.cancel, job.failures, job.losses, job.ended_by = QUEUED, False, {}, 0, None
        for child_id, child in self.model.items():
            if child.ended_by == job_id and child.state in BAD:
                self.again(child_id)

    # What always holds.

    @invariant()
    def states_agree(self) -> None:
        with self.database.transaction() as session:
            rows = session.execute(select(Job.id, Job.state, Job.epoch, Job.pipeline_id)).all()
            effects = session.scalars(
                select(AuditEvent.object).where(AuditEvent.action == "model.effect")
            ).all()
            ended = {
                row.id: row.finished_at for row in session.execute(select(Pipeline.id, Pipeline.finished_at))
            }
        assert {row.id: (row.state, row.epoch) for row in rows} == {
            job_id: (job.state, job.epoch) for job_id, job in self.model.items()
        }
        for job_id, job in self.model.items():
            assert effects.count(f"job/{job_id}") == job.effects
        for pipeline_id, finished_at in ended.items():
            states = [row.state for row in rows if row.pipeline_id == pipeline_id]
            assert (finished_at is not None) == all(state.terminal for state in states)


def test_the_engine_agrees_with_its_model_P2_P5(database: Database) -> None:
    machine = type("Machine", (EngineMachine,), {"database": database})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
