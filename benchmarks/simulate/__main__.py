"""`make simulate`: where the scheduler and the gateway saturate, from recorded service times.

Writes benchmarks/results/simulate.json and a plot beside it. Needs neither Ray nor Postgres.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks import report
from benchmarks.simulate import plot, sweep
from benchmarks.simulate.times import RESULTS, gateway_times, job_times, recorded


def simulate() -> dict[str, Any]:
    found = recorded()
    of_jobs, of_gateway = job_times(found), gateway_times(found)
    results: dict[str, Any] = {"date": report.now(), "recorded": found["date"], "machine": found["machine"]}
    runs: dict[str, Callable[[], Any]] = {
        "validation": lambda: sweep.validation(of_jobs, of_gateway),
        "saturation": lambda: sweep.saturation(of_gateway, of_jobs),
        "short_jobs": lambda: sweep.short_jobs(of_jobs),
        "backlog": lambda: sweep.backlog(of_jobs),
        "heavy_jobs": lambda: sweep.heavy_jobs(of_jobs),
        "requests": lambda: sweep.requests(of_gateway),
    }
    for name, run in runs.items():
        began = time.monotonic()
        results[name] = run()
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    return results


def main() -> int:
    results = simulate()
    target = RESULTS / "simulate.json"
    target.write_text(json.dumps(results, indent=2) + "\n")
    for name, each in results["validation"].items():
        print(
            f"{name}: {each['predicted']:,.0f} simulated, {each['measured']:,.0f} measured ({each['error']:+.1%})"
        )
    for each in results["saturation"]:
        print(f"{each['station']}: {each['saturates_at']:,} {each['unit']}")
    print(f"written to {target.name} and {plot.beside(target, results)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
