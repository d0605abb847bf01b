"""A key of the gateway for one job: made when the job begins, good for an hour at a time, revoked when it ends.

It is a key of whoever started the job, so their limits and budgets hold. Only its sha256 is kept anywhere; a job that dies
leaves a key that ends by itself, and its next attempt revokes it.
"""

from __future__ import annotations

import datetime as dt
import time
import uuid
from collections.abc import Mapping, Sequence

import httpx
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from raymill.policies.errors import Unavailable
from raymill.registry import identity
from raymill.registry.audit import Actor
from raymill.registry.database import Database
from raymill.registry.tables import ApiKey, Job, Pipeline, Usage

GOOD_FOR = dt.timedelta(hours=1)
RENEW_S = 600.0
"""Before its end another one is made: the longest that one answer may take."""

KNOWN_S = 15.0
"""Gateways learn of a key within a second or two."""

RECORDED_S = 15.0
"""Usage comes from the gateways' spools within a second or two."""

POLL_S = 0.25


class GatewayAccess:
    """Use as a context manager; outside of it there is no key."""

    def __init__(self, database: Database, job_id: uuid.UUID, url: str) -> None:
        """
        Args:
            url: of the gateway, up to `/v1`.
        """
        self._database = database
        self._job_id = job_id
        self._url = url
        self._key = ""
        self._renew_at = 0.0

    def __enter__(self) -> GatewayAccess:
        self.key()
        return self

    def __exit__(self, *_: object) -> None:
        self._database.patiently(self._revoke)
        self._key = ""

    def key(self) -> str:
        """The key of the moment.

        Raises:
            Unavailable: the gateway does not come to know it.
        """
        if time.monotonic() >= self._renew_at:
            before = self._key
            self._key = self._database.patiently(self._make)
            self._renew_at = time.monotonic() + GOOD_FOR.total_seconds() - RENEW_S
            self._wait_until_known()
            if not before:
                self._database.patiently(lambda session: self._revoke(session, but=self._key))
        return self._key

    def costs(self, request_ids: Sequence[str]) -> Mapping[str, int]:
        """Request id -> what its requests cost in micro-dollars, in all attempts; as soon as all are on record, or as
        far as they are."""
        deadline = time.monotonic() + RECORDED_S
        wanted = set(request_ids)
        while True:
            found = self._database.patiently(lambda session: self._costs(session, request_ids))
            if wanted <= found.keys() or time.monotonic() >= deadline:
                return found
            time.sleep(POLL_S)

    def spent(self) -> int:
        """Micro-dollars of all requests under this job's keys, those without an answer included."""
        return self._database.patiently(self._spent)

    def _make(self, session: Session) -> str:
        owner = self._owner(session)
        expires_at = dt.datetime.now(dt.UTC) + GOOD_FOR
        return identity.create_key(session, owner.name, self._name, owner, expires_at=expires_at)[1]

    def _wait_until_known(self) -> None:
        deadline = time.monotonic() + KNOWN_S
        said = ""
        while time.monotonic() < deadline:
            try:
                answer = httpx.get(
                    f"{self._url}/models",
                    headers={"authorization": f"Bearer {self._key}"},
                    timeout=5.0,
                    trust_env=False,
                )
            except httpx.TransportError as error:
                said = " ".join(str(error).split()) or type(error).__name__
            else:
                if answer.status_code == 200:
                    return
                said = f"it answers {answer.status_code}"
            time.sleep(POLL_S)
        raise Unavailable(
            f"the gateway at {self._url} does not take the job's key ({said[:200]}): see `raymill status`"
        )

    def _revoke(self, session: Session, but: str = "") -> None:
        """The keys of this job, those of attempts that died too."""
        rows = session.scalars(self._keys().where(ApiKey.revoked_at.is_(None))).all()
        for row in rows:
            if not but or row.key_sha256 != identity.key_sha256(but):
                identity.revoke_key(session, row.id, self._owner(session))

    def _costs(self, session: Session, request_ids: Sequence[str]) -> dict[str, int]:
        rows = (
            select(Usage.request_id, func.sum(Usage.cost_micro_usd))
            .where(Usage.request_id.in_(request_ids), Usage.key_id.in_(self._key_ids(session)))
            .group_by(Usage.request_id)
        )
        return {request_id: int(cost) for request_id, cost in session.execute(rows)}

    def _spent(self, session: Session) -> int:
        rows = select(func.coalesce(func.sum(Usage.cost_micro_usd), 0)).where(
            Usage.key_id.in_(self._key_ids(session))
        )
        return int(session.scalar(rows) or 0)

    def _key_ids(self, session: Session) -> Sequence[uuid.UUID]:
        return session.scalars(select(ApiKey.id).where(ApiKey.name == self._name)).all()

    def _keys(self) -> Select[ApiKey]:
        return select(ApiKey).where(ApiKey.name == self._name)

    def _owner(self, session: Session) -> Actor:
        job = session.get_one(Job, self._job_id)
        return Actor(name=session.get_one(Pipeline, job.pipeline_id).created_by)

    @property
    def _name(self) -> str:
        return f"job {self._job_id}"
