"""Environments: what a move of an alias takes besides the policy's consent.

An environment is the aliases of one name over all models. One that nobody has set asks for nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.policies.errors import Invalid, NotFound
from raymill.registry import audit
from raymill.registry.audit import Actor
from raymill.registry.canary_config import CanaryConfig
from raymill.registry.database import one_at_a_time
from raymill.registry.named import NAME
from raymill.registry.tables import Environment, Policy, Role

LADDER = ("sandbox", "governed", "production")
"""The environments that every installation has, in the order in which versions usually pass through them."""

ROLES = (Role.APPROVER, Role.ADMIN)
EXPIRES_AFTER_S = 7 * 24 * 3600
MAX_APPROVALS = 20
MAX_EXPIRES_AFTER_S = 366 * 24 * 3600


def environment_of(session: Session, alias: str) -> Environment:
    """What was set for an alias of that name, or what holds where nothing was."""
    return session.get(Environment, alias) or _unset(alias)


def environments(session: Session) -> list[Environment]:
    """Those of the ladder, then the others that were set, by name."""
    rows = {row.name: row for row in session.scalars(select(Environment).order_by(Environment.name))}
    return [
        *(rows.get(name) or _unset(name) for name in LADDER),
        *(row for name, row in rows.items() if name not in LADDER),
    ]


def set_environment(
    session: Session,
    name: str,
    actor: Actor,
    *,
    approvals: int,
    roles: Sequence[str],
    after: str | None,
    expires_after_s: int,
    policy: str | None = None,
    canary: CanaryConfig | None = None,
) -> Environment:
    """Replace what an environment asks for. Requests that are there keep what was asked of them.

    Args:
        policy: whose newest version decides; None: the rules that Raymill ships.
        canary: of promotions that ask for none themselves; None: the alias moves at once.

    Raises:
        Invalid: a value makes no sense; `param` says which.
        NotFound: there is no such policy.
    """
    for param, each in (("name", name), ("after", after), ("policy", policy)):
        if each is not None and not NAME.fullmatch(each):
            raise Invalid(f"{param} is {each!r}: write it as production", param=param)
    if not 0 <= approvals <= MAX_APPROVALS:
        raise Invalid(f"approvals is {approvals}: give it 0 to {MAX_APPROVALS}", param="approvals")
    counting = {role.value for role in Role if role is not Role.VIEWER}
    if not roles or not set(roles) <= counting:
        raise Invalid(f"roles is {list(roles)}: name some of {', '.join(sorted(counting))}", param="roles")
    if not 1 <= expires_after_s <= MAX_EXPIRES_AFTER_S:
        raise Invalid(
            f"expires_after_s is {expires_after_s}: give it 1 to {MAX_EXPIRES_AFTER_S}",
            param="expires_after_s",
        )
    one_at_a_time(session, "environments")  # two that follow each other would each see no circle
    _check_no_circle(session, name, after)
    if policy is not None and session.scalar(select(Policy.id).where(Policy.name == policy).limit(1)) is None:
        raise NotFound(f"no policy {policy!r}: `raymill policy list` shows the ones there are")
    row = session.merge(
        Environment(
            name=name,
            approvals=approvals,
            roles=[role.value for role in Role if role.value in roles],
            after=after,
            expires_after_s=expires_after_s,
            policy=policy,
            canary=canary.model_dump(mode="json") if canary is not None else None,
        )
    )
    session.flush()
    audit.record(
        session,
        actor,
        "environment.set",
        f"environment/{name}",
        approvals=approvals,
        roles=row.roles,
        follows=after,
        expires_after_s=expires_after_s,
        policy=policy,
        canary=row.canary,
    )
    return row


def _unset(name: str) -> Environment:
    roles = [role.value for role in ROLES]
    return Environment(
        name=name,
        approvals=0,
        roles=roles,
        after=None,
        expires_after_s=EXPIRES_AFTER_S,
        policy=None,
        canary=None,
    )


def _check_no_circle(session: Session, name: str, after: str | None) -> None:
    path = [name]
    while after is not None:
        if after in path:
            told = " after ".join([*path, after])
            raise Invalid(f"{told} is a circle: let one of them come first", param="after")
        path.append(after)
        after = environment_of(session, after).after
