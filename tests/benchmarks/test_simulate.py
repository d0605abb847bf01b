"""The simulation against what queueing theory and the measured engine say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from benchmarks.simulate import gateway, jobs, theory
from benchmarks.simulate.gateway import Layout
from benchmarks.simulate.queueing import Simulation, Station
from benchmarks.simulate.times import RESULTS, gateway_times, job_times, recorded

ARRIVALS = 40_000


def arrivals(simulation: Simulation, station: Station, rate: float, variation: float) -> None:
    """A Poisson stream for `station`, whose mean service time is 1 s."""

    def come(left: int) -> None:
        station.ask(simulation.gamma(1.0, variation), lambda: None)
        if left:
            simulation.after(simulation.exponential(1 / rate), come, left - 1)

    come(ARRIVALS)
    simulation.run(float("inf"))


@pytest.mark.parametrize(("servers", "load"), [(1, 0.5), (4, 0.7), (16, 0.8)])
def test_a_station_waits_as_erlang_says(servers: int, load: float) -> None:
    simulation = Simulation(seed=1)
    station = Station(simulation, "m/m/c", servers)
    arrivals(simulation, station, load * servers, variation=1.0)
    assert station.utilisation() == pytest.approx(load, rel=0.02)
    assert station.mean_wait_s() == pytest.approx(theory.mean_wait_s(load * servers, 1.0, servers), rel=0.12)


@pytest.mark.parametrize("variation", [0.25, 2.0])
def test_one_server_waits_as_pollaczek_and_khinchine_say(variation: float) -> None:
    simulation = Simulation(seed=3)
    station = Station(simulation, "m/g/1")
    arrivals(simulation, station, 0.6, variation)
    assert station.mean_wait_s() == pytest.approx(theory.mean_wait_of_one_s(0.6, 1.0, variation), rel=0.1)


def test_stations_that_share_cores_do_no_more_than_the_cores() -> None:
    simulation = Simulation()
    cores = Station(simulation, "cores", 2)
    stations = [Station(simulation, f"s{n}", 1, cores) for n in range(4)]

    def again(station: Station) -> None:
        station.ask(1.0, lambda: again(station))

    for station in stations:
        again(station)
    simulation.run(1000.0)
    assert sum(station.served for station in stations) == pytest.approx(2000, rel=0.01)
    assert cores.utilisation() == pytest.approx(1.0, rel=0.01)
    assert min(station.served for station in stations) == pytest.approx(500, rel=0.01)


def test_more_work_than_servers_has_no_steady_state() -> None:
    with pytest.raises(ValueError, match="2 servers' work is offered to 2"):
        theory.waits_share(2.0, 1.0, 2)


def test_the_machine_that_was_measured_is_predicted_within_what_the_documentation_says() -> None:
    found = recorded()
    worker = jobs.short_jobs(job_times(found), threads=8, queued=10**9, seconds=0.5)
    assert worker.jobs_per_s == pytest.approx(measured("jobs")["jobs_per_s"]["worker"]["threads_8"], rel=0.3)
    layout = Layout(postgres_cores=2)
    answers = gateway.closed(gateway_times(found), layout, connections=16, cores=2, seconds=0.5)
    there = measured("gateway")["systems"]["raymill"]["median"]["16"]["requests_per_s"]
    assert answers.requests_per_s == pytest.approx(there, rel=0.1)


def measured(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found
