"""Budgets: what an account, a team or a key may spend in a UTC day, a UTC month, or ever.

Money is integer micro-dollars. What is spent stands in the meter `<subject>/micro_usd/<period>`, which
gateways keep exact; a subject is `account:<uuid>`, `team:<uuid>` or `key:<uuid>`.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Select, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import InstrumentedAttribute, Session

from raymill.policies.errors import Conflict, Invalid, NotFound
from raymill.registry import audit
from raymill.registry.audit import Actor
from raymill.registry.gateway_config import tell_gateways
from raymill.registry.limits import Use, uses, window_start
from raymill.registry.tables import Account, ApiKey, Budget, BudgetPeriod, Meter, Team, Usage, new_id

MAX_MICRO_USD = 10**15
"""A billion dollars."""

KINDS = ("account", "team", "key")
UNUSED = Use(0, 0)


class Subject(NamedTuple):
    """Whose money it is."""

    kind: str
    id: uuid.UUID
    name: str
    """Of an account or a team; for a key `account/key`."""

    @property
    def id_text(self) -> str:
        return f"{self.kind}:{self.id}"

    @property
    def text(self) -> str:
        """As people write it; a key has its id there, for its name can be another one's too."""
        return self.id_text if self.kind == "key" else f"{self.kind}:{self.name}"

    @property
    def texts(self) -> tuple[str, str]:
        return self.text, self.id_text


@dataclass(frozen=True, kw_only=True)
class Status:
    """A budget, and what is left of it."""

    budget: Budget
    subject: Subject
    use: Use
    resets_at: dt.datetime | None
    """When it begins anew; None for a total."""


def find_subject(session: Session, text: str) -> Subject:
    """The subject that `account:ann`, `team:ops`, `key:laptop` or one of these with an id means.

    Raises:
        Invalid: it is not of that form.
        NotFound: nothing by that name or id.
        Conflict: several live keys have that name.
    """
    kind, _, name = text.partition(":")
    if kind not in KINDS or not name:
        raise Invalid(f"{text!r} is no subject: write account:NAME, team:NAME or key:ID", param="subject")
    row_id = _uuid(name)
    if kind == "key":
        return _find_key(session, name, row_id)
    found = _named(session, Account if kind == "account" else Team, name, row_id)
    if found is None:
        noun = "user" if kind == "account" else "team"
        raise NotFound(f"no {kind} {name!r}: `raymill {noun} list` shows the ones there are")
    return Subject(kind, found.id, found.name)


def _named(
    session: Session, table: type[Account] | type[Team], name: str, row_id: uuid.UUID | None
) -> Account | Team | None:
    rows: Select[Any] = select(table).where((table.name == name) | (table.id == row_id))
    # A name wins, should it look like the id of another one.
    found: Account | Team | None = session.scalar(rows.order_by(table.name != name).limit(1))
    return found


def _find_key(session: Session, name: str, row_id: uuid.UUID | None) -> Subject:
    if row_id is not None:
        rows = select(ApiKey).where(ApiKey.id == row_id)
    else:
        rows = select(ApiKey).where(ApiKey.name == name, ApiKey.revoked_at.is_(None))
    found = list(session.scalars(rows.limit(2)))
    if not found:
        raise NotFound(f"no key {name!r}: `raymill key list` shows the ones there are")
    if len(found) > 1:
        raise Conflict(f"several keys are called {name!r}: give the id, which `raymill key list` shows")
    return Subject("key", found[0].id, f"{found[0].account.name}/{found[0].name}")


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


def set_budget(
    session: Session, subject: Subject, period: BudgetPeriod, limit_micro_usd: int, actor: Actor
) -> Budget:
    """Let `subject` spend so much in each `period`; 0 lets it spend nothing.

    What it has spent in the period that is now counts, also from before it had a budget, but for
    requests whose record is still on its way (a second or two).

    Raises:
        Invalid: the limit makes no sense.
    """
    if not 0 <= limit_micro_usd <= MAX_MICRO_USD:
        raise Invalid(
            f"a budget of {limit_micro_usd} micro-dollars makes no sense: give 0 to {MAX_MICRO_USD}",
            param="limit_micro_usd",
        )
    row = session.scalar(_budget(subject, period).with_for_update())
    previous = row.limit_micro_usd if row is not None else None
    if row is None:
        row = _add(session, subject, period, limit_micro_usd)
    if limit_micro_usd == previous:
        return row
    row.limit_micro_usd = limit_micro_usd
    audit.record(
        session,
        actor,
        "budget.set",
        f"budget/{subject.text}/{period.value}",
        before=None if previous is None else {"limit_micro_usd": previous},
        after={"limit_micro_usd": limit_micro_usd},
    )
    tell_gateways(session)
    return row


def _budget(subject: Subject, period: BudgetPeriod) -> Select[Budget]:
    return select(Budget).where(Budget.subject == subject.id_text, Budget.period == period)


