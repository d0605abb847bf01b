"""What a replica keeps outside of itself: limits, records, kept answers, feedback.

Opened from the service's settings in a replica; a test makes one of whatever parts it needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from functools import partial

from raymill.cluster.settings import Settings
from raymill.policies.errors import Unavailable
from raymill.registry.database import Database, dsn_of
from raymill.serve.gateway import feedback
from raymill.serve.gateway.answers import Answers, NoAnswers, PostgresAnswers
from raymill.serve.gateway.app import TakeFeedback
from raymill.serve.gateway.ingest import ensure_ingester
from raymill.serve.gateway.meters import Meters
from raymill.serve.gateway.spool import Spool

log = logging.getLogger(__name__)

ENSURE_EVERY_S = 5.0
SWEEP_EVERY_S = 600.0


@dataclass(kw_only=True)
class Stores:
    replica_id: uuid.UUID
    meters: Meters
    spool: Spool
    answers: Answers = field(default_factory=NoAnswers)
    take_feedback: TakeFeedback | None = None
    settings: Settings | None = None
    """None: nobody ingests the spool, as in tests."""

    database: Database | None = None
    _ensuring: asyncio.Task[None] | None = field(default=None, init=False)

    @classmethod
    def open(cls, settings: Settings) -> Stores:
        """Of the service whose settings these are."""
        replica_id = uuid.uuid4()
        database = settings.open_database(pool_size=1)
        dsn = dsn_of(database.url)
        return cls(
            replica_id=replica_id,
            meters=Meters(dsn, replica_id, socket.gethostname()),
            spool=Spool(settings.spool_dir, replica_id),
            answers=PostgresAnswers(dsn, replica_id),
            take_feedback=partial(feedback.keep, database),
            settings=settings,
            database=database,
        )

    async def start(self) -> None:
        """Begin to lease limits, and see to it that records are ingested.

        Raises:
            Unavailable: the database is away.
        """
        await self.meters.start()
        if self.settings is not None:
            self._ensuring = asyncio.create_task(self._ensure(self.settings), name="gateway-ingester")

    def check(self) -> None:
        """Raises when leases or records are no longer seen to: the replica must be replaced."""
        self.meters.check()
        if self._ensuring is not None and self._ensuring.done():
            raise RuntimeError(f"nobody sees to the ingester any more: {self._ensuring.exception()!r}")

    async def stop(self) -> None:
        """Give leases back. Records that are not ingested yet stay on disk, where the ingester finds them."""
        if self._ensuring is not None:
            self._ensuring.cancel()
            await asyncio.gather(self._ensuring, return_exceptions=True)
        with contextlib.suppress(Exception):  # what cannot be given back now goes back by the sweep
            await self.meters.stop()
        self.spool.close()
        if self.database is not None:
            self.database.close()

    async def _ensure(self, settings: Settings) -> None:
        sweep_at = 0.0
        while True:
            try:
                await asyncio.to_thread(ensure_ingester, settings)
            except (OSError, subprocess.SubprocessError):
                log.exception("the ingester did not start: the next try is in %.0f s", ENSURE_EVERY_S)
            if time.monotonic() >= sweep_at and isinstance(self.answers, PostgresAnswers):
                sweep_at = time.monotonic() + SWEEP_EVERY_S
                with contextlib.suppress(Unavailable):  # the next one finds them too
                    await self.answers.sweep()
            await asyncio.sleep(ENSURE_EVERY_S)
