"""Triggers on a real Postgres: what happens is told once, and starts each pipeline once."""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from tests.registry.making import ADA, World, claim, claim_one, job_of, make_pipeline, step, succeed

from raymill.policies.errors import Conflict, Invalid, NotFound
from raymill.registry import cron, master_keys, named, triggers, webhooks
from raymill.registry.artifacts import Published
from raymill.registry.audit import Actor
from raymill.registry.database import Database
from raymill.registry.secrets import SecretBox
from raymill.registry.tables import AuditEvent, Pipeline, Trigger, TriggerEvent
from raymill.registry.triggers import Fired, Planned

UTC = dt.UTC


def plan(trigger: Trigger) -> Planned:
    if trigger.recipe.get("broken"):
        raise Invalid("dataset.train: no such file: /gone")
    if trigger.recipe.get("bug"):
        raise ZeroDivisionError("by zero")
    return Planned(name="triage", recipe=trigger.recipe, steps=[step("only")])


def add(database: Database, name: str = "nightly", *, on: str = "dataset", **given: Any) -> Trigger:
    defaults = {
        "dataset": {"name": "tickets"},
        "cron": {"schedule": "* * * * *"},
        "promotion": {"model": "triage"},
    }
    config = given.pop("config", defaults.get(on, {}))
    recipe = given.pop("recipe", {"model": "triage"})
    with database.transaction() as session:
        return triggers.create(session, name, ADA, on=on, config=config, recipe=recipe, **given)[0]


def tell(database: Database, on: str, subject: str, key: str, **more: Any) -> bool:
    with database.transaction() as session:
        return triggers.happened(session, on, subject, key, **more)


def read(database: Database, name: str = "nightly") -> Trigger:
    with database.transaction() as session:
        return triggers.find(session, name)


def pipelines(database: Database) -> list[Pipeline]:
    with database.transaction() as session:
        return list(session.scalars(select(Pipeline).order_by(Pipeline.id)))


def events(database: Database) -> list[TriggerEvent]:
    with database.transaction() as session:
        return list(session.scalars(select(TriggerEvent).order_by(TriggerEvent.id)))


def fire(database: Database) -> list[Fired]:
    return triggers.fire(database, plan)


def set_next(database: Database, trigger: Trigger, at: dt.datetime) -> None:
    with database.transaction() as session:
        session.execute(update(Trigger).where(Trigger.id == trigger.id).values(next_at=at))


def due(database: Database) -> int:
    with database.transaction() as session:
        return triggers.due(session)


# --- schedules --------------------------------------------------------------------------------------------


def test_a_schedule_keeps_to_the_clock_of_its_time_zone() -> None:
    winter = dt.datetime(2026, 1, 10, 12, tzinfo=UTC)
    summer = dt.datetime(2026, 7, 10, 12, tzinfo=UTC)
    assert cron.next_time("0 3 * * *", "Europe/Berlin", winter) == dt.datetime(2026, 1, 11, 2, tzinfo=UTC)
    assert cron.next_time("0 3 * * *", "Europe/Berlin", summer) == dt.datetime(2026, 7, 11, 1, tzinfo=UTC)


def test_an_hour_that_does_not_exist_runs_after_the_gap_and_one_that_comes_twice_runs_once() -> None:
    spring = dt.datetime(2026, 3, 29, 0, 30, tzinfo=UTC)
    assert cron.next_time("30 2 * * *", "Europe/Berlin", spring) == dt.datetime(2026, 3, 29, 1, tzinfo=UTC)
    autumn = dt.datetime(2026, 10, 24, 23, tzinfo=UTC)
    first = cron.next_time("30 2 * * *", "Europe/Berlin", autumn)
    assert first == dt.datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert cron.next_time("30 2 * * *", "Europe/Berlin", first) == dt.datetime(
        2026, 10, 26, 1, 30, tzinfo=UTC
    )


@pytest.mark.parametrize("microseconds", [-1, 0, 1, 999_999])
def test_the_last_time_is_the_one_that_has_come(microseconds: int) -> None:
    time = dt.datetime(2026, 5, 5, 3, tzinfo=UTC)
    now = time + dt.timedelta(microseconds=microseconds)
    expected = time if microseconds >= 0 else time - dt.timedelta(days=1)
    assert cron.last_time("0 3 * * *", "UTC", now) == expected


