"""Hooks on a real Postgres: what ends writes its jobs in the same transaction, once for each end."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tests.registry.making import (
    ADA,
    claim_one,
    make_pipeline,
    read_pipeline,
    step,
    succeed,
)

from raymill.policies.errors import Conflict, Invalid, NotFound
from raymill.registry import hooks, jobs, master_keys, named
from raymill.registry.database import Database
from raymill.registry.jobs import Done, ErrorClass, JobSpec
from raymill.registry.secrets import SecretBox
from raymill.registry.tables import AuditEvent, Hook, Job, JobState


def add(database: Database, name: str, *on: str, action: str = "promote", **given: Any) -> Hook:
    config = given.pop("config", {})
    with database.transaction() as session:
        return hooks.create(session, name, ADA, on=list(on), action=action, config=config, **given)[0]


def written(database: Database) -> list[Job]:
    with database.transaction() as session:
        return list(session.scalars(select(Job).where(Job.queue == "hooks").order_by(Job.id)))


def events(database: Database) -> list[str]:
    return [job.config["event"] for job in written(database)]


def test_a_hook_is_made_disabled_and_deleted_with_an_audit_row_each(database: Database) -> None:
    add(database, "tell", "pipeline.failed")
    with pytest.raises(Conflict, match="exists already"):
        add(database, "tell", "pipeline.failed")
    with database.transaction() as session:
        hooks.enable(session, "tell", ADA, enabled=False)
        hooks.enable(session, "tell", ADA, enabled=True)
        hooks.remove(session, "tell", ADA)
        with pytest.raises(NotFound, match="raymill hook list"):
            hooks.find(session, "tell")
    with database.transaction() as session:
        actions = list(session.scalars(select(AuditEvent.action).order_by(AuditEvent.seq)))
    assert actions == ["hook.create", "hook.disable", "hook.enable", "hook.delete"]


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"on": []}, "on"),
        ({"on": ["job.exploded"]}, "on"),
        ({"name": "A b"}, "name"),
        ({"subject": "A b"}, "subject"),
        ({"action": "dance"}, "action"),
        ({"config": {"to": "x"}}, "config.to"),
        ({"config": {"alias": "A b"}}, "config.alias"),
        ({"config": {"require": 1}}, "config.require"),
    ],
)
def test_a_hook_that_makes_no_sense_names_what_is_wrong(
    database: Database, given: dict[str, Any], param: str
) -> None:
    whole: dict[str, Any] = {"name": "x", "on": ["job.dead"], "action": "promote", "config": {}, **given}
    with pytest.raises(Invalid) as error, database.transaction() as session:
        hooks.create(session, whole.pop("name"), ADA, **whole)
    assert error.value.param == param


@pytest.mark.parametrize(
    "url",
    [
        "",
        7,
        "ftp://host/",
        "https://",
        "https://me:secret@host/",
        "https://host:99999/",
        "https://host/a b",
        "http://169.254.169.254/latest/meta-data",
        "http://2852039166/",
        "http://0xa9fea9fe/",
        "http://[fd00:ec2::254]/",
        "http://[::ffff:169.254.169.254]/",
        "http://[fe80::1]/",
        "http://100.100.100.200/",
    ],
)
def test_an_address_that_is_none_or_holds_a_machines_credentials_is_refused(url: object) -> None:
    with pytest.raises(Invalid) as error:
        hooks.check_url(url)
    assert error.value.param == "config.url"
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["https://host/a?b=c", "http://127.0.0.1:8080/", "http://10.0.0.7/", "http://[::1]/"]
)
def test_private_addresses_are_allowed(url: str) -> None:
    hooks.check_url(url)


def test_a_webhooks_secret_is_sealed_and_survives_a_new_master_key(
    database: Database, tmp_path: Path
) -> None:
    box = SecretBox(tmp_path / "secrets")
    box.create_if_missing()
    with database.transaction() as session:
        row, secret = hooks.create(
            session, "tell", ADA, on=["job.dead"], action="webhook", config={"url": "http://h/"}, box=box
        )
        assert secret is not None
        assert row.secret is not None
        assert secret.encode() not in row.secret
    box.rotate()
    assert master_keys.rewrap(database, box, ADA) == 1
    with database.transaction() as session:
        assert named.open_secret(box, hooks.find(session, "tell")) == secret


def test_each_end_of_a_pipeline_and_its_steps_writes_the_jobs_of_its_hooks(database: Database) -> None:
    add(database, "steps", "job.succeeded", "job.dead")
    add(database, "whole", "pipeline.succeeded", "pipeline.failed", action="rollback")
    add(database, "off", "pipeline.succeeded", enabled=False)
    pipeline = make_pipeline(database, step("a"), step("b", "a"))
    succeed(database, claim_one(database))
    assert events(database) == ["job.succeeded"]
    succeed(database, claim_one(database))
    assert events(database) == ["job.succeeded", "job.succeeded", "pipeline.succeeded"]
    first, _, last = written(database)
    assert (first.kind, first.name, first.state) == ("hook_promote", "steps", JobState.QUEUED)
    assert (first.config["job"]["step"], first.config["pipeline_id"]) == ("a", str(pipeline.id))
    assert first.config["job"]["result"]["digest"]
    assert (last.kind, last.config["pipeline"]["id"]) == ("hook_rollback", str(pipeline.id))
    ended = read_pipeline(database, pipeline).finished_at
    assert ended is not None
    assert last.config["at"] == ended.isoformat()


def test_a_hook_of_one_model_leaves_the_others_alone(database: Database) -> None:
    add(database, "tell", "pipeline.succeeded", subject="triage")
    for name in ("triage", "mails"):
        make_pipeline(database, name=name)
        succeed(database, claim_one(database))
    assert [job.config["pipeline"]["name"] for job in written(database)] == ["triage"]


def test_what_is_rolled_back_is_not_told_of(database: Database) -> None:
    add(database, "tell", "job.succeeded")
    make_pipeline(database)
    job = claim_one(database)
    with contextlib.suppress(RuntimeError), database.transaction() as session:
        jobs.succeed(session, job.id, job.epoch, result={"digest": "d"})
        raise RuntimeError("the connection broke")
    assert written(database) == []
    for _ in range(2):  # also when the answer to the first commit was lost
        with database.transaction() as session:
            jobs.succeed(session, job.id, job.epoch, result={"digest": "d"})
    assert len(written(database)) == 1


def test_a_step_that_fails_and_what_it_ends_are_told_of_by_their_own_states(database: Database) -> None:
    add(database, "tell", *hooks.EVENTS)
    make_pipeline(database, step("a"), step("b", "a"))
    job = claim_one(database)
    with database.transaction() as session:
        jobs.fail(session, job.id, job.epoch, "the input is wrong", ErrorClass.INPUT)
    assert sorted(events(database)) == ["job.cancelled", "job.failed", "pipeline.failed"]
    (told,) = [job for job in written(database) if job.config["event"] == "pipeline.failed"]
    assert told.config["pipeline"]["error"] == "a: the input is wrong"


def test_a_pipeline_that_runs_again_and_ends_again_is_told_of_again(database: Database) -> None:
    add(database, "tell", "pipeline.cancelled", "job.cancelled")
    pipeline = make_pipeline(database)
    for _ in range(2):
        with database.transaction() as session:
            jobs.cancel_pipeline(session, pipeline.id, ADA)
        with database.transaction() as session:
            jobs.retry_pipeline(session, pipeline.id, ADA)
    assert events(database) == ["job.cancelled", "pipeline.cancelled"] * 2


def test_jobs_that_stand_alone_have_no_hooks(database: Database) -> None:
    add(database, "tell", *hooks.EVENTS)
    with database.transaction() as session:
        jobs.enqueue(jobs.raw(session), [JobSpec(kind="note"), JobSpec(kind="note")])
    first, second = claim_one(database), claim_one(database)
    with database.transaction() as session:
        jobs.complete(jobs.raw(session), [Done(first.id, first.epoch, {})])
    with database.transaction() as session:
        jobs.fail(session, second.id, second.epoch, "wrong", ErrorClass.INPUT)
    assert written(database) == []
