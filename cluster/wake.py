"""Postgres LISTEN as a wake-up call. It may miss one; whoever waits polls as well."""

from __future__ import annotations

import time

import psycopg
from sqlalchemy import URL

from raymill.registry.database import dsn_of


class Wake:
    """Waits for a notification on some channels; connects again when the connection broke."""

    def __init__(self, url: URL, *channels: str) -> None:
        self._dsn = dsn_of(url)
        self._channels = channels
        self._connection: psycopg.Connection | None = None

    def wait(self, timeout_s: float) -> bool:
        """Block until someone notifies, for at most `timeout_s`. Returns whether someone did."""
        started = time.monotonic()
        try:
            if self._connection is None:
                self._connection = psycopg.connect(self._dsn, autocommit=True)
                for channel in self._channels:
                    self._connection.execute(f"LISTEN {channel}")
                return True  # something may have happened before we listened
            heard = list(self._connection.notifies(timeout=timeout_s, stop_after=1))
            return bool(heard)
        except psycopg.OperationalError:
            self.close()
            time.sleep(max(0.0, timeout_s - (time.monotonic() - started)))
            return False

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
