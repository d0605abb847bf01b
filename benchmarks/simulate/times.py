"""Service times, as they were recorded from the real parts: `results/service_times.json` and the benchmarks' results.

What is read here was measured, but for `SUBMIT_S` and `POLL_S`, which are assumed and swept. Times are seconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

RESULTS = Path(__file__).resolve().parent.parent / "results"
RECORDED = RESULTS / "service_times.json"

SUBMIT_S = 0.05
POLL_S = 0.005
"""A call of Ray's dashboard that hands over a job, or tells of one: assumed, for they were not recorded."""


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A statement for n rows: CPU of the server and of its client, each `base + each * n`."""

    server_base_s: float
    server_each_s: float
    client_base_s: float
    client_each_s: float

    def server_s(self, rows: int) -> float:
        return self.server_base_s + self.server_each_s * rows

    def client_s(self, rows: int) -> float:
        return self.client_base_s + self.client_each_s * rows

    @classmethod
    def of(cls, few: dict[str, float], many: dict[str, float] | None, scale: float) -> Self:
        """The line through two recordings, of `rows` each; level where there is one alone."""
        slope = {"server": 0.0, "client": 0.0}
        if many is not None:
            rows = many["rows"] - few["rows"]
            slope = {
                side: max(0.0, (many[f"{side}_ms"] - few[f"{side}_ms"]) / rows * scale / 1000)
                for side in slope
            }
        base = {
            side: max(0.0, few[f"{side}_ms"] * scale / 1000 - each * few["rows"])
            for side, each in slope.items()
        }
        return cls(
            server_base_s=base["server"],
            server_each_s=slope["server"],
            client_base_s=base["client"],
            client_each_s=slope["client"],
        )


@dataclass(frozen=True, kw_only=True)
class JobTimes:
    """Of the job engine."""

    claim: Statement
    bound: Statement
    """A claim from a queue whose jobs a quota binds."""

    turn: Statement
    """Ends n jobs and claims n: what a busy pool worker says."""

    beat: Statement
    end: Statement
    """The end of a heavy job, with events and effects."""

    python_s: float
    """A pool worker's own work for a job that does nothing: one thread of Python at a time."""

    submit_s: float
    """A heavy job handed to Ray, by the dispatcher's one thread."""

    poll_s: float
    """A running heavy job's state asked of Ray, by the same thread."""

    start_s: float
    """From there until its process has taken over the lease."""


@dataclass(frozen=True, kw_only=True)
class GatewayTimes:
    """CPU of each part for one request."""

    gateway_s: float
    haproxy_s: float
    other_s: float
    """The load's generator and the mock upstream: on this machine they share the cores."""

    store: Statement
    """A batch of usage records, rows and meters, from the ingester."""

    lease: Statement
    """A replica's contact with the meters."""


def recorded(path: Path = RECORDED) -> dict[str, Any]:
    """Raises FileNotFoundError: nothing was recorded here yet."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.name} is not there: record it with python -m benchmarks.simulate.record"
        )
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def quiet(found: dict[str, Any]) -> float:
    """What to multiply recorded times by, so that the statement of a busy worker takes what `make bench-jobs` measured on an
    idle machine: whatever else runs on the machine of the recording makes all of them longer, their CPU times too."""
    turn = found["postgres"]["turn_1"]
    measured = json.loads((RESULTS / "jobs.json").read_text())["jobs_per_s"]["single"]["raymill"]["work"]
    return float(1000 / measured / (turn["server_ms"] + turn["client_ms"]))


def job_times(found: dict[str, Any]) -> JobTimes:
    sql, scale = found["postgres"], quiet(found)
    phases = json.loads((RESULTS / "train.json").read_text())["first_step_phases_s"]
    measured = json.loads((RESULTS / "jobs.json").read_text())["jobs_per_s"]
    return JobTimes(
        claim=Statement.of(sql["claim_1"], sql["claim_100"], scale),
        bound=Statement.of(sql["bound_1"], sql["bound_100"], scale),
        turn=Statement.of(sql["turn_1"], sql["turn_100"], scale),
        beat=Statement.of(sql["beat_1"], sql["beat_100"], scale),
        end=Statement.of(sql["end_1"], None, scale),
        # What a worker of one thread needs for a job beyond the statement that ends it and takes the next.
        python_s=1 / measured["worker"]["threads_1"] - 1 / measured["single"]["raymill"]["work"],
        submit_s=SUBMIT_S,
        poll_s=POLL_S,
        start_s=phases["cold"]["process"],
    )


def gateway_times(found: dict[str, Any]) -> GatewayTimes:
    """The gateway's own time is that of its one busy thread: what 128 connections get is what the thread can do."""
    sql, scale = found["postgres"], quiet(found)
    measured = json.loads((RESULTS / "gateway.json").read_text())
    systems = measured["systems"]
    return GatewayTimes(
        gateway_s=1 / systems["raymill"]["median"]["128"]["requests_per_s"],
        haproxy_s=found["haproxy_us"] * scale / 1e6,
        other_s=measured["machine"]["cores"] / systems["direct"]["median"]["16"]["requests_per_s"],
        store=Statement.of(sql["store_100"], sql["store_1000"], scale),
        lease=Statement.of(sql["lease_1"], None, scale),
    )
