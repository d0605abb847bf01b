"""What queueing theory says of a station, to hold the simulation against it.

Erlang's C formula (A. K. Erlang, 1917), as in L. Kleinrock, Queueing Systems I (1975), section 3.5; Pollaczek and Khinchine's
mean for one server with any service time, section 5.6. Rates are per second, times are seconds.
"""

from __future__ import annotations


def waits_share(rate: float, service_s: float, servers: int) -> float:
    """M/M/c: the share of arrivals that find every server busy.

    Raises:
        ValueError: more comes than can be served, so that the queue has no steady state.
    """
    offered = rate * service_s
    if offered >= servers:
        raise ValueError(f"{offered:g} servers' work is offered to {servers}: lower rate or service_s")
    blocked = 1.0  # Erlang's B, by its recursion
    for number in range(1, servers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    load = offered / servers
    return blocked / (1 - load + load * blocked)


def mean_wait_s(rate: float, service_s: float, servers: int) -> float:
    """M/M/c: from arrival until the service begins."""
    return waits_share(rate, service_s, servers) * service_s / (servers - rate * service_s)


def mean_wait_of_one_s(rate: float, service_s: float, variation: float) -> float:
    """M/G/1, of a service time with that coefficient of variation."""
    load = rate * service_s
    if load >= 1:
        raise ValueError(f"load is {load:g}: lower rate or service_s")
    return load * service_s * (1 + variation * variation) / (2 * (1 - load))
