"""What accounts may use in a minute or a day: limits by tier, and the overrides of an account.

A limit that is missing or null is none. An account's own limits win over its tier's, name by name; its
null means no limit, whatever the tier says. Counts are whole numbers of requests, tokens and streams; of
submissions of code, and the bytes of one (docs/code-analysis.md).
Budgets are in `registry/budgets.py`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Literal, NamedTuple

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from raymill.policies.errors import Invalid, NotFound
from raymill.registry import audit
from raymill.registry.audit import Actor
from raymill.registry.gateway_config import tell_gateways
from raymill.registry.tables import Account, JsonObject, Meter, Tier

DEFAULT_TIER = "enterprise"
"""Of an account that is made without naming one: no limits."""

MAX_LIMIT = 10**12

Window = Literal["minute", "day", "month", "total", "now"]


class Counted(NamedTuple):
    """What a limit counts, and over which time."""

    kind: str
    window: Window
    by_gateway: bool = True
    """False: whoever takes submissions of code looks at it. The bytes of one are counted in no meter."""


LIMITS: dict[str, Counted] = {
    "requests_per_minute": Counted("requests", "minute"),
    "requests_per_day": Counted("requests", "day"),
    "tokens_per_minute": Counted("tokens", "minute"),
    "tokens_per_day": Counted("tokens", "day"),
    "streams": Counted("streams", "now"),
    "code_submissions_per_day": Counted("code", "day", by_gateway=False),
    "code_bytes": Counted("code_bytes", "now", by_gateway=False),
}
"""Every limit there is; a meter counts each by the name `account:<uuid>/<kind>/<window>`."""


class Use(NamedTuple):
    """How much of a limit is used, and how much of it replicas hold for requests that are under way."""

    used: int
    held: int


def window_start(window: Window, now: dt.datetime) -> int:
    """Unix seconds at which the UTC window that holds `now` began; 0 for those that never begin anew."""
    moment = now.astimezone(dt.UTC)
    match window:
        case "minute":
            start = moment.replace(second=0, microsecond=0)
        case "day":
            start = moment.replace(hour=0, minute=0, second=0, microsecond=0)
        case "month":
            start = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        case "total" | "now":
            return 0
    return int(start.timestamp())


def uses(session: Session, meters: Mapping[str, int]) -> dict[str, Use]:
    """What the meters say that are there. `meters` is name -> bucket."""
    if not meters:
        return {}
    rows = select(Meter).where(tuple_(Meter.name, Meter.bucket).in_(list(meters.items())))
    return {row.name: Use(row.used, row.leased) for row in session.scalars(rows)}


def find_tier(session: Session, name: str, *, lock: bool = False) -> Tier:
    """Raises NotFound."""
    tier = session.get(Tier, name, with_for_update=lock)
    if tier is None:
        raise NotFound(f"no tier {name!r}: the tiers are {', '.join(t.name for t in list_tiers(session))}")
    return tier


def list_tiers(session: Session) -> list[Tier]:
    """In alphabetical order."""
    return list(session.scalars(select(Tier).order_by(Tier.name)))


def set_tier_limits(session: Session, name: str, limits: Mapping[str, int | None], actor: Actor) -> Tier:
    """Make `limits` the limits of a tier, and of all accounts in it that have no others of their own.

    Raises:
        NotFound: no such tier.
        Invalid: no such limit, or a number below 1.
    """
    tier = find_tier(session, name, lock=True)
    wanted = {limit: number for limit, number in checked(limits).items() if number is not None}
    if wanted == tier.limits:
        return tier
    audit.record(session, actor, "tier.set", f"tier/{name}", before=tier.limits, after=wanted)
    tier.limits = dict(wanted)
    tell_gateways(session)
    return tier


def set_tier(session: Session, account: Account, tier: str, actor: Actor) -> Account:
    """Raises NotFound when there is no such tier."""
    if find_tier(session, tier).name == account.tier:
        return account
    audit.record(
        session,
        actor,
        "account.tier",
        f"account/{account.name}",
        before={"tier": account.tier},
        after={"tier": tier},
    )
    account.tier = tier
    tell_gateways(session)
    return account


def set_limits(
    session: Session,
    account: Account,
    changes: Mapping[str, int | None],
    actor: Actor,
    *,
    clear: frozenset[str] = frozenset(),
) -> Account:
    """Override limits of an account's tier; those of `clear` become the tier's again.

    Args:
        changes: Limit -> number, or None for no limit. What is in neither stays as it is.

    Raises:
        Invalid: no such limit, or a number below 1.
    """
    checked(dict.fromkeys(clear))
    kept = {name: number for name, number in account.limits.items() if name not in clear}
    wanted: JsonObject = {**kept, **checked(changes)}
    if wanted == account.limits:
        return account
    audit.record(
        session,
        actor,
        "account.limits",
        f"account/{account.name}",
        before=account.limits,
        after=wanted,
    )
    account.limits = wanted
    tell_gateways(session)
    return account


def limits_of(session: Session, account: Account) -> dict[str, int]:
    """What holds for an account: the tier's limits with its own over them. A name that is missing has none."""
    resolved = {**find_tier(session, account.tier).limits, **account.limits}
    return {name: resolved[name] for name in LIMITS if resolved.get(name) is not None}


def uses_of(session: Session, account: Account, now: dt.datetime) -> dict[str, Use]:
    """How much of each limit an account has used in the window that holds `now`. A name that is missing: none.

    Only what has a limit is counted.
    """
    names = {
        f"account:{account.id}/{counted.kind}/{counted.window}": limit for limit, counted in LIMITS.items()
    }
    buckets = {name: window_start(LIMITS[limit].window, now) for name, limit in names.items()}
    return {names[meter]: use for meter, use in uses(session, buckets).items()}


def checked(limits: Mapping[str, int | None]) -> dict[str, int | None]:
    """`limits` as they were given.

    Raises:
        Invalid: the first name or number that makes no sense.
    """
    for name, number in limits.items():
        if name not in LIMITS:
            close = get_close_matches(name, LIMITS, n=1)
            cure = f"did you mean {close[0]}?" if close else f"the limits are {', '.join(LIMITS)}"
            raise Invalid(f"no limit {name!r}: {cure}", param=f"limits.{name}")
        if number is None:
            continue
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= MAX_LIMIT:
            raise Invalid(
                f"limits.{name}: {number!r} is none: give a whole number from 1 to {MAX_LIMIT}, "
                "or null for no limit",
                param=f"limits.{name}",
            )
    return dict(limits)
