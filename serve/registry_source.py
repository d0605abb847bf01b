"""What the gateway knows, read from the registry: live keys, and the versions that are ready."""

from __future__ import annotations

import asyncio
import datetime as dt

import psycopg
from psycopg import sql
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from raymill.cluster.settings import Settings
from raymill.policies.errors import Unavailable
from raymill.registry.database import is_away
from raymill.registry.identity import KEY_CHANNEL
from raymill.registry.promotion import ALIAS_CHANNEL
from raymill.registry.tables import Account, ApiKey, Deployment, LlmVersion
from raymill.serve.gateway.snapshot import ApiKey as KnownKey
from raymill.serve.gateway.snapshot import Served, Snapshot
from raymill.serve.llm.spec import application_name


class RegistrySource:
    """A `SnapshotSource` on Postgres. Made in the replica, from its environment."""

    def __init__(self) -> None:
        self._database = Settings().open_database(pool_size=1)
        self._listening: psycopg.AsyncConnection | None = None

    async def load(self) -> Snapshot:
        try:
            return await asyncio.to_thread(self._load)
        except DBAPIError as error:
            if is_away(error):
                raise Unavailable("the registry's database is away: see that Postgres runs") from error
            raise

    async def changed(self) -> None:
        try:
            if self._listening is None:
                dsn = self._database.url.set(drivername="postgresql").render_as_string(hide_password=False)
                connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True, connect_timeout=5)
                for channel in (ALIAS_CHANNEL, KEY_CHANNEL):
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                self._listening = connection
                return  # something may have changed before we listened
            async for _ in self._listening.notifies(stop_after=1):
                return
        except psycopg.OperationalError as error:
            self._listening = None
            raise Unavailable("the registry's database is away: see that Postgres runs") from error

    async def close(self) -> None:
        if self._listening is not None:
            await self._listening.close()
        self._database.close()

    def _load(self) -> Snapshot:
        with self._database.transaction() as session:
            return Snapshot.of(_keys(session), _served(session))


def _keys(session: Session) -> dict[str, KnownKey]:
    now = dt.datetime.now(dt.UTC)
    rows = session.scalars(
        select(ApiKey)
        .join(Account)
        .where(ApiKey.revoked_at.is_(None), Account.disabled_at.is_(None))
        .where(ApiKey.expires_at.is_(None) | (ApiKey.expires_at > now))
    )
    return {row.key_sha256: KnownKey(key_id=str(row.id), user=row.account.name) for row in rows}


def _served(session: Session) -> list[Served]:
    """Versions that the reconciler reported as ready, with the deployment's alias.

    While a newer version loads, the deployment row still names the one that answers.
    """
    rows = session.scalars(select(Deployment).where(Deployment.serving_version_id.is_not(None)))
    served = []
    for row in rows:
        version = session.get_one(LlmVersion, row.serving_version_id)
        served.append(
            Served(
                name=row.llm.name,
                version=version.number,
                application=application_name(row.llm.name, version.number),
                aliases=(row.alias,),
                created=int(version.created_at.timestamp()),
            )
        )
    return served
