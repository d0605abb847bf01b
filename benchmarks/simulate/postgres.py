"""Postgres as a station: its cores, which serve statements. A statement's time includes its commit's."""

from __future__ import annotations

from benchmarks.simulate.queueing import Simulation, Station, Then

VARIATION = 0.3
"""Of the time of a statement; the recorded ones have about so much."""


class Postgres:
    def __init__(self, simulation: Simulation, cores: int, shared: Station | None = None) -> None:
        self.cpu = Station(simulation, "postgres", cores, shared)
        self._simulation = simulation

    def run(self, server_s: float, then: Then) -> None:
        """A statement, and its commit."""
        self.cpu.ask(self._simulation.gamma(server_s, VARIATION), then)
