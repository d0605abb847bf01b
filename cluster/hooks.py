"""The work of hooks: telling a receiver by a signed POST, promoting a version, rolling an alias back.

Each is a job of queue `hooks` that `registry/hooks.py` wrote when a pipeline or a step of it ended. A receiver may
get a delivery twice (we may be ended just after it answered); `x-raymill-delivery` is the same then.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import uuid

import httpx
from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.cluster.context import JobContext, Outcome
from raymill.cluster.governance import decided, register_decision
from raymill.policies.errors import Conflict, Invalid, NotFound, Unavailable
from raymill.registry import aliases, hooks, named, promotion, webhooks
from raymill.registry.artifacts import address_of
from raymill.registry.audit import Actor
from raymill.registry.tables import Alias, Hook, Job, JsonObject, Llm, LlmVersion

TIMEOUT_S = 10.0
"""For the whole delivery, from the look-up of the name to the answer's head."""

CONNECT_S = 3.0
"""For one address of the receiver; then the next one is tried."""

MAX_ANSWER_BYTES = 500
AGAIN = frozenset({408, 425, 429})
"""Refusals that say "later"; every other 4xx says "never"."""


# --- webhook ----------------------------------------------------------------------------------------------


def run_webhook(context: JobContext) -> Outcome:
    """POST what ended to the hook's address.

    Raises:
        Invalid: the receiver refuses it, redirects, or its name leads to a machine's metadata. No retry helps.
        Unavailable: it is away, slow, busy or broken. The engine tries again, later and later.
    """
    from raymill.cluster.settings import Settings

    hook = context.database.patiently(lambda session: _hook(session, context.config))
    secret = named.open_secret(Settings().secret_box, hook)
    said = {key: context.config[key] for key in ("event", "at", "job", "pipeline") if key in context.config}
    body = json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()
    headers = {
        "content-type": "application/json",
        "user-agent": "raymill",
        webhooks.EVENT_HEADER: context.config["event"],
        webhooks.DELIVERY_HEADER: context.job_id,
        webhooks.SIGNATURE_HEADER: webhooks.sign(secret, body),
    }
    status = deliver(hook.config["url"], body, headers)
    return Outcome(result={"digest": _digest(context), "hook": hook.name, "status": status})


