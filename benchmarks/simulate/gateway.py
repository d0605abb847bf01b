"""The gateway as stations: HAProxy, replicas, the ingesters of usage records, Postgres.

    client -> HAProxy's threads -> a replica, one thread of Python -> upstream -> client
                                      └ spool -> ingester of the machine: a batch of each replica in turn -> Postgres

The upstream takes no time of a station but on the machine that is validated, where it shares the cores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from benchmarks.simulate.postgres import Postgres
from benchmarks.simulate.queueing import Simulation, Station
from benchmarks.simulate.times import GatewayTimes

VARIATION = 0.5
"""Of the CPU of a request; the measured latencies at one connection have about so much."""

POLL_S = 0.25
MOST_RECORDS = 2000
"""Of an ingester (serve/gateway/ingest.py, segments.py)."""

LEASE_S = 0.5
"""Between two contacts of a replica with the meters (serve/gateway/meters.py)."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How much of each there is."""

    replicas: int = 1
    haproxy_threads: int = 4
    machines: int = 1
    """With replicas on them, and one ingester each."""

    postgres_cores: int = 4


class Answers(NamedTuple):
    """What became of the requests. Utilisations are shares of each station's time."""

    requests_per_s: float
    mean_s: float
    """From the client's sending until its answer, without the upstream."""

    p99_s: float
    haproxy: float
    replicas: float
    ingest: float
    postgres: float
    behind: float
    """Usage records that wait, as a share of those written."""


class Ingester:
    """Of one machine: a batch of each replica, one transaction each; sleeps when it was not full."""

    def __init__(self, run: Run, replicas: int, cpu: Station) -> None:
        self._run, self.cpu = run, cpu
        self.waiting = [0] * max(1, replicas)
        self._turn(0, full=False)

    def _turn(self, number: int, *, full: bool) -> None:
        if number == len(self.waiting):
            self._run.simulation.after(0.0 if full else POLL_S, partial(self._turn, 0, full=False))
            return
        taken = min(self.waiting[number], MOST_RECORDS)
        if not taken:
            self._turn_next(number, full)
            return
        self.waiting[number] -= taken
        store = self._run.times.store
        self.cpu.ask(
            store.client_s(taken),
            lambda: self._run.postgres.run(store.server_s(taken), partial(self._stored, number, taken, full)),
        )

    def _stored(self, number: int, taken: int, full: bool) -> None:
        self._run.stored += taken
        self._turn_next(number, full or taken == MOST_RECORDS)

    def _turn_next(self, number: int, full: bool) -> None:
        self._turn(number + 1, full=full)


class Run:
    """All stations, before anybody asks."""

    def __init__(self, times: GatewayTimes, layout: Layout, *, cores: int | None, seed: int) -> None:
        self.times, self.layout = times, layout
        self.simulation = Simulation(seed)
        # On one machine everything shares the cores; on many each part has its own.
        self.cores = Station(self.simulation, "cores", cores) if cores else None
        station = partial(Station, self.simulation, cores=self.cores)
        self.haproxy = station("haproxy", layout.haproxy_threads)
        self.replicas = [station("replica") for _ in range(layout.replicas)]
        self.other = station("other", cores) if cores else None
        self.postgres = Postgres(self.simulation, layout.postgres_cores, self.cores)
        each = -(-layout.replicas // layout.machines)
        self.ingesters = [Ingester(self, each, station("ingest")) for _ in range(layout.machines)]
        self.answered = self.written = self.stored = 0
        self.times_s: list[float] = []
        for _ in self.replicas:
            self.simulation.after(self.simulation.random.random() * LEASE_S, self._lease)

    def _lease(self) -> None:
        self.postgres.run(self.times.lease.server_s(1), lambda: None)
        self.simulation.after(LEASE_S, self._lease)

    def request(self, then: Callable[[], None]) -> None:
        """One request on its way; `then` happens when its client has the answer."""
        began = self.simulation.now
        number = self.simulation.random.randrange(len(self.replicas))
        replica = self.replicas[number]
        draw = self.simulation.gamma

        def answered() -> None:
            self.answered += 1
            self.times_s.append(self.simulation.now - began)
            then()

        def served() -> None:
            self.written += 1
            machine, place = number % len(self.ingesters), number // len(self.ingesters)
            self.ingesters[machine].waiting[place] += 1
            if self.other is None:
                answered()
            else:
                self.other.ask(draw(self.times.other_s, VARIATION), answered)

        def passed() -> None:
            replica.ask(draw(self.times.gateway_s, VARIATION), served)

        self.haproxy.ask(draw(self.times.haproxy_s, VARIATION), passed)

    def found(self, seconds: float) -> Answers:
        self.simulation.run(seconds)
        ordered = sorted(self.times_s)
        count = max(1, len(ordered))
        return Answers(
            requests_per_s=self.answered / seconds,
            mean_s=sum(ordered) / count,
            p99_s=ordered[int(count * 0.99) - 1] if ordered else 0.0,
            haproxy=self.haproxy.utilisation(),
            replicas=sum(each.utilisation() for each in self.replicas) / len(self.replicas),
            ingest=sum(each.cpu.utilisation() for each in self.ingesters) / len(self.ingesters),
            postgres=self.postgres.cpu.utilisation(),
            behind=1 - self.stored / self.written if self.written else 0.0,
        )


def closed(
    times: GatewayTimes, layout: Layout, *, connections: int, cores: int, seconds: float = 5.0, seed: int = 1
) -> Answers:
    """So many clients that each ask again as soon as they are answered, on one machine with so many cores."""
    run = Run(times, layout, cores=cores, seed=seed)

    def again() -> None:
        run.request(again)

    for _ in range(connections):
        again()
    return run.found(seconds)


def open_(
    times: GatewayTimes, layout: Layout, *, rate: float, seconds: float = 1.0, seed: int = 1
) -> Answers:
    """A Poisson stream of `rate` requests a second, whatever becomes of them."""
    run = Run(times, layout, cores=None, seed=seed)

    def come() -> None:
        run.request(lambda: None)
        run.simulation.after(run.simulation.exponential(1 / rate), come)

    come()
    return run.found(seconds)
