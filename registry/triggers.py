"""Triggers: pipelines that start when something happens.

    cron       a time of a schedule has come              dataset    a data set has a new version
    webhook    somebody outside said so, signed           promotion  an alias of a model has moved
    drift      the anomaly check or an operator told of it

What happens is written as an event in the transaction in which it happens (`happened`), so none is lost and none
tells of what was rolled back. `fire` takes each event once and starts a pipeline for each trigger that waits for it,
in one transaction: two engines, or one that is killed in between, start it once. Times are the database's.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import uuid
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DataError
from sqlalchemy.orm import Session

from raymill.policies.errors import Conflict, Invalid, RaymillError
from raymill.registry import audit, cron, named
from raymill.registry.audit import SYSTEM, Actor
from raymill.registry.database import Database, clock
from raymill.registry.jobs.events import notify
from raymill.registry.jobs.model import StepSpec
from raymill.registry.jobs.submit import create_pipeline
from raymill.registry.named import NAME
from raymill.registry.secrets import SecretBox
from raymill.registry.tables import JsonObject, Pipeline, Trigger, TriggerEvent, new_id

log = logging.getLogger(__name__)

CHANNEL = "raymill_trigger"
"""Notified when something has happened."""

KINDS = ("cron", "webhook", "dataset", "promotion", "drift")
MANUAL = "manual"
"""An event of this kind starts one trigger, whatever that waits for."""

MAX_SUBJECT_CHARS = 200
MAX_KEY_CHARS = 120
"""A pipeline's idempotency key holds the trigger's id and the event's key, in 200 characters."""

MAX_CHAIN = 50
TAKE_LIMIT = 20


class Planned(NamedTuple):
    """What a trigger's recipe came to."""

    name: str
    recipe: JsonObject
    steps: Sequence[StepSpec]


Plan = Callable[[Trigger], Planned]
"""Reads and resolves a trigger's recipe. It may read large files, so it runs outside of any transaction."""


class Fired(NamedTuple):
    """One trigger's answer to one event."""

    trigger: str
    pipeline_id: uuid.UUID | None
    error: str | None


# --- triggers ---------------------------------------------------------------------------------------------


def create(
    session: Session,
    name: str,
    actor: Actor,
    *,
    on: str,
    config: JsonObject,
    recipe: JsonObject,
    recipe_dir: str | None = None,
    enabled: bool = True,
    box: SecretBox | None = None,
) -> tuple[Trigger, str | None]:
    """A new trigger. What happened before it was made starts nothing.

    Args:
        recipe_dir: what the recipe's relative paths start at.
        box: seals a webhook's secret.

    Returns:
        The trigger, and the secret of a webhook, which is shown this once.

    Raises:
        Invalid: the name, `on` or `config` is none.
        Conflict: the name is taken.
    """
    if not NAME.fullmatch(name):
        raise Invalid(f"a trigger cannot be called {name[:80]!r}: match {NAME.pattern}", param="name")
    row = Trigger(
        id=new_id(),
        name=name,
        on=on,
        config=checked_config(on, config),
        recipe=recipe,
        recipe_dir=recipe_dir,
        enabled=enabled,
        created_by=actor.name,
    )
    row.next_at = _next_time(session, row) if enabled else None
    secret = None
    if on == "webhook":
        if box is None:
            raise Invalid("a webhook needs a secret: give the box that seals it", param="on")
        secret = named.give_secret(box, row)
    named.add(session, row)
    audit.record(session, actor, "trigger.create", f"trigger/{name}", on=on, config=row.config)
    session.refresh(row)
    return row, secret


def find(session: Session, name: str, *, lock: bool = False) -> Trigger:
    """Raises NotFound."""
    return named.find(session, Trigger, name, lock=lock)


def enable(session: Session, name: str, actor: Actor, *, enabled: bool) -> Trigger:
    """Let it start pipelines, or not. Times that came while it was disabled start nothing. Raises NotFound."""
    row = find(session, name, lock=True)
    if row.enabled != enabled:
        row.enabled = enabled
        row.next_at = _next_time(session, row) if enabled else None
        audit.record(session, actor, "trigger.enable" if enabled else "trigger.disable", f"trigger/{name}")
        session.flush()
    return row


def remove(session: Session, name: str, actor: Actor) -> Trigger:
    """The pipelines it started stay. Raises NotFound."""
    row = find(session, name, lock=True)
    session.delete(row)
    audit.record(session, actor, "trigger.delete", f"trigger/{name}", on=row.on)
    session.flush()
    return row


