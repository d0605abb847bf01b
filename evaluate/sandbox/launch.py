"""What the fresh interpreter runs: it makes the namespaces, starts program and tests, and tells how it ended.

    launcher (maps users, waits) -> holder (unshares, waits) -> first process of the pid namespace
                                                                ├── solver
                                                                └── checker

Without namespaces the launcher itself is the first process. It reads two parts from its standard input, each
its length and then JSON, and writes one line of JSON. The tests are the second part: the solver is a copy from
before they were read. When the lifeline closes, whoever started this has gone, and all of it ends.

Standard library only; imported from the evaluator's package by path. Units: seconds, bytes.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import struct
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from raymill.evaluate.sandbox.checker import check
from raymill.evaluate.sandbox.isolation import (
    NOBODY,
    Resources,
    confine,
    map_users,
    new_root,
    unshare_all,
)
from raymill.evaluate.sandbox.kernel import Refused
from raymill.evaluate.sandbox.solver import solve
from raymill.evaluate.sandbox.wire import Line

OUTPUT_KEPT_BYTES = 4096
DEATH_S = 2.0
"""How long a process that has closed its pipes may take to end."""

FIRST_FREE = 64
"""Descriptors are put there before they get their places."""


class Pipe(NamedTuple):
    reads: int
    writes: int


class Job(NamedTuple):
    """The first part of what is read."""

    solution: str
    entry_point: str
    namespaced: bool
    user: int | None
    resources: Resources
    folder_bytes: int
    wall_s: float
    output_bytes: int
    answer_bytes: int

    def confine(self) -> str | None:
        """Why this process could not be confined; None: it is."""
        try:
            confine(self.resources, user=self.user, namespaced=self.namespaced)
        except (Refused, OSError) as error:
            return str(error)
        return None


class Seen(NamedTuple):
    """What the first process has seen of the other two."""

    said: bytes
    """By the checker; empty when it came to no verdict."""

    output: bytes
    """The first bytes that the program wrote."""

    stopped: tuple[str, str] | None
    """Reason and detail, where a limit ended it."""


def read_part() -> Any:
    """The next part of standard input."""
    (length,) = struct.unpack("=Q", _read_exactly(8))
    return json.loads(_read_exactly(length))


def _read_exactly(count: int) -> bytes:
    found = b""
    while len(found) < count:
        more = os.read(0, count - len(found))
        if not more:
            os._exit(1)  # whoever started us has gone
        found += more
    return found


def read_job() -> Job:
    given = read_part()
    namespaced = given.pop("isolation") == "full"
    user = None if os.geteuid() != 0 else 1 if namespaced else NOBODY
    return Job(**{**given, "resources": Resources(*given["resources"])}, namespaced=namespaced, user=user)


def say(result: dict[str, Any]) -> None:
    os.write(1, json.dumps(result).encode() + b"\n")


def main(lifeline: int) -> None:
    """Run one job."""
    job = read_job()
    _be_the_first_to_go()
    if job.namespaced:
        _or_refuse(lambda: hold_namespaces(job, lifeline))
    else:
        _or_refuse(lambda: supervise(job, lifeline))


def _be_the_first_to_go() -> None:
    """When memory is short, the kernel ends us rather than the evaluator."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _or_refuse(work: Callable[[], None]) -> None:
    try:
        work()
    except Refused as error:
        say({"refused": str(error)})


def _child(work: Callable[[], None]) -> int:
    """Fork; the copy does `work` and ends."""
    pid = os.fork()
    if pid == 0:
        try:
            _or_refuse(work)
        except BaseException:  # noqa: BLE001 (the copy must end here, and say why)
            traceback.print_exc()
        finally:
            os._exit(0)
    return pid


def hold_namespaces(job: Job, lifeline: int) -> None:
    """Start the process that will hold them, tell its kernel who is who, and wait for its end."""
    ready, mapped = Pipe(*os.pipe()), Pipe(*os.pipe())

    def hold() -> None:
        os.close(mapped.writes)
        unshare_all()
        os.write(ready.writes, b"r")
        if os.read(mapped.reads, 1):
            os.waitpid(_child(first), 0)

    def first() -> None:
        new_root(job.folder_bytes)
        supervise(job, lifeline)

    holder = _child(hold)
    os.close(ready.writes)
    os.close(mapped.reads)
    if os.read(ready.reads, 1):
        map_users(holder)
        os.write(mapped.writes, b"m")
    os.waitpid(holder, 0)


