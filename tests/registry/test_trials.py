"""Trials as rows: written by the attempt that owns the job, and by no other."""

import uuid

import pytest
from sqlalchemy import update
from tests.registry.making import claim_one, make_pipeline, step

from raymill.policies.errors import NotFound
from raymill.registry import trials
from raymill.registry.database import Database
from raymill.registry.jobs import Claimed, LeaseLost
from raymill.registry.tables import Job, TrialState
from raymill.registry.trials import Tally, TrialRecord


def search_of(database: Database) -> Claimed:
    make_pipeline(database, step("train", kind="tune", queue="heavy"))
    return claim_one(database, queue="heavy")


def test_a_trial_is_read_as_it_was_written_last(database: Database) -> None:
    job = search_of(database)
    record = TrialRecord(number=1, config={"train.lora": {"r": 8}}, steps=4, total_steps=9, metric=0.5)
    other = TrialRecord(number=2, config={}, state=TrialState.FAILED, error="it diverged")
    with database.transaction() as session:
        trials.save(session, job.id, job.epoch, other)
        trials.save(session, job.id, job.epoch, record)
    record.reports.append({"steps": 9, "validation_loss": 0.25})
    record.steps, record.metric, record.state = 9, 0.25, TrialState.FINISHED
    with database.transaction() as session:
        trials.save(session, job.id, job.epoch, record)
    with database.transaction() as session:
        assert trials.load(session, job.id) == [record, other]
        assert trials.tallies(session, [job.id]) == {job.id: Tally(trials=2, over=2, steps=9)}


def test_an_attempt_that_lost_its_lease_writes_no_trial(database: Database) -> None:
    job = search_of(database)
    with database.transaction() as session:
        session.execute(update(Job).where(Job.id == job.id).values(epoch=job.epoch + 1))
    with pytest.raises(LeaseLost), database.transaction() as session:
        trials.save(session, job.id, job.epoch, TrialRecord(number=1, config={}))
    with database.transaction() as session:
        assert trials.load(session, job.id) == []


def test_a_search_is_found_by_its_job_and_by_its_pipeline(database: Database) -> None:
    job = search_of(database)
    assert job.pipeline_id is not None
    with database.transaction() as session:
        assert trials.find_search(session, job.id).id == job.id
        assert trials.find_search(session, job.pipeline_id).id == job.id
        with pytest.raises(NotFound, match="raymill tune list"):
            trials.find_search(session, uuid.UUID(int=1))
