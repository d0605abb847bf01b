"""Processes of their own for code that may crash: a crash is one clear error, never a dead driver.

`run_child` runs one to its end; the llama.cpp runner keeps one open and speaks JSON lines with it. A
child dies with the process that started it (Linux), so a killed attempt leaves none behind.

    python -m raymill.evaluate.child SCRIPT ARGUMENTS...    runs a Python file that is not ours
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from raymill.policies.errors import RaymillError

PR_SET_PDEATHSIG = 1
PARENT = "RAYMILL_PARENT_PID"
POLL_S = 0.1
LOG_LINES = 3


class ChildFailed(RaymillError):
    """A child process crashed or refused its work; the message has its last words."""

    code = "child_failed"


def die_with_parent() -> None:
    """Have the kernel end this process when its parent ends. Does nothing where there is no prctl."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.environ.get(PARENT, "") != str(os.getppid()):  # it ended before we asked
            sys.exit("the process that started this one has ended")


def module_command(module: str, *arguments: str) -> list[str]:
    """Command line that runs one of our modules with this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """For children: they ask no hub, and know whose children they are."""
    # OpenMP's threads spin while they wait for each other: on a busy machine, three times the processor time.
    usual = {"OMP_WAIT_POLICY": "PASSIVE"}
    ours = {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**usual, **os.environ, **ours, **(more or {}), PARENT: str(os.getpid())}


def run_child(
    command: Sequence[str],
    what: str,
    log: Path,
    check: Callable[[], None],
    more_environment: Mapping[str, str] | None = None,
) -> None:
    """Run `command` to its end; its output goes to `log`. `check` is called while it runs and may raise.

    Raises:
        ChildFailed: it ended with a signal or an exit code other than 0.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(more_environment),
        )
        try:
            while process.poll() is None:
                check()
                time.sleep(POLL_S)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    if process.returncode != 0:
        raise ChildFailed(
            f"{what} failed: {how_it_ended(process.returncode)}; {last_words(log.read_bytes())}"
        )


def how_it_ended(returncode: int) -> str:
    if returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    return f"exit code {returncode}"


def last_words(log: bytes) -> str:
    """The last lines of a log, as one."""
    lines = [line.strip() for line in log.decode(errors="replace").splitlines()]
    said = [line for line in lines if line]
    return "its last words: " + " | ".join(said[-LOG_LINES:]) if said else "it said nothing"


def main() -> None:
    """Run the script named on the command line as if it had been called directly."""
    die_with_parent()
    _, script, *arguments = sys.argv
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
