"""Run a Python program as a copy of the warm process; as usual where none answers.

    python -m raymill.cluster.warm.client SOCKET FILE|-m MODULE ARGUMENT…

It lives as long as the copy, passes SIGTERM on and ends with its exit code; when it is killed, the copy is too.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

ANSWER_S = 10.0
"""For a copy to say that it is there. One that comes later gets no word to begin, and ends."""

PATIENCE_S = float(os.environ.get("RAY_JOB_STOP_WAIT_TIME_S", "3")) - 1
"""From SIGTERM to SIGKILL; Ray kills this process a second later."""

TICK_S = 0.1
PEER = struct.Struct("3i")
LENGTH = struct.Struct("!I")
BEGIN = b"!"


def main() -> None:
    path, *program = sys.argv[1:]
    try:
        connection, pid = ask(path, program, wait=True)
    except (OSError, ValueError):
        os.execv(sys.executable, [sys.executable, *program])
    stay(connection, pid)


def ask(path: str, program: Sequence[str], *, wait: bool) -> tuple[socket.socket, int]:
    """A copy that has begun `program` with this process's environment, directory and output, and its process id.

    Args:
        wait: the copy's life is that of the connection, which tells its exit code at the end.

    Raises:
        OSError, ValueError: there is none.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(ANSWER_S)
    connection.connect(path)
    if peer(connection) != os.geteuid():
        raise PermissionError(path)
    request = {
        "program": list(program),
        "environment": dict(os.environ),
        "directory": os.getcwd(),  # noqa: PTH109 - pathlib is more than all that is imported here
        "wait": wait,
    }
    body = json.dumps(request).encode()
    socket.send_fds(connection, [LENGTH.pack(len(body))], [0, 1, 2])
    connection.sendall(body)
    [pid] = LENGTH.unpack(exactly(connection, LENGTH.size))
    connection.sendall(BEGIN)
    return connection, pid


def peer(connection: socket.socket) -> int:
    """The user at the other end."""
    _, uid, _ = PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size))
    return int(uid)


def exactly(connection: socket.socket, size: int) -> bytes:
    """Raises ValueError: the other end closed before."""
    found = b""
    while len(found) < size:
        part = connection.recv(size - len(found))
        if not part:
            raise ValueError("the connection ended early")
        found += part
    return found


def stay(connection: socket.socket, pid: int) -> NoReturn:
    """Until the copy has ended; with its exit code, or 1 when nobody is left to tell it."""
    kill_at: list[float] = []

    def end(_: int, __: FrameType | None) -> None:
        send(pid, signal.SIGTERM)
        kill_at.append(time.monotonic() + PATIENCE_S)

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, end)
    # The copy and the warm process hold the other end: it says the code, or closes, when the copy has ended.
    while not select.select([connection], [], [], TICK_S if kill_at else 1.0)[0]:
        if kill_at and time.monotonic() > kill_at[0]:
            send(pid, signal.SIGKILL)
    try:
        [code] = exactly(connection, 1)
    except (OSError, ValueError):
        code = 1
    sys.exit(code)


def send(pid: int, signum: signal.Signals) -> None:
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    main()
