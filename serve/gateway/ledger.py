"""A replica's line to the meters in Postgres: one exchange at a time, and what became of one cut short.

Knows no allowances. A COMMIT that nobody answered may have taken effect or not; which of the two, the
transaction's id tells once Postgres is back, so that no lease is lost and none counted twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, LiteralString

import psycopg
from psycopg import AsyncConnection, sql

from raymill.policies.errors import RaymillError, Unavailable
from raymill.registry import meters
from raymill.registry.meters import METER_CHANNEL, Ask, Exchanged, MeterKey

logger = logging.getLogger(__name__)

CALL_S = 5.0
LISTEN_AGAIN_S = 1.0

AWAY = (psycopg.OperationalError, psycopg.InterfaceError, TimeoutError, OSError)
"""The database, not the statement, is what failed."""

# A replica that stands still must not stand on everybody's meters. Postgres 16 knows no transaction_timeout.
SESSION: LiteralString = """
SELECT set_config(name, '5s', false) FROM pg_settings
WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')
"""

FAST_FAILURE: dict[str, Any] = {
    "application_name": "raymill-meters",
    "connect_timeout": 2,
    "tcp_user_timeout": 6000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
"""libpq's settings: seconds, and milliseconds for tcp_user_timeout."""


class InDoubt(RaymillError):
    """The exchange was sent whole, and nobody said whether it took effect: ask `settled` before the next."""

    def __init__(self, exchanged: Exchanged) -> None:
        super().__init__(f"no answer to the COMMIT of transaction {exchanged.transaction}")
        self.exchanged = exchanged


class Ledger:
    """Its calls come from one task, never at the same time; `listen` has a connection of its own."""

    def __init__(self, dsn: str, replica_id: uuid.UUID) -> None:
        self._dsn = dsn
        self._replica_id = replica_id
        self._connection: AsyncConnection[Any] | None = None
        self._away = False

    async def register(self, node: str) -> None:
        """The replica begins to hold leases.

        Raises:
            Unavailable: the database is away.
        """
        try:
            connection = await self._connected()
            await meters.register(connection, self._replica_id, node)
            await connection.commit()
        except AWAY as error:
            raise await self._gone(error) from error

    async def exchange(self, given: Mapping[MeterKey, int], asks: Sequence[Ask]) -> Exchanged:
        """Give back and lease, in one transaction that is a heartbeat as well.

        Raises:
            Unavailable: the database is away, and nothing has changed.
            InDoubt: it went away while it committed.
            ReplicaLost: the replica's leases went to others.
        """
        # A connection that was open before may have died of a restart that is long over.
        for fresh in (self._connection is None, True):
            try:
                exchanged = await self._send(given, asks)
                break
            except AWAY as error:
                gone = await self._gone(error)
                if fresh:
                    raise gone from error
        assert self._connection is not None
        try:
            async with asyncio.timeout(CALL_S):
                await self._connection.commit()
        except AWAY as error:
            await self._gone(error)
            raise InDoubt(exchanged) from error
        self._away = False
        return exchanged

    async def settled(self, doubt: InDoubt) -> bool:
        """Whether an exchange in doubt took effect.

        Raises:
            Unavailable: the database is away, or does not know yet.
        """
        try:
            connection = await self._connected()
            async with asyncio.timeout(CALL_S):
                status = await meters.outcome(connection, doubt.exchanged.transaction)
                await connection.rollback()
        except psycopg.errors.InvalidParameterValue:
            # A number that is yet to be given: the server crashed, and remembers nothing of ours.
            await self.close()
            return False
        except AWAY as error:
            raise await self._gone(error) from error
        if status == "in progress":
            raise Unavailable("Postgres has not finished a transaction of before: try again in a second")
        return status == "committed"

    async def listen(self, heard: Callable[[str], None]) -> None:
        """For ever: tell `heard` each meter that another replica wants something of."""
        while True:
            with contextlib.suppress(*AWAY):
                async with await AsyncConnection.connect(
                    self._dsn, autocommit=True, **FAST_FAILURE
                ) as connection:
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(METER_CHANNEL)))
                    async for notice in connection.notifies():
                        if self._connection is None or notice.pid != self._connection.info.backend_pid:
                            heard(notice.payload)
            await asyncio.sleep(LISTEN_AGAIN_S)

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*AWAY):
                await connection.close()

    async def _send(self, given: Mapping[MeterKey, int], asks: Sequence[Ask]) -> Exchanged:
        """All but the COMMIT. What fails here has changed nothing."""
        connection = await self._connected()
        try:
            async with asyncio.timeout(CALL_S):
                return await meters.exchange(connection, self._replica_id, given, asks)
        except RaymillError:
            await connection.rollback()
            raise

    async def _connected(self) -> AsyncConnection[Any]:
        if self._connection is None:
            connection = await AsyncConnection.connect(self._dsn, **FAST_FAILURE)
            await connection.execute(SESSION)
            await connection.commit()
            self._connection = connection
        return self._connection

    async def _gone(self, error: BaseException) -> Unavailable:
        if not self._away:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            logger.warning("The meters' database does not answer: %s", reason)
        self._away = True
        await self.close()
        return Unavailable("limits cannot be checked, for the database is away: try again in a few seconds")
