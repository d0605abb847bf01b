"""Processes that are copies of a warm one: they run what they were asked to, apart from each other, and end as they should."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from raymill.cluster import warm_client

SERVER = """
import sys
from pathlib import Path
from raymill.cluster import warm
import types
fake = types.ModuleType("preloaded"); fake.refresh = lambda: None; fake.number = 1
sys.modules["preloaded"] = fake
warm.PRELOAD = "preloaded"
warm.become(warm.Copier(Path(sys.argv[1])).serve())
"""


@contextmanager
def warm_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of one that has one small module of its own instead of torch."""
    path = tmp_path_factory.mktemp("w") / "warm.sock"
    with subprocess.Popen([sys.executable, "-c", SERVER, str(path)]) as server:
        deadline = time.monotonic() + 30
        while not path.is_socket() and time.monotonic() < deadline:
            time.sleep(0.05)
        yield path
        server.kill()


@pytest.fixture(scope="module")
def warm_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with warm_process(tmp_path_factory) as path:
        yield path


def command(path: Path, *program: str) -> list[str]:
    return [sys.executable, "-S", "-E", str(warm_client.__file__), str(path), *program]


def script(folder: Path, text: str) -> str:
    path = folder / "script.py"
    path.write_text(text)
    return str(path)


def run(path: Path, *program: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(path, "--wait", *program),
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_copy_has_the_modules_and_its_own_arguments_environment_and_output(
    warm_socket: Path, tmp_path: Path
) -> None:
    text = "import os, sys\nprint('preloaded' in sys.modules, sys.argv[1:], os.environ['WORD'])\nsys.exit(7)"
    done = run(warm_socket, script(tmp_path, text), "one", "two words", WORD="mine")
    assert (done.stdout, done.returncode) == ("True ['one', 'two words'] mine\n", 7), done.stderr


def test_copies_do_not_see_what_another_changed(warm_socket: Path, tmp_path: Path) -> None:
    program = script(tmp_path, "import preloaded\npreloaded.number += 1\nprint(preloaded.number)")
    assert [run(warm_socket, program).stdout for _ in range(2)] == ["2\n", "2\n"]


def test_without_a_warm_process_the_program_runs_as_usual(tmp_path: Path) -> None:
    done = run(
        tmp_path / "nobody.sock",
        script(tmp_path, "import sys\nprint('preloaded' in sys.modules)\nsys.exit(3)"),
    )
    assert (done.stdout, done.returncode) == ("False\n", 3)


def started(path: Path, folder: Path, text: str) -> tuple[subprocess.Popen[bytes], int]:
    """A copy that waits, and its process id."""
    told = folder / "pid"
    program = script(
        folder,
        f"import os, time\nopen({str(told)!r} + '.new', 'w').write(str(os.getpid()))\n"
        f"os.rename({str(told)!r} + '.new', {str(told)!r})\n" + text,
    )
    client = subprocess.Popen(command(path, "--wait", program))
    deadline = time.monotonic() + 20
    while not told.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return client, int(told.read_text())


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not psutil.pid_exists(pid)


def test_a_copy_ends_when_the_process_that_stands_for_it_is_killed(warm_socket: Path, tmp_path: Path) -> None:
    client, pid = started(warm_socket, tmp_path, "time.sleep(60)")
    client.kill()
    client.wait()
    assert gone(pid)


def test_sigterm_reaches_the_copy_which_may_end_in_its_own_way(warm_socket: Path, tmp_path: Path) -> None:
    text = "import signal, sys\nsignal.signal(15, lambda *_: sys.exit(9))\ntime.sleep(60)"
    client, pid = started(warm_socket, tmp_path, text)
    time.sleep(0.3)
    client.terminate()
    assert client.wait(timeout=10) == 9
    assert gone(pid)


def test_copies_go_on_when_the_warm_process_is_killed(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    with warm_process(tmp_path_factory) as path:
        client, pid = started(path, tmp_path, f"time.sleep(1.5)\nopen('{tmp_path}/done', 'w').close()")
        parent = psutil.Process(pid).parent()
        assert parent is not None
        os.kill(parent.pid, signal.SIGKILL)
        client.wait(timeout=20)
    assert gone(pid)
    assert (tmp_path / "done").exists()