@pytest.mark.parametrize(
    ("config", "param"),
    [
        ({}, "config.schedule"),
        ({"schedule": "* * * *"}, "config.schedule"),
        ({"schedule": "* * * * * *"}, "config.schedule"),
        ({"schedule": "61 * * * *"}, "config.schedule"),
        ({"schedule": "0 0 30 2 *"}, "config.schedule"),
        ({"schedule": 5}, "config.schedule"),
        ({"schedule": "* * * * *", "timezone": "Mars/Olympus"}, "config.timezone"),
        ({"schedule": "* * * * *", "timezone": "../etc/passwd"}, "config.timezone"),
        ({"schedule": "* * * * *", "zone": "UTC"}, "config.zone"),
    ],
)
def test_a_schedule_that_is_none_is_refused(database: Database, config: dict[str, Any], param: str) -> None:
    with pytest.raises(Invalid) as error:
        add(database, on="cron", config=config)
    assert error.value.param == param


# --- triggers ---------------------------------------------------------------------------------------------


def test_a_trigger_is_made_listed_disabled_and_deleted_with_an_audit_row_each(database: Database) -> None:
    made = add(database, on="cron")
    assert made.next_at is not None
    with pytest.raises(Conflict, match="exists already"):
        add(database, on="cron")
    with database.transaction() as session:
        assert triggers.enable(session, "nightly", ADA, enabled=False).next_at is None
        triggers.enable(session, "nightly", ADA, enabled=False)
        assert triggers.enable(session, "nightly", ADA, enabled=True).next_at is not None
        triggers.remove(session, "nightly", ADA)
        with pytest.raises(NotFound, match="raymill trigger list"):
            triggers.find(session, "nightly")
    with database.transaction() as session:
        actions = list(session.scalars(select(AuditEvent.action).order_by(AuditEvent.seq)))
    assert actions == ["trigger.create", "trigger.disable", "trigger.enable", "trigger.delete"]


@pytest.mark.parametrize(
    ("on", "config", "param"),
    [
        ("moon", {}, "on"),
        ("dataset", {}, "config.name"),
        ("dataset", {"name": "A b"}, "config.name"),
        ("promotion", {"alias": "production"}, "config.model"),
        ("drift", {"subject": 7}, "config.subject"),
        ("webhook", {"url": "x"}, "config.url"),
    ],
)
def test_a_config_that_is_none_names_its_key(
    database: Database, on: str, config: dict[str, Any], param: str
) -> None:
    with pytest.raises(Invalid) as error:
        add(database, on=on, config=config)
    assert error.value.param == param


def test_a_webhooks_secret_is_sealed_and_survives_a_new_master_key(
    database: Database, tmp_path: Path
) -> None:
    box = SecretBox(tmp_path / "secrets")
    box.create_if_missing()
    with database.transaction() as session:
        row, secret = triggers.create(session, "git", ADA, on="webhook", config={}, recipe={}, box=box)
        assert secret is not None
        assert row.secret is not None
        assert secret.encode() not in row.secret
    box.rotate()
    assert master_keys.rewrap(database, box, ADA) == 1
    with database.transaction() as session:
        assert named.open_secret(box, triggers.find(session, "git")) == secret


# --- cron -------------------------------------------------------------------------------------------------


def test_times_that_were_missed_fire_once_and_the_next_one_lies_ahead(database: Database) -> None:
    trigger = add(database, on="cron", config={"schedule": "*/5 * * * *", "timezone": "Europe/Berlin"})
    set_next(database, trigger, dt.datetime.now(UTC) - dt.timedelta(days=3))
    assert due(database) == 1
    assert due(database) == 0
    (event,) = events(database)
    time = dt.datetime.fromisoformat(event.data["about"]["time"])
    assert dt.timedelta(0) <= event.at - time < dt.timedelta(minutes=5)
    ahead = read(database).next_at
    assert ahead is not None
    assert ahead > event.at
    assert [fired.error for fired in fire(database)] == [None]
    assert len(pipelines(database)) == 1


