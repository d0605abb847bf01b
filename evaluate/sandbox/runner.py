"""One program against one set of tests, in a sandbox that lives as long as the question.

The evaluator's side: it starts a fresh interpreter with nothing of its own environment, folder or descriptors,
hands over two texts and reads one line. Nothing is left afterwards, not even a folder.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import raymill
from raymill.evaluate.config import SandboxConfig
from raymill.policies.errors import Conflict

Reason = Literal["wrong", "error", "timeout", "memory", "output", "exited", "killed"]

START_S = 30.0
"""What a busy machine may need besides the program's own time."""

ANSWER_BYTES = 1 << 20
OPEN_FILES = 32

START = "import sys; sys.path.insert(0, sys.argv[1]); from raymill.evaluate.sandbox.launch import main; sys.path.pop(0); main(int(sys.argv[2]))"


class SandboxRefused(Conflict):
    """This machine cannot enforce what the sandbox promises, which trying again does not change. Nothing was run."""

    code = "sandbox_refused"


@dataclass(frozen=True, kw_only=True)
class Program:
    """What is run, and what it must do."""

    solution: str
    """Python that defines `entry_point`."""

    prompt: str
    """Python that the tests may refer to; it may define `entry_point` too, which is not what is tested."""

    test: str
    """Python that defines `check(candidate)`."""

    entry_point: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How it ended."""

    passed: bool
    """All tests ran, and none failed."""

    reason: Reason | None
    """Why it failed: an assertion, an exception, a limit (timeout, memory, output), an end before the tests' (exited,
    killed); None: it passed."""

    detail: str
    """Last line of the error, or which limit; empty when it passed."""

    seconds: float
    """Wall-clock time of program and tests, without the start."""

    output: str
    """The first 4 KiB that the program wrote."""


class Sandbox:
    """Runs programs under `config`, one at a time; several threads may share it."""

    def __init__(self, config: SandboxConfig, executable: Path | None = None) -> None:
        """
        Args:
            executable: Python 3.11 or newer that runs the programs; None: the one that runs this.

        Raises:
            SandboxRefused: this is not Linux.
        """
        if sys.platform != "linux":
            raise SandboxRefused(
                f"code is run on Linux only, this is {sys.platform}: evaluate it on a Linux node"
            )
        self.config = config
        # The interpreter itself, not a virtual environment's link to it.
        self.executable = executable or Path(sys.executable).resolve()

    def run(self, program: Program) -> Verdict:
        """Run the program and its tests.

        Raises:
            SandboxRefused: the machine cannot enforce what the configuration asks for.
        """
        given = _part(self._job(program)) + _part({"prompt": program.prompt, "test": program.test})
        answer = _start(self.executable, given, self.config.wall_s + START_S)
        if answer is None:
            return Verdict(
                passed=False,
                reason="killed",
                detail="the sandbox was ended from outside",
                seconds=0,
                output="",
            )
        if "refused" in answer:
            raise SandboxRefused(f"code cannot be run safely here: {answer['refused']}")
        return Verdict(**answer)

    def prove(self) -> None:
        """Run a program that is known to be good.

        Raises:
            SandboxRefused: the machine cannot enforce what the configuration asks for, or the program fails.
        """
        verdict = self.run(
            Program(
                solution="import hashlib, math\ndef one():\n    return math.floor(1.5)\n",
                prompt="",
                test="def check(candidate):\n    assert candidate() == 1\n",
                entry_point="one",
            )
        )
        if not verdict.passed:
            raise SandboxRefused(
                f"a program that is known to be good fails here ({verdict.detail}): have Python's library readable "
                f"by user nobody, or give sandbox more than {self.config.memory_mb} MB and {self.config.cpu_s} s"
            )

    def _job(self, program: Program) -> dict[str, Any]:
        config = self.config
        return {
            "solution": program.solution,
            "entry_point": program.entry_point,
            "isolation": config.isolation,
            "resources": [config.cpu_s, config.memory_mb << 20, config.disk_mb << 20, OPEN_FILES],
            "folder_bytes": config.disk_mb << 20,
            "wall_s": config.wall_s,
            "output_bytes": config.output_kb << 10,
            "answer_bytes": ANSWER_BYTES,
        }


def _part(content: dict[str, Any]) -> bytes:
    body = json.dumps(content).encode()
    return struct.pack("=Q", len(body)) + body


def _start(executable: Path, given: bytes, timeout_s: float) -> dict[str, Any] | None:
    """What the fresh interpreter says; None: it was killed before it could."""
    source = Path(next(iter(raymill.__path__))).parent
    held, lifeline = os.pipe()
    # Not -I: the environment holds one variable, ours. A fixed seed, so that sets have the same order each time.
    command = [
        str(executable),
        "-P",
        "-s",
        "-S",
        "-u",
        "-X",
        "utf8",
        "-c",
        START,
        str(source),
        str(held),
    ]
    try:
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PYTHONHASHSEED": "0"},
            cwd="/",
            pass_fds=(held,),
            start_new_session=True,
        ) as process:
            os.close(held)
            held = -1
            try:
                said, complaint = process.communicate(given, timeout=timeout_s)
            except subprocess.TimeoutExpired:
                return None
            finally:
                if process.returncode is None:  # else its number may be another's by now
                    _end_all(process)
        if complaint:
            raise SandboxRefused(f"the sandbox broke: {complaint.decode(errors='replace').strip()[-500:]}")
        return json.loads(said) if said else None
    finally:
        os.close(lifeline)
        if held >= 0:
            os.close(held)


def _end_all(process: subprocess.Popen[bytes]) -> None:
    """The launcher's process group: all but program and tests, which die with it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