def checked_config(on: str, config: JsonObject) -> JsonObject:
    """`config` with its defaults.

    Raises:
        Invalid: there is no such `on`, or a key is missing, unknown or wrong; `param` says which.
    """
    defaults: dict[str, dict[str, str | None]] = {
        "cron": {"schedule": None, "timezone": "UTC"},
        "webhook": {},
        "dataset": {"name": None},
        "promotion": {"model": None, "alias": "production"},
        "drift": {"subject": ""},  # of every subject
    }
    if on not in defaults:
        raise Invalid(f"on {on!r} is unknown: it is one of {', '.join(KINDS)}", param="on")
    known = defaults[on]
    for key in config:
        if key not in known:
            keys = ", ".join(known) or "none"
            raise Invalid(f"config.{key}: unknown key; the keys here are {keys}", param=f"config.{key}")
    found = {**known, **config}
    for key, value in found.items():
        if (
            not isinstance(value, str)
            or len(value) > MAX_SUBJECT_CHARS
            or (value == "" and known[key] is None)
        ):
            what = "is missing: add it" if value is None else f"must be text, got {str(value)[:80]!r}"
            raise Invalid(f"config.{key}: {what}", param=f"config.{key}")
        if on in {"dataset", "promotion"} and not NAME.fullmatch(value):
            raise Invalid(f"config.{key}: {value[:80]!r} is no name", param=f"config.{key}")
    if on == "cron":
        cron.check_schedule(str(found["schedule"]), str(found["timezone"]))
    return found


# --- events -----------------------------------------------------------------------------------------------


def happened(
    session: Session,
    on: str,
    subject: str,
    key: str,
    data: JsonObject | None = None,
    *,
    caused_by: uuid.UUID | None = None,
) -> bool:
    """Tell of something, in the caller's transaction.

    Args:
        subject: what triggers watch: a data set, `model@alias`, the id of a trigger.
        key: the same key of the same subject is told of once.
        caused_by: the pipeline whose work it is, so that no trigger starts itself again.

    Returns:
        Whether it is new.
    """
    # Apart from each other: what somebody outside says must not pass for a cause.
    detail = {"about": data or {}, "caused_by": str(caused_by) if caused_by else None}
    row = {
        "on": on,
        "subject": subject[:MAX_SUBJECT_CHARS],
        "key": event_key(on, subject, key),
        "data": detail,
    }
    told = insert(TriggerEvent).values(**row).on_conflict_do_nothing().returning(TriggerEvent.id)
    new = session.execute(told).first() is not None
    if new:
        notify(session, CHANNEL, on)
    return new


def fire_by_hand(session: Session, name: str, actor: Actor, key: str) -> Trigger:
    """Start it now, whatever it waits for; the same key again starts nothing. Raises NotFound, Conflict."""
    row = find(session, name, lock=True)
    if not row.enabled:
        raise Conflict(f"trigger {name!r} is disabled: `raymill trigger enable {name}` first")
    if happened(session, MANUAL, str(row.id), key, {"by": actor.name}):
        audit.record(session, actor, "trigger.fire", f"trigger/{name}", key=key)
    return row


def due(session: Session) -> int:
    """Tell of the schedules whose time has come. Of the times that were missed the latest counts, once.

    Returns:
        How many triggers fire.
    """
    now = clock(session)
    rows = session.scalars(
        select(Trigger)
        .where(Trigger.enabled, Trigger.next_at <= now)
        .order_by(Trigger.next_at)
        .limit(100)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    ).all()
    for row in rows:
        try:
            _tick(session, row, now)
        except Invalid as error:  # its time zone is gone from this machine: it must not hold up the others
            row.next_at, row.last_error = None, str(error)
            audit.record(session, SYSTEM, "trigger.fail", f"trigger/{row.name}", error=row.last_error)
    session.flush()
    return len(rows)


def _tick(session: Session, row: Trigger, now: dt.datetime) -> None:
    assert row.next_at is not None
    schedule, timezone = row.config["schedule"], row.config["timezone"]
    # Never before the one that was waited for: the zone's rules may have changed since it was computed.
    time = max(cron.last_time(schedule, timezone, now) or row.next_at, row.next_at)
    happened(session, "cron", str(row.id), time.astimezone(dt.UTC).isoformat(), {"time": time.isoformat()})
    row.next_at = cron.next_time(schedule, timezone, now)


def fire(database: Database, plan: Plan) -> list[Fired]:
    """Take the open events, oldest first, and start a pipeline for each trigger that waits for one.

    A recipe that cannot be planned is the trigger's `last_error`; its event is taken all the same.
    """
    with database.transaction() as session:
        opened = select(TriggerEvent.id).where(TriggerEvent.taken_at.is_(None))
        ids = session.scalars(opened.order_by(TriggerEvent.id).limit(TAKE_LIMIT)).all()
    fired: list[Fired] = []
    for event_id in ids:
        with database.transaction() as session:
            event = session.get(TriggerEvent, event_id)
            waiting = _waiting(session, event) if event is not None and event.taken_at is None else []
        plans = {trigger.id: _plan(plan, trigger) for trigger in waiting}
        with database.transaction() as session:
            fired += _take(session, event_id, plans)
    return fired


def forget(session: Session, *, older_than_days: int = 30) -> int:
    """Delete events that were taken long ago: what has their keys would be news again. Returns how many."""
    before = clock(session) - dt.timedelta(days=older_than_days)
    gone = delete(TriggerEvent).where(TriggerEvent.taken_at < before).returning(TriggerEvent.id)
    return len(session.scalars(gone).all())


