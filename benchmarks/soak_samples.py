"""Memory and descriptors of processes over time, and whether they grow. Pure but for reading `/proc`.

Memory is what a process alone holds (resident less shared, `/proc/PID/statm`): pages of Postgres' shared buffers, touched
one after the other, are no leak. The slope is Theil and Sen's, the median over all pairs, which a single jump or a
garbage collection does not move; its 95 % interval is Sen's (1968), from the variance of Kendall's S.
Sizes are MiB, times seconds, slopes per hour.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
from benchmarks.goals import Results

MIB = 1 << 20
MEMORY_PER_H = 16.0
"""MiB. A process whose memory surely grows faster than this is not flat."""

DESCRIPTORS_PER_H = 30.0
MORE_PROCESSES = 0.1
"""Share of those after the warm-up that may have come by the end: pools open connections up to their bounds when more is asked at
once, each with memory and descriptors of its own."""

Z95 = 1.96
MOST_POINTS = 400
"""Of a slope; of longer series every n-th."""


class Sample(NamedTuple):
    at_s: float
    memory: float
    descriptors: int


class Total(NamedTuple):
    at_s: float
    memory: float
    descriptors: int
    processes: int


class Slope(NamedTuple):
    per_hour: float
    low: float
    high: float


class Samples:
    """Of each process that was ever seen, and of all together."""

    def __init__(self) -> None:
        self.of: dict[int, list[Sample]] = defaultdict(list)
        """By pid."""

        self.names: dict[int, str] = {}
        self.all: list[Total] = []

    def take(self, at_s: float, processes: Iterable[psutil.Process]) -> None:
        memory, descriptors, count = 0.0, 0, 0
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
                found = process.memory_info()
                one = Sample(at_s, (found.rss - found.shared) / MIB, process.num_fds())
                self.names.setdefault(process.pid, name_of(process))
                self.of[process.pid].append(one)
                memory, descriptors, count = memory + one.memory, descriptors + one.descriptors, count + 1
        self.all.append(Total(at_s, memory, descriptors, count))


def name_of(process: psutil.Process) -> str:
    """What a process is, without paths, ports and ids."""
    command = process.cmdline()
    if not command:
        return process.name()
    if "-m" in command[:4]:
        return command[command.index("-m") + 1]
    if command[0].startswith("ray::"):
        # What an actor does just now stands behind its class.
        return re.sub(r"(#[\w-]*|\.\w+)$", "", command[0].partition("(")[0].split()[0])
    if command[0].startswith("postgres:"):
        of = command[0].rpartition(": ")[2]
        return "postgres connection" if "(" in of else f"postgres {of.strip()}"
    script = next((part for part in command[1:3] if part.endswith(".py")), command[0])
    return Path(script).name


def slope(points: Sequence[tuple[float, float]]) -> Slope:
    """Theil and Sen's, per hour, of at least two points at different seconds."""
    kept = points[:: max(1, len(points) // MOST_POINTS)]
    slopes = sorted((b - a) / (t - s) * 3600 for (s, a), (t, b) in itertools.combinations(kept, 2) if t > s)
    count = len(kept)
    spread = Z95 * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    low = max(0, math.floor((len(slopes) - spread) / 2))
    high = min(len(slopes) - 1, math.ceil((len(slopes) + spread) / 2))
    return Slope(statistics.median(slopes), slopes[low], slopes[high])


def judge(samples: Samples, warm_up_s: float) -> Results:
    """Each process that lived through the run after its warm-up, and how many there are.

    Returns:
        `processes`, `all` and `flat`: whether none of them surely grows faster than the bounds, nor their number.
    """
    end = samples.all[-1].at_s
    processes: Results = {}
    short_lived = 0
    for pid, taken in sorted(samples.of.items(), key=lambda each: (samples.names[each[0]], each[0])):
        late = [each for each in taken if each.at_s >= warm_up_s]
        if len(late) < 3 or late[0].at_s > warm_up_s + (end - warm_up_s) / 3 or late[-1].at_s < end:
            short_lived += 1
            continue
        name = samples.names[pid]
        processes[name if name not in processes else f"{name} ({pid})"] = _judged(late)
    together = _together([each for each in samples.all if each.at_s >= warm_up_s])
    return {
        "bounds": {
            "memory_mib_per_hour": MEMORY_PER_H,
            "descriptors_per_hour": DESCRIPTORS_PER_H,
            "more_processes": MORE_PROCESSES,
        },
        "samples": len(samples.all),
        "processes": processes,
        "short_lived": short_lived,
        "all": together,
        "flat": together["flat"] and all(each["flat"] for each in processes.values()),
    }


def _together(taken: Sequence[Total]) -> Results:
    """The sums are told; what is judged is the number of processes."""
    first, last = taken[0].processes, taken[-1].processes
    flat = last <= first * (1 + MORE_PROCESSES)
    return {**_judged(taken), "processes": {"first": first, "last": last}, "flat": flat}


def _judged(taken: Sequence[Sample | Total]) -> Results:
    memory = slope([(each.at_s, each.memory) for each in taken])
    descriptors = slope([(each.at_s, each.descriptors) for each in taken])
    return {
        "memory": _told(memory, taken[0].memory, taken[-1].memory),
        "descriptors": _told(descriptors, taken[0].descriptors, taken[-1].descriptors),
        "flat": memory.low <= MEMORY_PER_H and descriptors.low <= DESCRIPTORS_PER_H,
    }


def _told(found: Slope, first: float, last: float) -> Results:
    rounded = {name: round(value, 2) for name, value in found._asdict().items()}
    return {"first": round(first, 1), "last": round(last, 1), **rounded}