def test_two_engines_tell_of_one_time_once(database: Database) -> None:
    trigger = add(database, on="cron", config={"schedule": "0 0 * * *"})
    for _ in range(2):  # as if the other one had read the row before this one's commit
        set_next(database, trigger, dt.datetime.now(UTC) - dt.timedelta(hours=30))
        due(database)
    assert len(events(database)) == 1


def test_a_trigger_that_is_not_due_or_disabled_stays_silent(database: Database) -> None:
    trigger = add(database, on="cron")
    assert due(database) == 0
    set_next(database, trigger, dt.datetime.now(UTC) - dt.timedelta(minutes=5))
    with database.transaction() as session:
        triggers.enable(session, "nightly", ADA, enabled=False)
    assert due(database) == 0


def test_a_zone_that_is_gone_stops_its_trigger_alone(database: Database) -> None:
    for name in ("a", "b"):
        set_next(database, add(database, name, on="cron"), dt.datetime.now(UTC) - dt.timedelta(minutes=5))
    with database.transaction() as session:
        config = {"schedule": "* * * * *", "timezone": "Mars/Olympus"}
        session.execute(update(Trigger).where(Trigger.name == "a").values(config=config))
    due(database)
    assert "Mars/Olympus" in (read(database, "a").last_error or "")
    assert read(database, "a").next_at is None
    assert len(events(database)) == 1


# --- what happens -----------------------------------------------------------------------------------------


def test_the_same_thing_told_twice_starts_one_pipeline(database: Database) -> None:
    trigger = add(database)
    assert tell(database, "dataset", "tickets", "7")
    assert not tell(database, "dataset", "tickets", "7")
    (fired,) = fire(database)
    assert fire(database) == []
    (pipeline,) = pipelines(database)
    assert (pipeline.trigger_id, pipeline.created_by, pipeline.id) == (trigger.id, "ada", fired.pipeline_id)
    assert pipeline.idempotency_key == f"trigger/{trigger.id}/dataset/tickets/7"
    found = read(database)
    assert (found.last_pipeline_id, found.last_error) == (pipeline.id, None)
    assert found.last_fired_at is not None


def test_what_is_rolled_back_did_not_happen(database: Database) -> None:
    add(database)
    with contextlib.suppress(RuntimeError), database.transaction() as session:
        triggers.happened(session, "dataset", "tickets", "7")
        raise RuntimeError("the caller failed")
    assert fire(database) == []


def test_only_triggers_that_watch_it_start(database: Database) -> None:
    add(database, "mine")
    add(database, "other", config={"name": "mails"})
    add(database, "off", enabled=False)
    add(database, "alias", on="promotion", config={"model": "tickets", "alias": "staging"})
    add(database, "any-drift", on="drift")
    add(database, "one-drift", on="drift", config={"subject": "route/smart"})
    tell(database, "dataset", "tickets", "7")
    assert [fired.trigger for fired in fire(database)] == ["mine"]
    tell(database, "promotion", "tickets@staging", "p1")
    tell(database, "promotion", "tickets@production", "p2")
    assert [fired.trigger for fired in fire(database)] == ["alias"]
    tell(database, "drift", "route/smart", "d1")
    tell(database, "drift", "route/slow", "d2")
    assert [fired.trigger for fired in fire(database)] == ["any-drift", "one-drift", "any-drift"]
    assert all(event.taken_at is not None for event in events(database))


def test_what_happened_before_a_trigger_was_made_does_not_start_it(database: Database) -> None:
    tell(database, "dataset", "tickets", "7")
    add(database)
    assert fire(database) == []