def _add(session: Session, subject: Subject, period: BudgetPeriod, limit_micro_usd: int) -> Budget:
    """Another's insert of the same budget is waited for, and its row taken."""
    values = {"id": new_id(), "subject": subject.id_text, "period": period}
    statement = insert(Budget).values(**values, limit_micro_usd=limit_micro_usd)
    session.execute(statement.on_conflict_do_nothing(index_elements=["subject", "period"]))
    _count_what_was_spent(session, subject, period)
    return session.scalars(_budget(subject, period).with_for_update()).one()


def _count_what_was_spent(session: Session, subject: Subject, period: BudgetPeriod) -> None:
    """Without a budget nothing was metered: take it from the records of usage.

    A record and its share of the meter commit together, so the greater of the two is what was spent.
    """
    bucket = window_start(period.value, dt.datetime.now(dt.UTC))
    since = dt.datetime.fromtimestamp(bucket, dt.UTC)
    column: InstrumentedAttribute[Any] = {
        "account": Usage.account_id,
        "team": Usage.team_id,
        "key": Usage.key_id,
    }[subject.kind]
    spent = session.scalar(
        select(func.coalesce(func.sum(Usage.cost_micro_usd), 0)).where(
            column == subject.id, Usage.at >= since
        )
    )
    name = f"{subject.id_text}/micro_usd/{period.value}"
    row = insert(Meter).values(name=name, bucket=bucket, used=spent, leased=0)
    used = func.greatest(Meter.used, row.excluded.used)
    session.execute(row.on_conflict_do_update(index_elements=["name", "bucket"], set_={"used": used}))


def find_budget(session: Session, subject: Subject, period: BudgetPeriod) -> Budget:
    """Raises NotFound."""
    row = session.scalar(_budget(subject, period).with_for_update())
    if row is None:
        raise NotFound(
            f"{subject.text} has no budget for {period.value}: `raymill budget list` shows the ones there are"
        )
    return row


def remove_budget(session: Session, subject: Subject, period: BudgetPeriod, actor: Actor) -> Budget:
    """Let `subject` spend what it likes in a `period`. Raises NotFound when it has no such budget."""
    row = find_budget(session, subject, period)
    session.delete(row)
    audit.record(
        session,
        actor,
        "budget.remove",
        f"budget/{subject.text}/{period.value}",
        before={"limit_micro_usd": row.limit_micro_usd},
    )
    tell_gateways(session)
    return row


def list_budgets(session: Session, now: dt.datetime, subjects: Collection[str] | None = None) -> list[Status]:
    """Budgets with what is spent in the period that holds `now`.

    Args:
        subjects: Only those of these, each as `account:<uuid>`; None is all.
    """
    rows = select(Budget).order_by(Budget.subject, Budget.period)
    if subjects is not None:
        rows = rows.where(Budget.subject.in_(subjects))
    budgets = list(session.scalars(rows))
    meters = {_meter(budget): window_start(budget.period.value, now) for budget in budgets}
    used = uses(session, meters)
    subjects_by_id = _subjects(session, {budget.subject for budget in budgets})
    return [
        Status(
            budget=budget,
            subject=subjects_by_id[budget.subject],
            use=used.get(_meter(budget), UNUSED),
            resets_at=next_start(budget.period, now),
        )
        for budget in budgets
    ]


def subjects_of(session: Session, account: Account) -> list[str]:
    """All whose budgets bind an account: itself, its keys and its team."""
    keys = session.scalars(select(ApiKey.id).where(ApiKey.account_id == account.id))
    team = [f"team:{account.team_id}"] if account.team_id else []
    return [f"account:{account.id}", *team, *(f"key:{key_id}" for key_id in keys)]


def next_start(period: BudgetPeriod, now: dt.datetime) -> dt.datetime | None:
    """When the next period begins; None for a total."""
    start = dt.datetime.fromtimestamp(window_start(period.value, now), dt.UTC)
    match period:
        case BudgetPeriod.DAY:
            return start + dt.timedelta(days=1)
        case BudgetPeriod.MONTH:
            return (start + dt.timedelta(days=32)).replace(day=1)
        case BudgetPeriod.TOTAL:
            return None


def _meter(budget: Budget) -> str:
    return f"{budget.subject}/micro_usd/{budget.period.value}"


def _subjects(session: Session, texts: Collection[str]) -> dict[str, Subject]:
    """`account:<uuid>` and so on, each with its name."""
    ids: dict[str, list[uuid.UUID]] = {kind: [] for kind in KINDS}
    for text in texts:
        kind, _, row_id = text.partition(":")
        ids[kind].append(uuid.UUID(row_id))
    names = {
        "account": session.execute(select(Account.id, Account.name).where(Account.id.in_(ids["account"]))),
        "team": session.execute(select(Team.id, Team.name).where(Team.id.in_(ids["team"]))),
        "key": session.execute(
            select(ApiKey.id, func.concat(Account.name, "/", ApiKey.name))
            .join(Account, Account.id == ApiKey.account_id)
            .where(ApiKey.id.in_(ids["key"]))
        ),
    }
    found = [Subject(kind, row_id, name) for kind, rows in names.items() for row_id, name in rows]
    return {subject.id_text: subject for subject in found}