def deliver(url: str, body: bytes, headers: dict[str, str], *, timeout_s: float = TIMEOUT_S) -> int:
    """One POST; the receiver's status, which is a 2xx. Raises as `run_webhook`."""
    hooks.check_url(url)
    host = httpx.URL(url).host
    try:
        status, said = asyncio.run(asyncio.wait_for(_post(url, body, headers), timeout_s))
    except TimeoutError:
        raise Unavailable(f"{host} did not answer within {timeout_s:g} s: see that it is up") from None
    except (httpx.TransportError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Unavailable(f"{host} cannot be reached ({reason[:200]}): see that it is up") from None
    except httpx.HTTPError as error:
        raise Invalid(f"{host} cannot be asked: {error}") from None
    if 200 <= status < 300:
        return status
    if status >= 500 or status in AGAIN:
        raise Unavailable(f"{host} answered {status}: {said}")
    if 300 <= status < 400:
        raise Invalid(
            f"{host} answered {status}, and redirects are not followed: give the hook the new address"
        )
    raise Invalid(f"{host} answered {status}: {said}")


async def _post(url: str, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
    asked = httpx.URL(url)
    *others, last = await _resolve(asked)
    for address in others:
        try:
            return await _post_to(address, asked, body, headers)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            continue  # nothing was sent; many names have an address that nobody listens at, localhost too
    return await _post_to(last, asked, body, headers)


async def _post_to(address: str, asked: httpx.URL, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
    # Sent to the very address that was looked at: a name may lead elsewhere the next time it is asked for.
    target = asked.copy_with(host=address)
    named = {**headers, "host": asked.netloc.decode("ascii")}
    extensions = {"sni_hostname": asked.host} if asked.scheme == "https" else {}
    async with (
        httpx.AsyncClient(
            follow_redirects=False, trust_env=False, timeout=httpx.Timeout(None, connect=CONNECT_S)
        ) as client,
        client.stream("POST", target, content=body, headers=named, extensions=extensions) as response,
    ):
        said = b""
        if not response.is_success:
            async for chunk in response.aiter_bytes(MAX_ANSWER_BYTES):
                said += chunk
                if len(said) >= MAX_ANSWER_BYTES:
                    break
        return response.status_code, " ".join(said[:MAX_ANSWER_BYTES].decode(errors="replace").split())


async def _resolve(url: httpx.URL) -> list[str]:
    """The host's addresses, best first. Raises Invalid when any of them is a machine's metadata."""
    loop = asyncio.get_running_loop()
    port = url.port or (443 if url.scheme == "https" else 80)
    found = await loop.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    addresses = [str(sockaddr[0]).partition("%")[0] for *_, sockaddr in found]
    for address in addresses:
        if hooks.is_forbidden(ipaddress.ip_address(address)):
            raise Invalid(f"{url.host} leads to {address}, a machine's metadata: name the receiver's own")
    return list(dict.fromkeys(addresses))


# --- promote, roll back -----------------------------------------------------------------------------------


def run_promote(context: JobContext) -> Outcome:
    """Promote the version that the pipeline made. The alias moves when the job ends (`register`).

    Raises:
        Denied: the policy refuses; each reason is named, and the refusal is on record.
        NotFound: the pipeline made no version.
        Tampered: an artifact is not what was registered.
    """

    def gather(session: Session) -> tuple[Hook, promotion.Case]:
        hook = _hook(session, context.config)
        version = _made(session, _pipeline_id(context))
        if version is None:
            raise NotFound(
                f"pipeline {context.config['pipeline_id']} made no version: there is none to promote"
            )
        config = hook.config
        return hook, promotion.gather(
            session, version.llm.name, version.number, config["alias"], config["require"]
        )

    hook, case = context.database.patiently(gather)
    return _decided(context, hook, case, hook.config["require"])


def run_rollback(context: JobContext) -> Outcome:
    """Move the alias back to the version before, when it is at the version that the pipeline made; a canary of it ends, and
    the alias stays.

    Else there is nothing to take back, and the job says so and succeeds. Policy and signature must hold for the earlier
    version today (`promotion.rollback_of`).

    Raises:
        Conflict: the alias has no earlier version, or is frozen.
        Denied, Tampered: as `run_promote`.
    """

    def gather(session: Session) -> tuple[Hook, promotion.Case | JsonObject, int]:
        hook = _hook(session, context.config)
        alias, note = hook.config["alias"], f"hook {hook.name}"
        made = _made(session, _pipeline_id(context))
        row = session.get(Alias, (made.llm_id, alias)) if made is not None else None
        if made is not None and row is not None:
            # Done here and not when the job ends: it takes no decision, and a job that is tried again finds none.
            actor, llm = Actor(name=hook.created_by), made.llm.name
            ended = promotion.take_back_canary(session, llm, alias, actor, note, of=made.id)
            if ended is not None:
                return hook, {"ended_canary": str(ended.id), "version": made.number}, 0
            row = aliases.find_alias(session, llm, alias)  # a canary may have moved it before we had the turn
        if made is None or row is None or row.version_id != made.id:
            why = f"{alias} is not at a version that pipeline {context.config['pipeline_id']} made"
            return hook, {"skipped": why}, 0
        return hook, promotion.rollback_of(session, made.llm.name, alias, note), made.number

    hook, case, leaves = context.database.patiently(gather)
    if isinstance(case, dict):
        return Outcome(result={"digest": _digest(context), "hook": hook.name, **case})
    return _decided(context, hook, case, {}, leaves=leaves)


def register(session: Session, job: Job, result: JsonObject) -> None:
    """Effects of both, and of a roll back that drift asked for: the decision, the signatures and the alias's move commit with the job."""
    if "envelopes" not in result:  # there was nothing to roll back
        return
    leaves, actor = result.pop("leaves", None), Actor(name=result.pop("actor"))
    if leaves is None:
        register_decision(session, job, result, actor)
        return
    llm, alias = result["llm"], result["alias"]
    if aliases.alias_in_turn(session, llm, alias).version.number != leaves:
        # Somebody has promoted another one while we looked: theirs stays.
        result["skipped"] = f"{alias} has moved on from version {leaves}"
        del result["envelopes"]
        return
    case = promotion.rollback_of(session, llm, alias, result["note"])
    register_decision(session, job, result, actor, case)


def _decided(
    context: JobContext, hook: Hook, case: promotion.Case, require: JsonObject, leaves: int | None = None
) -> Outcome:
    """What the policy says. `leaves`: the version that the alias must still be at when the job ends."""
    actor = Actor(name=hook.created_by)
    what = f"{case.input['name']} {case.input['version']}"
    result = decided(context, case, require, what=what, requester=lambda _: actor)
    return Outcome(
        result={
            **result,
            "actor": actor.name,
            "leaves": leaves,
            "note": f"hook {hook.name}",
            "hook": hook.name,
        }
    )


def _made(session: Session, pipeline_id: uuid.UUID) -> LlmVersion | None:
    """The version that a pipeline made, or that a step of it found made already."""
    step = select(Job).where(Job.pipeline_id == pipeline_id, Job.step == "train").order_by(Job.id.desc())
    job = session.scalars(step).first()
    number = (job.result or {}).get("version") if job is not None else None
    if job is None or number is None:
        return None
    return session.scalar(
        select(LlmVersion).join(Llm).where(Llm.name == job.name, LlmVersion.number == number)
    )


def _hook(session: Session, config: JsonObject) -> Hook:
    """Raises NotFound, Conflict: it does not act any more."""
    row = session.get(Hook, uuid.UUID(config["hook_id"]))
    if row is None:
        raise NotFound(f"hook {config['hook_id']} was deleted: nothing is done for it")
    if not row.enabled:
        raise Conflict(f"hook {row.name!r} is disabled: enable it, then `raymill jobs retry` does this")
    return row


def _pipeline_id(context: JobContext) -> uuid.UUID:
    return uuid.UUID(context.config["pipeline_id"])


def _digest(context: JobContext) -> str:
    return address_of("hook", context.config, {})