@pytest.mark.parametrize(
    ("recipe", "words"), [({"broken": True}, "no such file"), ({"bug": True}, "ZeroDivisionError")]
)
def test_a_recipe_that_cannot_be_planned_is_on_record_and_holds_nobody_up(
    database: Database, recipe: dict[str, Any], words: str
) -> None:
    add(database, "bad", recipe=recipe)
    add(database, "good")
    tell(database, "dataset", "tickets", "7")
    bad, good = fire(database)
    assert words in (bad.error or "")
    assert good.pipeline_id is not None
    assert words in (read(database, "bad").last_error or "")
    assert fire(database) == []
    with database.transaction() as session:
        row = session.scalars(select(AuditEvent).where(AuditEvent.action == "trigger.fail")).one()
    assert (row.object, words in row.detail["error"]) == ("trigger/bad", True)


def test_a_queue_that_is_not_there_is_an_error_of_the_trigger(database: Database) -> None:
    add(database)
    tell(database, "dataset", "tickets", "7")

    def nowhere(trigger: Trigger) -> Planned:
        return plan(trigger)._replace(steps=[step("only", queue="nowhere")])

    (fired,) = triggers.fire(database, nowhere)
    assert "nowhere" in (fired.error or "")
    assert pipelines(database) == []


def test_a_pipeline_that_cannot_be_stored_holds_nobody_up(database: Database) -> None:
    add(database, "bad")
    add(database, "good", config={"name": "letters"})
    tell(database, "dataset", "tickets", "1")
    tell(database, "dataset", "letters", "1")

    def plan_badly(trigger: Trigger) -> Planned:
        recipe = {"model": "a\x00b"} if trigger.name == "bad" else trigger.recipe
        return Planned(name="triage", recipe=recipe, steps=[step("only")])

    fired = triggers.fire(database, plan_badly)
    assert [(one.trigger, one.pipeline_id is None) for one in fired] == [("bad", True), ("good", False)]
    assert "cannot be stored" in (read(database, "bad").last_error or "")
    assert all(event.taken_at for event in events(database))


def test_a_long_key_is_hashed_and_still_the_same(database: Database) -> None:
    trigger = add(database, on="drift")
    assert tell(database, "drift", "s" * 500, "k" * 5000)
    assert not tell(database, "drift", "s" * 500, "k" * 5000)
    assert tell(database, "drift", "s" * 500, "k" * 4999)
    assert [fired.error for fired in fire(database)] == [None, None]
    assert all(len(pipeline.idempotency_key or "") <= 200 for pipeline in pipelines(database))
    assert trigger.on == "drift"


