"""Child processes that outlive nothing: start one with a log, know it again, end it with all it started.
Which processes of this machine go first, and how one that answers requests looks for garbage."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil

MAX_LOG_BYTES = 64 << 20

WORK_NICENESS = 15
"""Of training, evaluation and quantization: requests on the same machine go first."""


def give_way() -> None:
    """This process, and whatever it starts from now on, takes what the machine's services leave."""
    os.nice(WORK_NICENESS - os.nice(0))


def collect_garbage_seldom() -> None:
    """What was imported up to now stays for good, and no collection walks over it again; new garbage is looked for
    after 20,000 allocations and not after 700: requests hardly ever leave a cycle."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


def spawn(command: Sequence[str], *, log: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own, its output appended to `log` (emptied when it has grown huge)."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
    with log.open("ab") as file:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=dict(env), start_new_session=True
        )


def end_tree(pid: int, *, patience_s: float = 20.0) -> None:
    """End a process and all its descendants: asked first, killed after `patience_s`."""
    try:
        root = psutil.Process(pid)
        family = [*root.children(recursive=True), root]
        root.terminate()
        psutil.wait_procs([root], timeout=patience_s)
    except psutil.NoSuchProcess:
        return
    end_all(family)


def kill_all(family: Iterable[psutil.Process]) -> None:
    """Kill processes that have nothing left to say, and wait until they are gone."""
    killed = list(family)
    for process in killed:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(killed, timeout=10)


def descendants(pid: int) -> set[int]:
    """Process ids of all that a process has started and that is alive; none where it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return {each.pid for each in psutil.Process(pid).children(recursive=True)}
    return set()


def end_all(family: list[psutil.Process]) -> None:
    """End what is left of a family of processes."""
    alive = [process for process in family if process.is_running()]
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(alive, timeout=5)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5)


def belonging_to(name: str, value: str, output_dir: Path) -> list[psutil.Process]:
    """Processes of this user that carry `name=value` in their environment or write their output under
    `output_dir` (Ray's workers overwrite their environment with their title); this one and its parents apart."""
    mine = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            if process.pid in mine:
                continue
            if process.environ().get(name) == value or _writes_under(process.pid, output_dir):
                found.append(process)
    return found


def _writes_under(pid: int, directory: Path) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/fd/1").readlink().is_relative_to(directory)
    return False


def wait_until_gone(pid: int, timeout_s: float) -> bool:
    """Whether the process ended within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid):
            return True
        time.sleep(0.1)
    return False
