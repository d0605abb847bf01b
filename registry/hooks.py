"""What follows from the end of pipelines and their steps: deliveries and actions, as jobs of their own.

They are written in the transaction that ends the pipeline or step (a transactional outbox), so none is lost and
none tells of an end that did not happen. Their retries and dead letters are those of queue `hooks`. Jobs that stand
alone have no hooks: there may be thousands of them a second, and these jobs themselves are such.

The work is done by `cluster/hooks.py`.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sqlalchemy import text
from sqlalchemy.orm import Session

from raymill.policies.errors import Invalid
from raymill.registry import audit, named
from raymill.registry.audit import Actor
from raymill.registry.named import NAME
from raymill.registry.secrets import SecretBox
from raymill.registry.tables import Hook, Job, JobState, JsonObject, Pipeline, new_id

if TYPE_CHECKING:
    from raymill.registry.jobs.model import JobSpec

QUEUE = "hooks"
ACTIONS = ("webhook", "promote", "rollback")
EVENTS = (
    "job.succeeded",
    "job.failed",
    "job.dead",
    "job.cancelled",
    "pipeline.succeeded",
    "pipeline.failed",
    "pipeline.cancelled",
)

PRINTABLE = re.compile(r"[\x21-\x7e]{1,2000}")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
METADATA = frozenset({ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("100.100.100.200")})
"""Where clouds keep the credentials of their machines, besides the link-local addresses."""


def create(
    session: Session,
    name: str,
    actor: Actor,
    *,
    on: list[str],
    action: str,
    config: JsonObject,
    subject: str | None = None,
    enabled: bool = True,
    box: SecretBox | None = None,
) -> tuple[Hook, str | None]:
    """A new hook.

    Args:
        on: of `EVENTS`.
        subject: only of this model; None: of all.
        box: seals the secret that signs what a webhook sends.

    Returns:
        The hook, and the secret of a webhook, which is shown this once.

    Raises:
        Invalid: the name, an event, the action or its config is none.
        Conflict: the name is taken.
    """
    for param, given in (("name", name), ("subject", subject)):
        if given is not None and not NAME.fullmatch(given):
            raise Invalid(f"{param} {given[:80]!r} is no name: match {NAME.pattern}", param=param)
    unknown = [event for event in on if event not in EVENTS]
    if unknown or not on:
        what = f"no event {unknown[0][:80]!r}" if unknown else "no event is named"
        raise Invalid(f"on: {what}: name some of {', '.join(EVENTS)}", param="on")
    row = Hook(
        id=new_id(),
        name=name,
        on=list(dict.fromkeys(on)),
        subject=subject,
        action=action,
        config=checked_config(action, config),
        enabled=enabled,
        created_by=actor.name,
    )
    secret = None
    if action == "webhook":
        if box is None:
            raise Invalid("a webhook needs a secret: give the box that seals it", param="action")
        secret = named.give_secret(box, row)
    named.add(session, row)
    detail: JsonObject = {"on": row.on, "subject": subject, "does": action, "config": row.config}
    audit.record(session, actor, "hook.create", f"hook/{name}", **detail)
    session.refresh(row)
    return row, secret


def find(session: Session, name: str, *, lock: bool = False) -> Hook:
    """Raises NotFound."""
    return named.find(session, Hook, name, lock=lock)


def enable(session: Session, name: str, actor: Actor, *, enabled: bool) -> Hook:
    """Let it act, or not. What ended while it was disabled is not made up for. Raises NotFound."""
    row = find(session, name, lock=True)
    if row.enabled != enabled:
        row.enabled = enabled
        audit.record(session, actor, "hook.enable" if enabled else "hook.disable", f"hook/{name}")
        session.flush()
    return row


def remove(session: Session, name: str, actor: Actor) -> Hook:
    """What it has not yet done ends as failed. Raises NotFound."""
    row = find(session, name, lock=True)
    session.delete(row)
    audit.record(session, actor, "hook.delete", f"hook/{name}", on=row.on, does=row.action)
    session.flush()
    return row


def checked_config(action: str, config: JsonObject) -> JsonObject:
    """`config` with its defaults.

    Raises:
        Invalid: there is no such action, or a key is missing, unknown or wrong; `param` says which.
    """
    defaults: dict[str, JsonObject] = {
        "webhook": {"url": ""},
        "promote": {"alias": "production", "require": {}},
        "rollback": {"alias": "production"},
    }
    if action not in defaults:
        raise Invalid(f"action {action!r} is unknown: it is one of {', '.join(ACTIONS)}", param="action")
    for key in config:
        if key not in defaults[action]:
            keys = ", ".join(defaults[action])
            raise Invalid(f"config.{key}: unknown key; the keys here are {keys}", param=f"config.{key}")
    found = {**defaults[action], **config}
    if action == "webhook":
        check_url(found["url"])
    elif not isinstance(found["alias"], str) or not NAME.fullmatch(found["alias"]):
        raise Invalid(f"config.alias: {str(found['alias'])[:80]!r} is no name", param="config.alias")
    if not isinstance(found.get("require", {}), dict):
        raise Invalid("config.require: must be a section of keys, task -> bounds", param="config.require")
    return found


def check_url(url: object) -> None:
    """Raises Invalid when it is no http or https address, or names a machine's metadata."""
    param = "config.url"
    if not isinstance(url, str) or not PRINTABLE.fullmatch(url):
        raise Invalid("config.url: give the address to send to, such as https://host/path", param=param)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        parts, host = urlsplit(""), ""
    if parts.scheme not in {"http", "https"} or not host:
        raise Invalid(f"config.url: {url[:100]!r} is no address: write https://host/path", param=param)
    if parts.username is not None or parts.password is not None:
        raise Invalid("config.url holds a user or a password: deliveries are signed instead", param=param)
    literal = _literal(host)
    if literal is not None and is_forbidden(literal):
        raise Invalid(f"config.url: {host} is a machine's metadata: name the receiver's own", param=param)


