"""Whether a replica should get more requests: it says no before a queue is full, not after.

HAProxy asks at its health path, and `/readyz` reads what replicas write; both take one out that says no.
"""

from __future__ import annotations

from dataclasses import dataclass

from raymill.serve.gateway.app import Gateway
from raymill.serve.gateway.spool import Spool

MAX_IN_FLIGHT = 4096
NEARLY = 0.8


@dataclass(frozen=True)
class Readiness:
    gateway: Gateway
    spool: Spool

    def not_ready(self) -> str | None:
        """Why no more requests should come; None when they may."""
        if self.gateway.in_flight > MAX_IN_FLIGHT * NEARLY:
            return f"{self.gateway.in_flight} requests in flight of at most {MAX_IN_FLIGHT}"
        if self.spool.depth_bytes() > self.spool.max_bytes * NEARLY:
            return f"{self.spool.depth_bytes()} bytes of usage records wait for Postgres"
        return None
