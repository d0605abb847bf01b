"""A discrete-event simulation: a heap of what happens next, and stations that serve what waits before them.

Knows nothing of jobs or requests. Times are seconds; everything that is drawn comes from one seeded generator, so a run can
be repeated to the last event.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from typing import Any

Then = Callable[[], None]
Draw = Callable[[], float]


class Simulation:
    """The clock and what is to happen."""

    def __init__(self, seed: int = 1) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self.stations: list[Station] = []
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def after(self, delay_s: float, work: Callable[..., None], *arguments: Any) -> None:
        self._count += 1  # what happens at the same time happens in the order in which it was asked for
        heapq.heappush(self._heap, (self.now + delay_s, self._count, work, arguments))

    def run(self, until_s: float) -> None:
        """To `until_s`, or until nothing is left to happen."""
        heap = self._heap
        while heap and heap[0][0] <= until_s:
            self.now, _, work, arguments = heapq.heappop(heap)
            work(*arguments)
        self.now = max(self.now, until_s) if heap else self.now

    def exponential(self, mean_s: float) -> float:
        return self.random.expovariate(1.0 / mean_s)

    def gamma(self, mean_s: float, variation: float) -> float:
        """With the coefficient of variation `variation`; 1 is the exponential, near 0 is constant."""
        shape = 1.0 / (variation * variation)
        return self.random.gammavariate(shape, mean_s / shape)


class Station:
    """First come, first served, by `servers` that are alike.

    Args:
        cores: what each of its servers needs beside itself while it serves; several stations share one.
    """

    def __init__(
        self, simulation: Simulation, name: str, servers: int = 1, cores: Station | None = None
    ) -> None:
        self.name, self.servers = name, servers
        self.served = 0
        self.busy_s = 0.0
        self.waited_s = 0.0
        self._simulation, self._cores = simulation, cores
        self._free = servers
        self._waiting: deque[tuple[float, float, Then]] = deque()
        simulation.stations.append(self)

    def ask(self, service_s: float, then: Then) -> None:
        """Be served for `service_s`, once it is one's turn; then `then` happens."""
        self._waiting.append((self._simulation.now, service_s, then))
        self._begin()

    def utilisation(self) -> float:
        """Share of its servers' time since the beginning."""
        return self.busy_s / (self.servers * self._simulation.now) if self._simulation.now else 0.0

    def mean_wait_s(self) -> float:
        return self.waited_s / self.served if self.served else 0.0

    def take(self, then: Then) -> None:
        """Hold a server until `give`: for who shares it as `cores`."""
        self.ask(-1.0, then)

    def give(self, held_s: float) -> None:
        self.busy_s += held_s
        self._free += 1
        self._begin()

    def _begin(self) -> None:
        while self._free and self._waiting:
            self._free -= 1
            came, service_s, then = self._waiting.popleft()
            if self._cores is None:
                self._serve(came, service_s, then)
            else:
                self._cores.take(lambda c=came, s=service_s, t=then: self._serve(c, s, t))  # type: ignore[misc]

    def _serve(self, came: float, service_s: float, then: Then) -> None:
        self.waited_s += self._simulation.now - came
        self.served += 1
        if service_s < 0:
            then()
        else:
            self._simulation.after(service_s, self._end, service_s, then)

    def _end(self, service_s: float, then: Then) -> None:
        self.busy_s += service_s
        self._free += 1
        if self._cores is not None:
            self._cores.give(service_s)
        then()
        self._begin()
