"""The warm process: has imported what heavy jobs need, and is copied when one is started.

    python -m raymill.cluster.warm.server SOCKET

It computes nothing, connects to nothing and starts no thread, so that there is nothing a copy could inherit but modules.
(OpenBLAS and jemalloc have threads from their loading on; both take them down and up again around a fork.) It goes
with the process that started it; copies go on when it is killed, and what is started until it is back imports for
itself. The socket takes its owner's word alone. Copies give way to what answers people where they would have anyway
(`processes.give_way`): who has once done so cannot go back, so this process does not.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import logging
import os
import resource
import runpy
import select
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from raymill.cluster import logs
from raymill.cluster.warm import client
from raymill.cluster.warm.client import BEGIN, LENGTH, exactly, peer

log = logging.getLogger(__name__)

PRELOAD = "raymill.train.preload"
"""Imports what jobs of the rooms above use, and has a `refresh` for copies; named by text, since imports point one
way."""

READ_AT_IMPORT = ("LD_", "PYTHONHASHSEED", "PYTHONHOME", "PYTHONPATH", "MKL_", "OPENBLAS_", "KMP_", "MALLOC_")
"""Variables that a library reads once, as it is loaded. Who wants others than the warm process has is not copied.
How many threads compute (OMP_NUM_THREADS) can be told later as well: `refresh` does."""

STARTED_WITH = dict(os.environ)
"""The environment before anything is imported that adds to it."""

REQUEST_S = 5.0
BACKLOG = 64
SIGNAL_NUMBERS = 128
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a copy is to run."""

    program: list[str]
    """A file, or -m and a module; then its arguments."""

    environment: dict[str, str]
    directory: str
    wait: bool
    """Whether somebody lives as long as the copy and wants to know its end."""

    output: list[int]
    """Descriptors that become stdin, stdout and stderr."""

    connection: socket.socket