def test_engines_that_fire_at_once_start_each_pipeline_once(database: Database) -> None:
    add(database)
    for number in range(12):
        tell(database, "dataset", "tickets", str(number))
    barrier = threading.Barrier(4)

    def engine() -> None:
        barrier.wait()
        fire(database)

    threads = [threading.Thread(target=engine) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fire(database)
    assert len(pipelines(database)) == 12
    assert len({pipeline.idempotency_key for pipeline in pipelines(database)}) == 12


def test_firing_by_hand_starts_that_trigger_once_for_each_key(database: Database) -> None:
    add(database)
    add(database, "other")
    for _ in range(2):
        with database.transaction() as session:
            triggers.fire_by_hand(session, "nightly", Actor(name="bob"), "k1")
    assert [fired.trigger for fired in fire(database)] == ["nightly"]
    with database.transaction() as session:
        triggers.enable(session, "nightly", ADA, enabled=False)
        with pytest.raises(Conflict, match="raymill trigger enable"):
            triggers.fire_by_hand(session, "nightly", ADA, "k2")


def test_events_are_forgotten_long_after_they_were_taken(database: Database) -> None:
    tell(database, "dataset", "tickets", "7")
    fire(database)
    tell(database, "dataset", "tickets", "8")
    old = dt.datetime.now(UTC) - dt.timedelta(days=40)
    with database.transaction() as session:
        session.execute(update(TriggerEvent).where(TriggerEvent.taken_at.is_not(None)).values(taken_at=old))
        assert triggers.forget(session) == 1
    assert [event.key for event in events(database)] == ["dataset/tickets/8"]


# --- loops ------------------------------------------------------------------------------------------------


def test_a_trigger_is_not_started_by_what_it_led_to(database: Database) -> None:
    add(database)
    tell(database, "dataset", "tickets", "1")
    (first,) = fire(database)
    assert tell(database, "dataset", "tickets", "2", caused_by=first.pipeline_id)
    assert fire(database) == []
    assert all(event.taken_at is not None for event in events(database))
    tell(database, "dataset", "tickets", "3", caused_by=make_pipeline(database).id)  # somebody's own pipeline
    assert len(fire(database)) == 1


def test_two_triggers_that_follow_each_other_end_after_one_round(database: Database) -> None:
    add(database, "a", config={"name": "one"})
    add(database, "b", config={"name": "two"})
    tell(database, "dataset", "one", "1")
    (first,) = fire(database)
    tell(database, "dataset", "two", "1", caused_by=first.pipeline_id)
    (second,) = fire(database)
    assert second.trigger == "b"
    tell(database, "dataset", "one", "2", caused_by=second.pipeline_id)
    assert fire(database) == []


def test_what_somebody_outside_says_does_not_pass_for_a_cause(database: Database) -> None:
    add(database, on="drift")
    tell(database, "drift", "x", "1")
    (first,) = fire(database)
    tell(database, "drift", "x", "2", data={"caused_by": str(first.pipeline_id)})
    assert len(fire(database)) == 1


# --- what tells -------------------------------------------------------------------------------------------


def test_a_new_version_of_a_data_set_is_told_of_with_the_pipeline_that_made_it(database: Database) -> None:
    add(database)

    def make(digest: str) -> uuid.UUID:
        pipeline = make_pipeline(
            database, step("dataset", kind="dataset"), name="tickets", recipe={"d": digest}
        )
        result = {"digest": digest * 64, "artifact": f"dataset/{digest}", "train_rows": 1, "test_rows": 1}
        job = claim_one(database)
        published = Published(name=f"dataset/{digest}", digest=digest * 64, files=())
        succeed(database, job, {**result, "format": "messages", "shape": "conversation"}, (published,))
        assert job_of(database, pipeline, "dataset").result is not None
        return pipeline.id

    first = make("a")
    (event,) = events(database)
    assert (event.on, event.subject, event.key) == ("dataset", "tickets", "dataset/tickets/1")
    assert event.data == {"about": {"number": 1, "digest": "a" * 64}, "caused_by": str(first)}
    assert [fired.trigger for fired in fire(database)] == ["nightly"]
    (started,) = claim(database, limit=10)  # the pipeline that was started, out of the way
    assert started.step == "only"
    make("a")
    assert len(events(database)) == 1


def test_an_alias_that_moves_is_told_of_and_a_refusal_or_the_same_version_is_not(
    database: Database, tmp_path: Path
) -> None:
    world = World(database, tmp_path)
    good, bad = world.make_version(), world.make_version(score=0.1)
    assert world.promote(good).allowed
    assert world.promote(good).allowed
    assert not world.promote(bad).allowed
    told = [event for event in events(database) if event.on == "promotion"]
    assert [(event.subject, event.data["about"]) for event in told] == [
        ("support-triage@production", {"version": good})
    ]


# --- signatures -------------------------------------------------------------------------------------------


def test_a_signature_holds_for_its_body_secret_and_five_minutes() -> None:
    secret, body = webhooks.new_secret(), b'{"a": 1}'
    header = webhooks.sign(secret, body, at=1_000_000)
    webhooks.check(secret, header, body, now=1_000_299)
    webhooks.check(secret, f"{header},v1={'0' * 64}", body, now=1_000_000)
    for wrong, wrong_body, now in [
        (header, b'{"a": 2}', 1_000_000),
        (header, body, 1_000_301),
        (header, body, 999_699),
        (header.replace("t=1000000", "t=1000001"), body, 1_000_000),
        ("", body, 1_000_000),
        ("t=1000000", body, 1_000_000),
        ("t=x,v1=00", body, 1_000_000),
        ("t=1000000,v1=é", body, 1_000_000),
        (f"t=1,{header}", body, 1_000_000),
    ]:
        with pytest.raises(webhooks.WrongSignature):
            webhooks.check(secret, wrong, wrong_body, now=now)
    with pytest.raises(webhooks.WrongSignature):
        webhooks.check("another", header, body, now=1_000_000)
