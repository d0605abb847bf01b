"""Which requests are meant, of all that the records of usage hold: a time span, and what must be equal."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.orm import Session

from raymill.policies.errors import Invalid
from raymill.registry.budgets import find_subject


@dataclass(frozen=True, kw_only=True)
class Filters:
    """What is None is not asked for."""

    account_id: uuid.UUID | None = None
    team_id: uuid.UUID | None = None
    key_id: uuid.UUID | None = None
    route: str | None = None
    provider: str | None = None
    model: str | None = None
    operation: str | None = None
    outcome: str | None = None
    request_id: str | None = None

    def values(self) -> dict[str, Any]:
        """Column -> what it must be; also the parameters of `conditions`."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def conditions(self) -> str:
        """For a WHERE clause. Holds no value itself, only parameters with the columns' names."""
        equal = (f"usage.{column} = :{column}" for column in self.values())
        return " AND ".join(["at >= :since", "at < :until", *equal])

    def of(
        self, session: Session, *, account: str | None = None, team: str | None = None, key: str | None = None
    ) -> Filters:
        """These, and only requests of an account, a team or a key, by name or id.

        Raises:
            NotFound, Conflict: as by `find_subject`.
        """
        given = {"account": account, "team": team, "key": key}
        ids: dict[str, Any] = {
            f"{kind}_id": find_subject(session, f"{kind}:{name}").id for kind, name in given.items() if name
        }
        return replace(self, **ids)


EVERYTHING = Filters()


def span(since: dt.datetime, until: dt.datetime) -> dict[str, dt.datetime]:
    """The parameters `since` and `until` of `conditions`.

    Raises:
        Invalid: they are the wrong way round.
    """
    if since >= until:
        raise Invalid(
            f"since {since.isoformat()} is not before until {until.isoformat()}: swap them", param="since"
        )
    return {"since": since, "until": until}