def event_key(on: str, subject: str, key: str) -> str:
    """Unique over all that happens; hashed when it would be too long for a pipeline's key."""
    whole = f"{on}/{subject}/{key}"
    if len(whole) <= MAX_KEY_CHARS:
        return whole
    return f"{on}/{hashlib.sha256(whole.encode(errors='replace')).hexdigest()}"


def _plan(plan: Plan, trigger: Trigger) -> Planned | str:
    try:
        return plan(trigger)
    except RaymillError as error:
        return str(error)
    except Exception as error:  # whatever it is: an event that nobody can plan for must not hold up the next
        log.exception("trigger %s: its recipe cannot be planned", trigger.name)
        return f"{type(error).__name__}: {error}"


def _take(session: Session, event_id: int, plans: dict[uuid.UUID, Planned | str]) -> list[Fired]:
    event = session.scalar(
        select(TriggerEvent)
        .where(TriggerEvent.id == event_id, TriggerEvent.taken_at.is_(None))
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    )
    if event is None:  # another engine has it
        return []
    event.taken_at = clock(session)
    fired = []
    for trigger in _waiting(session, event, lock=True):
        if trigger.id in plans:
            fired.append(_start(session, trigger, event, plans[trigger.id]))
    session.flush()
    return fired


def _start(session: Session, trigger: Trigger, event: TriggerEvent, planned: Planned | str) -> Fired:
    actor, error, pipeline = Actor(name=trigger.created_by), None, None
    if isinstance(planned, str):
        error = planned
    else:
        try:
            with session.begin_nested():
                pipeline = create_pipeline(
                    session,
                    name=planned.name,
                    recipe=planned.recipe,
                    steps=planned.steps,
                    actor=actor,
                    idempotency_key=f"trigger/{trigger.id}/{event.key}",
                    trigger_id=trigger.id,
                )
        except RaymillError as refused:
            error = str(refused)
        except DataError as refused:  # would be so each time, and hold up the events behind it
            log.exception("trigger %s: its pipeline cannot be stored", trigger.name)
            reason = " ".join(str(refused.orig).replace("\x00", "").split())[:300]
            error = f"its pipeline cannot be stored ({reason}): correct the recipe"
    what = f"trigger/{trigger.name}"
    if pipeline is None:
        trigger.last_error = error
        audit.record(session, SYSTEM, "trigger.fail", what, event=event.key, error=error)
        return Fired(trigger.name, None, error)
    trigger.last_fired_at, trigger.last_pipeline_id, trigger.last_error = event.taken_at, pipeline.id, None
    audit.record(session, SYSTEM, "trigger.start", what, event=event.key, pipeline=str(pipeline.id))
    return Fired(trigger.name, pipeline.id, None)


def _waiting(session: Session, event: TriggerEvent, *, lock: bool = False) -> list[Trigger]:
    """Enabled triggers that wait for an event, and were there when it happened, oldest first."""
    meant = Trigger.id == _uuid(event.subject) if event.on == MANUAL else Trigger.on == event.on
    rows = (
        select(Trigger)
        .where(Trigger.enabled, Trigger.created_at <= event.at, meant)
        .order_by(Trigger.id)
        .execution_options(populate_existing=True)
    )
    found = session.scalars(rows.with_for_update() if lock else rows).all()
    causes = _causes(session, event)
    return [row for row in found if _watches(row, event) and row.id not in causes]


def _watches(trigger: Trigger, event: TriggerEvent) -> bool:
    config = trigger.config
    match trigger.on if event.on != MANUAL else MANUAL:
        case "dataset":
            return bool(config["name"] == event.subject)
        case "promotion":
            return f"{config['model']}@{config['alias']}" == event.subject
        case "drift":
            return config["subject"] in {"", event.subject}
        case _:  # cron, webhook, by hand
            return str(trigger.id) == event.subject


def _causes(session: Session, event: TriggerEvent) -> set[uuid.UUID]:
    """The triggers that led to an event: that of the pipeline that caused it, and those before that one.

    A trigger starts nothing on an event that it led to, also not by way of others: else two that follow each
    other would run for ever.
    """
    causes: set[uuid.UUID] = set()
    current: TriggerEvent | None = event
    for _ in range(MAX_CHAIN):
        pipeline_id = _uuid(str(current.data.get("caused_by"))) if current is not None else None
        pipeline = session.get(Pipeline, pipeline_id) if pipeline_id else None
        if pipeline is None or pipeline.trigger_id is None or pipeline.trigger_id in causes:
            break
        causes.add(pipeline.trigger_id)
        key = (pipeline.idempotency_key or "").removeprefix(f"trigger/{pipeline.trigger_id}/")
        current = session.scalar(select(TriggerEvent).where(TriggerEvent.key == key))
    return causes


def _next_time(session: Session, row: Trigger) -> dt.datetime | None:
    if row.on != "cron":
        return None
    return cron.next_time(row.config["schedule"], row.config["timezone"], clock(session))


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