def is_forbidden(address: Address) -> bool:
    """Link-local and metadata addresses. Private ones and loopback are allowed: teams host their receivers inside."""
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_link_local or address in METADATA or (mapped is not None and is_forbidden(mapped))


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))  # 0xa9fea9fe is one too
        except OSError:
            return None


# --- what follows -----------------------------------------------------------------------------------------


def after_job(session: Session, job: Job) -> None:
    """Called with each step of a pipeline that has just ended."""
    if job.pipeline_id is None:
        return
    about: JsonObject = {
        "id": str(job.id),
        "pipeline_id": str(job.pipeline_id),
        "name": job.name,
        "step": job.step,
        "kind": job.kind,
        "state": job.state.value,
        "attempt": job.attempt,
        "error": job.error,
        "result": job.result if job.state is JobState.SUCCEEDED else None,
    }
    _follow(session, "job", job.state, job.name, about, job.finished_at)


def after_pipeline(session: Session, pipeline: Pipeline) -> None:
    """Called with each pipeline that has just ended."""
    about: JsonObject = {
        "id": str(pipeline.id),
        "pipeline_id": str(pipeline.id),
        "name": pipeline.name,
        "state": pipeline.state.value,
        "error": pipeline.error,
        "created_by": pipeline.created_by,
        "trigger_id": str(pipeline.trigger_id) if pipeline.trigger_id else None,
    }
    _follow(session, "pipeline", pipeline.state, pipeline.name, about, pipeline.finished_at)


# Asked at each end of a step: as text, for putting a statement together takes longer than answering this one.
FOLLOWING = text("""
SELECT id, name, action FROM hook
WHERE enabled AND "on" @> ARRAY[CAST(:event AS varchar)] AND (subject IS NULL OR subject = :name)
ORDER BY id
""")


def _follow(
    session: Session, noun: str, state: JobState, name: str, about: JsonObject, at: dt.datetime | None
) -> None:
    event = f"{noun}.{state.value}"
    rows = session.execute(FOLLOWING, {"event": event, "name": name}).all()
    if not rows:
        return
    from raymill.registry.jobs.claims import enqueue, raw  # that package imports this module

    moment = at or dt.datetime.now(dt.UTC)
    specs = [_spec(row.id, row.name, row.action, event, noun, about, moment) for row in rows]
    enqueue(raw(session), specs)


def _spec(
    hook_id: object, hook: str, action: str, event: str, noun: str, about: JsonObject, at: dt.datetime
) -> JobSpec:
    from raymill.registry.jobs.model import JobSpec

    # A job or pipeline that runs again ends again, and has another time then.
    key = f"hook/{hook_id}/{event}/{about['id']}/{int(at.timestamp() * 1_000_000)}"
    config: JsonObject = {
        "hook_id": str(hook_id),
        "event": event,
        "at": at.isoformat(),
        "pipeline_id": about["pipeline_id"],
        noun: about,
    }
    return JobSpec(kind=f"hook_{action}", queue=QUEUE, name=hook, config=config, idempotency_key=key)
