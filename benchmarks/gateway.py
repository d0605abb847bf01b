"""`make bench-gateway`: Raymill, a bare uvicorn, LiteLLM and Portkey before the same mock upstream, one at a
time, in one run on this machine; writes `results/gateway.json`, or `.bench/gateway.json` when it is not a whole
run of all of them.

What is compared: each system answers the same chat completion, from the same load generator, as one process
of its own kind (one gateway replica, one uvicorn worker, one node). Raymill runs with keys, limits, a budget
and usage records on; LiteLLM with a key and nothing else; Portkey and uvicorn with neither. Rounds are
interleaved, so that a machine that changes its mood changes it for all. All systems share the cores with
the load and the mock, which are compiled and take little.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import goals, measure, report
from benchmarks.goals import Results
from benchmarks.measure import Plan, say
from benchmarks.programs import BenchmarkFailed, build_programs
from benchmarks.service import OverMock, forget_other_services
from benchmarks.systems import Direct, LiteLlm, Missing, Portkey, System, Uvicorn, errors_told, interrupt_once

NAMES = ("raymill", "uvicorn", "uvicorn_httpx", "litellm", "portkey")


@dataclass(frozen=True, kw_only=True)
class Options:
    only: tuple[str, ...]
    plan: Plan


def parse(arguments: Sequence[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(prog="make bench-gateway ARGS=…", description="Measure the gateway.")
    parser.add_argument("--quick", action="store_true", help="one short round, fewer streams and requests")
    parser.add_argument("--only", default=",".join(NAMES), help=f"some of {','.join(NAMES)}")
    parser.add_argument("--rounds", type=int, help="of each system; the median counts (default 3)")
    parser.add_argument("--seconds", type=float, help="of each measurement (default 5)")
    given = parser.parse_args(arguments)
    only = tuple(name.strip() for name in given.only.split(",") if name.strip())
    if unknown := set(only) - set(NAMES):
        parser.error(f"unknown system {', '.join(sorted(unknown))}: choose among {', '.join(NAMES)}")
    plan = Plan.quick() if given.quick else Plan()
    return Options(only=only, plan=plan.changed(rounds=given.rounds, seconds=given.seconds))


def run(options: Options) -> Results:
    """Start what is wanted, measure it, end it. Everything ends however this does."""
    results: Results = {
        "date": report.now(),
        "machine": report.machine(),
        "versions": report.versions(),
        "plan": options.plan.as_json(),
    }
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-gateway-")))
        direct = Direct(logs)
        started: list[System] = [_started(direct, stack)]
        missing: dict[str, str] = {}
        for name, make in _makers(direct, logs).items():
            if name not in options.only:
                continue
            system = make()
            try:
                started.append(_started(system, stack))
            except BenchmarkFailed as error:
                if isinstance(system, OverMock):
                    raise
                system.stop()
                # Only the first kind goes into the file: the other has lines of a log, with paths of this machine.
                missing[name] = str(error) if isinstance(error, Missing) else "it did not come up"
                say(f"{name}: left out: {error}")
            else:
                system.pause()
        results["systems"] = {**dict.fromkeys(missing), **measure.rounds(started, options.plan)}
        results["missing"] = missing
        results["ratios"] = goals.ratios(results["systems"])
        for system in started:
            if isinstance(system, OverMock):
                results |= measure.raymill(system, direct, options.plan, results["systems"])
    results["goals"] = goals.judge(results)
    results["finished"] = report.now()
    return results


def _makers(direct: Direct, logs: Path) -> dict[str, Callable[[], System]]:
    """How to make each; a service that is not wanted must not even make its folder."""
    return {
        "raymill": lambda: OverMock(direct),
        "uvicorn": lambda: Uvicorn("uvicorn", "aiohttp", direct, logs),
        "uvicorn_httpx": lambda: Uvicorn("uvicorn_httpx", "httpx", direct, logs),
        "litellm": lambda: LiteLlm(direct, logs),
        "portkey": lambda: Portkey(direct, logs),
    }


def _started(system: System, stack: ExitStack) -> System:
    say(f"{system.name}: starting")
    stack.callback(system.stop)  # before the start, which may be cut off half way
    system.start()
    return system


def main() -> int:
    options = parse()
    forget_other_services()
    interrupt_once()
    with errors_told("bench-gateway"):
        build_programs()
        results = run(options)
    whole = options.plan.rounds >= Plan().rounds and set(options.only) == set(NAMES)
    path = report.write(results, "gateway.json", whole=whole)
    print(f"\n{report.table(results['systems'])}\n\n{report.verdicts(results['goals'])}\n")
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
