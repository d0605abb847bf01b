"""A Postgres for tests, which leaves writing to the operating system."""

from __future__ import annotations

import os
import signal
import time

from raymill.registry.postgres import EmbeddedPostgres


class ThrowawayPostgres(EmbeddedPostgres):
    """One that leaves writing to the operating system: a killed server still loses nothing, only a machine would.

    A database for each test is so made in a third of the time.
    """

    def _settings(self, port: int) -> dict[str, str | int]:
        return {**super()._settings(port), "fsync": "off", "full_page_writes": "off"}

    def throw_away(self) -> None:
        """Not `stop`, which writes out every database first."""
        if (pid := self.pid()) is not None:
            os.kill(pid, signal.SIGQUIT)
        while self.is_running():
            time.sleep(0.05)
