"""What is written and printed: the machine, the results as JSON, one table. Names neither host nor path."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from benchmarks.goals import Results
from benchmarks.peers import BENCH, LITELLM, PORTKEY, ROOT

RESULTS = Path(__file__).resolve().parent / "results"
MIB = 1 << 20
PACKAGES = ("raymill", "ray", "uvicorn", "aiohttp", "httpx", "uvloop", "httptools")


def machine() -> Results:
    """What the numbers were taken on."""
    return {
        "cpu": _cpu_model(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / (1 << 30), 1),
        "system": f"{platform.system()} {platform.machine()}",
        "load_before": round(psutil.getloadavg()[0], 2),
    }


def versions(more: Sequence[str] = ()) -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in (*PACKAGES, *more)}
    found |= {"python": platform.python_version(), "litellm": LITELLM, "portkey": PORTKEY}
    for tool in ("node", "g++"):
        if path := shutil.which(tool):
            done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
            found[tool] = done.stdout.splitlines()[0] if done.stdout else "unknown"
    return found


def now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def write(results: Results, name: str, *, whole: bool) -> str:
    """To `benchmarks/results`; what was not a whole run to `.bench`, which git ignores. Returns where it is."""
    folder = RESULTS if whole else BENCH
    folder.mkdir(exist_ok=True)
    path = folder / name
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(results, indent=2) + "\n")
    draft.replace(path)
    return path.relative_to(ROOT).as_posix()


def table(systems: dict[str, Results | None]) -> str:
    """One line for each system and number of connections, medians of the rounds."""
    lines = [f"{'':14} {'conns':>5} {'req/s':>10} {'p50 ms':>9} {'p99 ms':>9} {'MiB':>7} {'errors':>7}"]
    for name, system in systems.items():
        for connections, cell in (system or {}).get("median", {}).items():
            numbers = (
                f"{_shown(cell['requests_per_s'], 0):>10} {_shown(cell['p50_ms'], 2):>9} "
                f"{_shown(cell['p99_ms'], 2):>9} {_shown(cell['rss_mib'], 0):>7} {_shown(cell['errors'], 0):>7}"
            )
            lines.append(f"{name:14} {connections:>5} {numbers}")
    return "\n".join(lines)


def verdicts(judged: dict[str, Results]) -> str:
    """One line for each goal."""
    words = {True: "met", False: "MISSED", None: "not measured"}
    return "\n".join(
        f"{name:32} {_shown(goal['value'], 3):>10}   goal {goal['goal']:<8} {words[goal['met']]}"
        for name, goal in judged.items()
    )


def _shown(value: Any, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _cpu_model() -> str:
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or "unknown"
