"""The warm process: has imported what heavy jobs need, and is copied when one is started.

    python -m raymill.cluster.warm

A training run is six processes or more, and each of them would import Ray, torch and transformers: half a minute
on two cores. Here that is done once. Ray starts the processes of a heavy job by `warm_client.py`, which sends its
arguments, environment, directory and output to this process's socket; what runs is a fork of it, as isolated as
any process. It never computes, connects or starts a thread itself, so that there is nothing a copy could inherit
but modules. Killed, it takes nothing with it: what it started goes on, and what is started until it is back imports
for itself.

The socket takes its owner's word alone. All copies give way to what answers people (`processes.give_way`).
"""

from __future__ import annotations

import contextlib
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

import ray

from raymill.cluster import warm_client
from raymill.cluster.kinds import all_kinds
from raymill.cluster.processes import give_way
from raymill.cluster.ray_head import ray_temp_dir
from raymill.cluster.settings import Settings
from raymill.cluster.warm_client import BEGIN, LENGTH, exactly, peer

log = logging.getLogger(__name__)

PRELOAD = "raymill.train.preload"
"""Imports what jobs of the rooms above use, and has a `refresh` for copies; named by text, since imports point one
way."""

REQUEST_S = 5.0
BACKLOG = 64


def socket_of(settings: Settings) -> Path:
    return ray_temp_dir(settings) / "warm.sock"


def python_of(settings: Settings) -> str | None:
    """What to run in place of Python for a copy of the warm process; None when it is not there."""
    path = socket_of(settings)
    return f"{sys.executable} -S -E {warm_client.__file__} {path}" if path.is_socket() else None


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
        self._woken, self._wake = socket.socketpair()
        for end in (self._woken, self._wake):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno())
        signal.signal(signal.SIGCHLD, _heard)

    def serve(self) -> Request:
        """Copy this process for ever. Returns in each copy, with what that is to run."""
        while True:
            ready, _, _ = select.select([self._listener, self._woken], [], [])
            if self._woken in ready:
                with contextlib.suppress(BlockingIOError):
                    self._woken.recv(4096)
                self._tell_ends()
            if self._listener in ready:
                request = self._receive(self._listener.accept()[0])
                if request is not None and self._copy(request):
                    return request

    def _receive(self, connection: socket.socket) -> Request | None:
        connection.settimeout(REQUEST_S)
        output: list[int] = []
        try:
            if peer(connection) != os.geteuid():
                raise PermissionError("another user asks")
            head, output, _, _ = socket.recv_fds(connection, LENGTH.size, 3)
            head += exactly(connection, LENGTH.size - len(head))
            body = json.loads(exactly(connection, LENGTH.unpack(head)[0]))
            return Request(**body, output=output, connection=connection)
        except (OSError, ValueError, TypeError) as error:
            log.warning("a request was not understood: %s", error)
            _close(connection, output)
            return None

    def _copy(self, request: Request) -> bool:
        """True in the copy."""
        pid = os.fork()
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
                        connection.sendall(bytes([code if code >= 0 else 128 - code]))
                    connection.close()


def _heard(_: int, __: FrameType | None) -> None:
    """SIGCHLD: what matters is that it wakes `select`."""


def _close(connection: socket.socket | None, descriptors: list[int]) -> None:
    if connection is not None:
        connection.close()
    for descriptor in descriptors:
        os.close(descriptor)


def become(request: Request) -> None:
    """Run the program as if it had been started by itself, once the word to begin has come."""
    request.connection.sendall(LENGTH.pack(os.getpid()))
    request.connection.settimeout(warm_client.ANSWER_S)
    if request.connection.recv(1) != BEGIN:
        sys.exit(1)  # whoever asked had not waited so long, and runs the program otherwise
    os.setsid()
    for number, descriptor in enumerate(request.output):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request.directory)
    os.environ.clear()
    os.environ.update(request.environment)
    for handler in list(logging.root.handlers):
        logging.root.removeHandler(handler)
    if request.wait:
        # Its command line stays the warm process's; `ps` and `cluster/chaos.py` know it by this.
        Path("/proc/self/comm").write_text(" ".join(request.program[:2]).removeprefix("-m ")[-15:])
        threading.Thread(target=_end_with, args=(request.connection,), daemon=True).start()
    else:
        request.connection.close()
    importlib.import_module(PRELOAD).refresh()
    if request.program[0] == "-m":
        sys.argv = request.program[1:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = request.program
        runpy.run_path(sys.argv[0], run_name="__main__")


def _end_with(connection: socket.socket) -> None:
    """Whoever waits for this process was killed, and this process with it."""
    connection.settimeout(None)
    with contextlib.suppress(OSError):
        connection.recv(1)
    os._exit(1)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = Settings()
    give_way()
    begun = time.monotonic()
    # As `ray start` does for what it starts.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 65536)), hard))
    # Asks the driver without setting CUDA up: a process that has done so cannot be copied.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    importlib.import_module(PRELOAD)
    for kind in all_kinds().values():
        if kind.queue == "heavy":
            kind.load()
    gc.collect()
    gc.freeze()  # copies share these pages as long as nobody writes to them
    resident_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    threads = len(list(Path("/proc/self/task").iterdir()))
    log.info(
        "warm after %.1f s: %d MiB, %d threads, Ray %s",
        time.monotonic() - begun,
        resident_mib,
        threads,
        ray.__version__,
    )
    become(Copier(socket_of(settings)).serve())


if __name__ == "__main__":
    main()
