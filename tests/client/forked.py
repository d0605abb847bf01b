"""The `raymill` command as a process of its own, forked from one that has imported it all.

Python and what the command imports take a second to start on a small machine, a fork takes milliseconds. What
a test sees is the same: a process with the arguments, environment, folder and streams that it gives. How long
a start takes, and how signals end it, `test_cli.py` finds out with whole processes.

    python -m tests.client.forked

reads one `Call` a line as JSON, and answers each with one `Ended`.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NoReturn, TypedDict

from raymill.client.cli.main import COMMANDS, main

LATE = ("httpcore", "certifi", "pydantic.type_adapter", "raymill.client.sdk")
"""What commands import when they need it."""
PATIENCE_S = 60


class Call(TypedDict):
    """What to run, and in what surroundings."""

    arguments: list[str]
    environment: dict[str, str]
    folder: str
    input: str


class Ended(TypedDict):
    """How it went: the exit code, or minus the signal that ended it, and what it wrote."""

    code: int
    out: str
    err: str


class Commands:
    """The process that is forked from, and calls of the command in its children."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.client.forked"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parents[2],
        )

    def call(
        self, *arguments: str, environment: dict[str, str], input: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `raymill *arguments` in the current folder; after PATIENCE_S it is ended by SIGALRM."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        call = Call(arguments=list(arguments), environment=environment, folder=str(Path.cwd()), input=input)
        self._server.stdin.write(json.dumps(call) + "\n")
        self._server.stdin.flush()
        ended: Ended = json.loads(self._server.stdout.readline())
        return subprocess.CompletedProcess(["raymill", *arguments], ended["code"], ended["out"], ended["err"])

    def stop(self) -> None:
        self._server.communicate(timeout=PATIENCE_S)


def serve() -> None:
    for group in COMMANDS.values():
        for entry in group.values():
            importlib.import_module(f"raymill.client.cli.{entry.module}")
    for module in LATE:
        importlib.import_module(module)
    while line := sys.stdin.readline():
        sys.stdout.write(json.dumps(forked(json.loads(line))) + "\n")
        sys.stdout.flush()


def forked(call: Call) -> Ended:
    with TemporaryFile("w+") as given, TemporaryFile() as out, TemporaryFile() as err:
        given.write(call["input"])
        given.seek(0)
        child = os.fork()
        if child == 0:
            run(call, given, out, err)
        _, status = os.waitpid(child, 0)
        return Ended(code=os.waitstatus_to_exitcode(status), out=written(out), err=written(err))


def written(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def run(call: Call, *streams: IO[Any]) -> NoReturn:
    """Be the command, and end as it ends."""
    code: Any = 1
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream.fileno(), number)
        os.environ.clear()
        os.environ.update(call["environment"])
        os.chdir(call["folder"])
        sys.argv = ["raymill", *call["arguments"]]
        signal.alarm(PATIENCE_S)
        main()
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 (shown as the interpreter shows it, and that is its end)
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    serve()