class Copier:
    """Answers requests with forks of this process. For one thread."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        self._listener.bind(str(path))
        os.umask(before)
        self._listener.listen(BACKLOG)
        self._waiting: dict[int, socket.socket] = {}
        """By the copy's process id: whom to tell its end."""
        self._woken, self._wake = socket.socketpair()
        for end in (self._woken, self._wake):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno())
        signal.signal(signal.SIGCHLD, _heard)

    def serve(self) -> Request:
        """Copy this process for ever. Returns in each copy, with what that is to run."""
        while True:
            ready = self._wait()
            if self._woken.fileno() in ready:
                with contextlib.suppress(BlockingIOError):
                    self._woken.recv(4096)
                self._tell_ends()
            self._end_forsaken(ready)
            if self._listener.fileno() in ready:
                request = self._receive(self._listener.accept()[0])
                if request is not None and self._copy(request):
                    return request

    def _wait(self) -> set[int]:
        """Descriptors that have something to read; of those who wait, which have hung up."""
        poll = select.poll()
        for each in (self._listener, self._woken):
            poll.register(each, select.POLLIN)
        for each in self._waiting.values():
            poll.register(each, 0)
        return {descriptor for descriptor, _ in poll.poll()}

    def _end_forsaken(self, ready: set[int]) -> None:
        """Kill the copies whose starter was killed: they may be in no state to notice."""
        for pid, connection in list(self._waiting.items()):
            if connection.fileno() in ready:
                client.send(pid, signal.SIGKILL)
                self._waiting.pop(pid).close()

    def _receive(self, connection: socket.socket) -> Request | None:
        connection.settimeout(REQUEST_S)
        output: list[int] = []
        try:
            if peer(connection) != os.geteuid():
                raise PermissionError("another user asks")
            head, output, _, _ = socket.recv_fds(connection, LENGTH.size, 3)
            head += exactly(connection, LENGTH.size - len(head))
            body = json.loads(exactly(connection, LENGTH.unpack(head)[0]))
            request = Request(**body, output=output, connection=connection)
            refuse_others(request.environment)
        except (OSError, ValueError, TypeError) as error:
            log.warning("no copy: %s", error)
            _close(connection, output)
            return None
        return request

    def _copy(self, request: Request) -> bool:
        """True in the copy."""
        try:
            pid = os.fork()
        except OSError as error:
            log.warning("no copy: %s", error)
            _close(request.connection, request.output)
            return False
        if pid:
            _close(None if request.wait else request.connection, request.output)
            if request.wait:
                self._waiting[pid] = request.connection
            return False
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for each in (self._listener, self._woken, self._wake, *self._waiting.values()):
            each.close()
        return True

    def _tell_ends(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                connection = self._waiting.pop(ended[0], None)
                if connection is not None:
                    code = os.waitstatus_to_exitcode(ended[1])
                    with contextlib.suppress(OSError):
                        connection.sendall(bytes([code if code >= 0 else SIGNAL_NUMBERS - code]))
                    connection.close()


def refuse_others(environment: dict[str, str]) -> None:
    """Raises ValueError: a variable that had its effect when the modules were loaded is another one."""
    for name in environment.keys() | STARTED_WITH.keys():
        # What modules have added, a copy has too, and what it starts.
        known = {STARTED_WITH.get(name), os.environ.get(name)}
        if name.startswith(READ_AT_IMPORT) and environment.get(name) not in known:
            raise ValueError(f"{name} is another one than the warm process has")


def _heard(_: int, __: FrameType | None) -> None:
    """SIGCHLD: what matters is that it wakes `poll`."""


def _close(connection: socket.socket | None, descriptors: list[int]) -> None:
    if connection is not None:
        connection.close()
    for descriptor in descriptors:
        os.close(descriptor)


def become(request: Request) -> None:
    """Run the program as if it had been started by itself, once the word to begin has come."""
    request.connection.sendall(LENGTH.pack(os.getpid()))
    request.connection.settimeout(client.ANSWER_S)
    if request.connection.recv(1) != BEGIN:
        sys.exit(1)  # whoever asked had not waited so long, and runs the program otherwise
    os.setsid()
    for number, descriptor in enumerate(request.output):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request.directory)
    by_modules = {name: value for name, value in os.environ.items() if STARTED_WITH.get(name) != value}
    os.environ.clear()
    os.environ.update(by_modules | request.environment)
    for handler in list(logging.root.handlers):
        logging.root.removeHandler(handler)
    logging.root.setLevel(logging.WARNING)
    if request.wait:
        threading.Thread(target=_end_with, args=(request.connection,), daemon=True).start()
    else:
        request.connection.close()
    importlib.import_module(PRELOAD).refresh()
    run(request.program)


def run(program: list[str]) -> None:
    """As the interpreter does: the program's folder is where it looks for modules first."""
    if program[0] == "-m":
        sys.argv = program[1:]
        sys.path[0] = os.getcwd()  # noqa: PTH109 - as a text
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = program
        sys.path[0] = str(Path(program[0]).parent)
        runpy.run_path(sys.argv[0], run_name="__main__")


def _end_with(connection: socket.socket) -> None:
    """Whoever waits for this process was killed, and this process with it, though the warm process be gone."""
    connection.settimeout(None)
    with contextlib.suppress(OSError):
        connection.recv(1)
    os._exit(1)


def end_with_parent() -> None:
    """SIGTERM for this process when the one that started it ends. Copies do not inherit this."""
    parent = os.getppid()
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_PDEATHSIG")
    if os.getppid() != parent:
        sys.exit(1)


def main() -> None:
    end_with_parent()
    begun = time.monotonic()
    # As `ray start` does for what it starts.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 65536)), hard))
    importlib.import_module(PRELOAD)
    logs.set_up("warm")
    gc.collect()
    gc.freeze()  # copies share these pages as long as nobody writes to them
    resident_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    log.info("warm after %.1f s: %d MiB", time.monotonic() - begun, resident_mib)
    become(Copier(Path(sys.argv[1])).serve())


if __name__ == "__main__":
    main()