def supervise(job: Job, lifeline: int) -> None:
    """Start both sides, wait for a verdict or a limit, end both, and tell."""
    output, calls, replies, verdict = (Pipe(*os.pipe()) for _ in range(4))
    null = os.open(os.devnull, os.O_RDWR)

    def solver() -> None:
        line = Line(3, 4, job.answer_bytes)
        refused = job.confine()
        # Before the program runs, so it is ours, whatever the program may say later.
        line.send({"refused": refused})
        if refused is None:
            solve(job.solution, job.entry_point, line)

    def checker() -> None:
        line = Line(3, 4, job.answer_bytes)
        refused = job.confine()
        result = (
            {"refused": refused}
            if refused is not None
            else check(tests["prompt"], tests["test"], job.entry_point, line)
        )
        os.write(5, json.dumps(result).encode())

    started = time.monotonic()
    solving = _with(solver, (null, output.writes, output.writes, calls.reads, replies.writes))
    tests = read_part()
    checking = _with(checker, (null, null, null, replies.reads, calls.writes, verdict.writes))
    for descriptor in (
        output.writes,
        calls.reads,
        calls.writes,
        replies.reads,
        replies.writes,
        verdict.writes,
    ):
        os.close(descriptor)
    seen = watch(job, lifeline, verdict.reads, output.reads)
    result = conclude(job, seen, solving, checking)
    seconds = time.monotonic() - started
    for pid in (solving, checking):
        _end(pid)
    say({**result, "seconds": round(seconds, 3), "output": seen.output.decode(errors="replace")})


def _with(work: Callable[[], None], descriptors: tuple[int, ...]) -> int:
    """A copy of this process that has these descriptors, numbered from 0, and no others."""

    def begin() -> None:
        moved = [_moved(descriptor) for descriptor in descriptors]
        for number, descriptor in enumerate(moved):
            os.dup2(descriptor, number)
        os.closerange(len(descriptors), os.sysconf("SC_OPEN_MAX"))
        work()

    return _child(begin)


def _moved(descriptor: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD, FIRST_FREE)


def watch(job: Job, lifeline: int, verdict: int, output: int) -> Seen:
    """Wait until the checker has spoken, or a limit is reached; ends this process when the lifeline closes."""
    poller = select.poll()
    for descriptor in (lifeline, verdict, output):
        poller.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + job.wall_s
    said, kept, written = b"", b"", 0
    while (left_s := deadline - time.monotonic()) > 0:
        for descriptor, _ in poller.poll(left_s * 1000):
            if descriptor == lifeline:
                _abandon()
            chunk = os.read(descriptor, 65536)
            if descriptor == verdict:
                if not chunk:
                    return Seen(said, kept, None)
                said += chunk
            elif not chunk:
                poller.unregister(output)
            else:
                kept += chunk[: OUTPUT_KEPT_BYTES - len(kept)]
                written += len(chunk)
                if written > job.output_bytes:
                    return Seen(b"", kept, ("output", f"wrote more than {job.output_bytes} bytes"))
    return Seen(b"", kept, ("timeout", f"took more than {job.wall_s:g} s"))


def _abandon() -> NoReturn:
    """Whoever started us has gone: nobody is left to tell. Our children end with us."""
    os._exit(1)


def conclude(job: Job, seen: Seen, solving: int, checking: int) -> dict[str, Any]:
    """The verdict, or how the side that should have led to one ended."""
    if seen.stopped is not None:
        reason, detail = seen.stopped
    elif not seen.said:
        reason, detail = how_it_ended(job, checking, "the tests")
    else:
        verdict: dict[str, Any] = json.loads(seen.said)
        if verdict.get("reason") != "lost":
            return verdict
        reason, detail = how_it_ended(job, solving, "the program")
    return {"passed": False, "reason": reason, "detail": detail}


def how_it_ended(job: Job, pid: int, whose: str) -> tuple[str, str]:
    """Reason and detail for a side that ended too early."""
    deadline = time.monotonic() + DEATH_S
    ended, status, used = os.wait4(pid, os.WNOHANG)
    while not ended and time.monotonic() < deadline:
        time.sleep(0.001)
        ended, status, used = os.wait4(pid, os.WNOHANG)
    if not ended:
        return "exited", f"{whose} closed the pipe to the other side"
    if os.WIFEXITED(status):
        code = os.WEXITSTATUS(status)
        return "exited", f"{whose} ended with exit code {code} before all tests were run"
    killer = os.WTERMSIG(status)
    if killer == signal.SIGXCPU or used.ru_utime + used.ru_stime >= job.resources.cpu_s:
        return "timeout", f"{whose} used more than {job.resources.cpu_s} s of processor time"
    return "killed", f"{whose} was ended by {signal.Signals(killer).name}"


def _end(pid: int) -> None:
    with suppress(ChildProcessError):  # it was waited for
        if os.waitpid(pid, os.WNOHANG)[0] == 0:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
