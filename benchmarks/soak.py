"""`make soak MINUTES=30`: does the service stay as small as it was? Writes `results/soak.json`.

A service as a user runs it answers a mixed load (chat, whole and streamed, against a mock provider on loopback; short
jobs; reads of the control plane; uploads) at a steady rate. Every few seconds the memory and the descriptors of each of
its processes are read. After the warm-up a robust slope says for each whether it grows; docs/operating.md has the bounds.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import report
from benchmarks.goals import Results
from benchmarks.measure import say
from benchmarks.programs import build_programs
from benchmarks.service import OverMock, forget_other_services
from benchmarks.soak_samples import Samples, judge
from benchmarks.systems import CHAT, Direct, errors_told, interrupt_once

from raymill.client.sdk import Raymill
from raymill.policies.errors import RaymillError

PATHS = (
    "/api/v1/jobs?limit=50",
    "/api/v1/status",
    "/metrics",
    "/api/v1/queues",
    "/api/v1/jobs/stats",
    "/api/v1/usage",
    "/api/v1/audit?limit=50",
    "/readyz",
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    minutes: float = 30.0
    warm_up_share: float = 1 / 3
    """Of the run, at most `most_warm_up_s`: caches fill, arenas grow to their size, pools open their connections."""

    most_warm_up_s: float = 600.0
    sample_s: float = 5.0
    chats_per_s: float = 10.0
    """Every fifth is a stream."""

    jobs_per_s: float = 2.0
    reads_per_s: float = 4.0
    upload_every_s: float = 10.0
    upload_bytes: int = 1 << 20

    @property
    def warm_up_s(self) -> float:
        return min(self.minutes * 60 * self.warm_up_share, self.most_warm_up_s)


class Load:
    """Threads that each do one thing at a steady rate until told to stop, and count what came of it."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self.done: dict[str, int] = {}
        self.failed: dict[str, int] = {}
        self.last_error = ""

    def every(self, name: str, seconds: float, work: Callable[[int], None]) -> None:
        """Call `work` with 0, 1, … once in `seconds`; a failure is counted, and the next call is made."""
        self.done[name] = self.failed[name] = 0

        def run() -> None:
            begun, number = time.monotonic(), 0
            while not self._stopping.wait(max(0.0, begun + number * seconds - time.monotonic())):
                try:
                    work(number)
                    self.done[name] += 1
                except (OSError, http.client.HTTPException, RaymillError) as error:
                    self.failed[name] += 1
                    self.last_error = f"{name}: {error}"
                # What was missed while an answer took long is not made up for.
                number = max(number + 1, int((time.monotonic() - begun) / seconds))

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(60)


class Asker:
    """One kept connection to the service."""

    def __init__(self, port: int, headers: dict[str, str]) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._headers = headers

    def ask(self, method: str, path: str, body: str | None = None) -> bytes:
        """
        Raises:
            OSError: it was no success.
        """
        try:
            self._connection.request(method, path, body=body, headers=self._headers)
            answer = self._connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        if answer.status >= 300:
            raise OSError(f"{method} {path}: {answer.status} {data[:200]!r}")
        return data


def load(service: OverMock, client: Raymill, plan: Plan, folder: Path) -> Load:
    """All of it, from now on."""
    found = Load()
    endpoint = service.endpoint
    key = dict(header.split(": ", 1) for header in endpoint.headers)
    json_type = {"content-type": "application/json"}
    chats = Asker(service.settings.port, key | json_type)
    bodies = [endpoint.body(stream=stream, max_tokens=8) for stream in (False, False, False, False, True)]
    found.every(
        "chat", 1 / plan.chats_per_s, lambda number: _ignore(chats.ask("POST", CHAT, bodies[number % 5]))
    )
    admin = (service.settings.keys_dir / "admin.key").read_text().strip()
    reads = Asker(service.settings.port, {"authorization": f"Bearer {admin}"})
    found.every(
        "read", 1 / plan.reads_per_s, lambda number: _ignore(reads.ask("GET", PATHS[number % len(PATHS)]))
    )
    jobs = Asker(service.settings.port, {"authorization": f"Bearer {admin}"} | json_type)

    def submit(number: int) -> None:
        body = {"kind": "chaos", "config": {"seconds": 0.05, "number": 0 if number % 50 else 3}}
        jobs.ask("POST", "/api/v1/jobs", json.dumps(body))

    found.every("job", 1 / plan.jobs_per_s, submit)

    def upload(number: int) -> None:
        path = folder / "upload.jsonl"
        row = json.dumps({"messages": [{"role": "user", "content": f"row {number} " + "x" * 200}]}) + "\n"
        path.write_text(row * (plan.upload_bytes // len(row)))
        client.uploads.send(path)

    found.every("upload", plan.upload_every_s, upload)
    return found


def _ignore(_: bytes) -> None:
    return


def run(plan: Plan) -> Results:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        direct = Direct(folder)
        stack.callback(direct.stop)
        direct.start()
        service = OverMock(direct)
        service.more_settings = {"RAYMILL_KINDS": "raymill.cluster.chaos_kinds"}
        stack.callback(service.stop)
        say("starting the service")
        service.start()
        client = stack.enter_context(service.client())
        samples = Samples()
        working = load(service, client, plan, folder)
        stack.callback(working.stop)
        say(f"mixed load for {plan.minutes:g} minutes; the first {plan.warm_up_s:.0f} s are warm-up")
        begun = time.monotonic()
        end = begun + plan.minutes * 60
        number = 0
        while (now := time.monotonic()) < end:
            samples.take(now - begun, service.everything())
            number += 1
            time.sleep(max(0.0, begun + number * plan.sample_s - time.monotonic()))
        working.stop()
        dead = sum(each.dead for each in client.status().queues)
    judged = judge(samples, plan.warm_up_s)
    return {
        "date": report.now(),
        "machine": report.machine(),
        "plan": vars(plan) | {"warm_up_s": plan.warm_up_s},
        "done": working.done,
        "failed": working.failed,
        "dead_letters": dead,
        **judged,
    }


def shown(results: Results) -> str:
    """One line for each process and one for all."""
    lines = [f"{'process':38} {'MiB':>8} {'MiB/h (95 %)':>24} {'fds':>5} {'fds/h (95 %)':>20}"]
    for name, each in [*results["processes"].items(), ("all", results["all"])]:
        memory, files = each["memory"], each["descriptors"]
        verdict = "" if each["flat"] else "  NOT FLAT"
        lines.append(
            f"{name[:38]:38} {memory['last']:8.1f} {_slope(memory):>24} {files['last']:5.0f} {_slope(files):>20}{verdict}"
        )
    processes = results["all"]["processes"]
    lines.append(f"{processes['first']} processes after the warm-up, {processes['last']} at the end")
    return "\n".join(lines)


def _slope(each: Results) -> str:
    return f"{each['per_hour']:+.1f} ({each['low']:+.1f} .. {each['high']:+.1f})"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=Plan().minutes)
    plan = Plan(minutes=parser.parse_args().minutes)
    forget_other_services()
    interrupt_once()
    with errors_told("soak"):
        build_programs()
        results = run(plan)
    print(shown(results))
    print(f"done {results['done']}, failed {results['failed']}, {results['dead_letters']} dead letters")
    print("flat" if results["flat"] else "NOT FLAT")
    print(f"written to {report.write(results, 'soak.json', whole=plan.minutes >= 8)}")
    return 0 if results["flat"] else 1


if __name__ == "__main__":
    sys.exit(main())
