"""Processes that are copies of a warm one: they run what they were asked to, apart from each other, and end as they should."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.waiting import eventually

from raymill.cluster.warm import setup_worker

SERVER = """
import sys
import types
fake = types.ModuleType("preloaded"); fake.refresh = lambda: None; fake.number = 1
sys.modules["preloaded"] = fake
from raymill.cluster.warm import server
server.PRELOAD = "preloaded"
server.main()
"""
"""A warm process that has one small module of its own instead of torch."""

PATIENCE_S = 60.0


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[bytes]]:
    path = tmp_path_factory.mktemp("w") / "warm.sock"
    with subprocess.Popen([sys.executable, "-c", SERVER, str(path)]) as process:
        eventually(path.is_socket, PATIENCE_S)
        yield process
        process.kill()


@pytest.fixture
def warm_socket(server: subprocess.Popen[bytes]) -> Path:
    assert isinstance(server.args, list)
    return Path(str(server.args[-1]))


def command(path: Path, *program: str) -> list[str]:
    return [sys.executable, "-m", "raymill.cluster.warm.client", str(path), *program]


def script(folder: Path, text: str) -> str:
    path = folder / "script.py"
    path.write_text(text)
    return str(path)


def run(path: Path, *program: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(path, *program),
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_copy_has_the_modules_and_its_own_arguments_environment_and_output(
    warm_socket: Path, tmp_path: Path
) -> None:
    text = "import os, sys\nprint('preloaded' in sys.modules, sys.argv[1:], os.environ['WORD'], sys.path[0])\nsys.exit(7)"
    done = run(warm_socket, script(tmp_path, text), "one", "two words", WORD="mine")
    assert (done.stdout, done.returncode) == (f"True ['one', 'two words'] mine {tmp_path}\n", 7), done.stderr


def test_a_module_runs_from_the_directory_it_was_asked_in(
    warm_socket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "beside.py").write_text("import os, sys\nprint(__name__, sys.argv[1:], os.getcwd())")
    monkeypatch.chdir(tmp_path)
    assert run(warm_socket, "-m", "beside", "x").stdout == f"__main__ ['x'] {tmp_path}\n"


def test_copies_do_not_see_what_another_changed(warm_socket: Path, tmp_path: Path) -> None:
    program = script(tmp_path, "import preloaded\npreloaded.number += 1\nprint(preloaded.number)")
    assert [run(warm_socket, program).stdout for _ in range(2)] == ["2\n", "2\n"]


def test_without_a_warm_process_the_program_runs_as_usual(tmp_path: Path) -> None:
    program = script(tmp_path, "import sys\nprint('preloaded' in sys.modules)\nsys.exit(3)")
    done = run(tmp_path / "nobody.sock", program)
    assert (done.stdout, done.returncode) == ("False\n", 3)


def test_a_program_that_wants_other_libraries_than_were_loaded_runs_as_usual(
    warm_socket: Path, tmp_path: Path
) -> None:
    program = script(tmp_path, "import sys\nprint('preloaded' in sys.modules)")
    assert run(warm_socket, program, MKL_NUM_THREADS="7").stdout == "False\n"


def started(path: Path, folder: Path, text: str) -> tuple[subprocess.Popen[bytes], int]:
    """A copy that waits, and its process id."""
    told = folder / "pid"
    program = script(
        folder,
        f"import os, time\nopen({str(told)!r} + '.new', 'w').write(str(os.getpid()))\n"
        f"os.rename({str(told)!r} + '.new', {str(told)!r})\n" + text,
    )
    # A copy that was told to end is given as long as a machine may stand still.
    patient = {**os.environ, "RAY_JOB_STOP_WAIT_TIME_S": str(2 * PATIENCE_S)}
    starter = subprocess.Popen(command(path, program), env=patient)
    eventually(told.exists, PATIENCE_S)
    return starter, int(told.read_text())


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_copy_is_killed_with_the_process_that_stands_for_it(warm_socket: Path, tmp_path: Path) -> None:
    starter, pid = started(warm_socket, tmp_path, "time.sleep(60)")
    os.kill(pid, signal.SIGSTOP)  # in no state to notice anything
    starter.kill()
    starter.wait()
    eventually(lambda: gone(pid), PATIENCE_S)


def test_a_copy_that_is_killed_ends_the_process_that_stands_for_it(warm_socket: Path, tmp_path: Path) -> None:
    starter, pid = started(warm_socket, tmp_path, "time.sleep(60)")
    os.kill(pid, signal.SIGKILL)
    assert starter.wait(timeout=PATIENCE_S) == 128 + signal.SIGKILL


def test_sigterm_reaches_the_copy_which_may_end_in_its_own_way(warm_socket: Path, tmp_path: Path) -> None:
    told = tmp_path / "ready"
    text = (
        f"import signal, sys\nsignal.signal(15, lambda *_: sys.exit(9))\nopen('{told}', 'w')\ntime.sleep(60)"
    )
    starter, pid = started(warm_socket, tmp_path, text)
    eventually(told.exists, PATIENCE_S)
    starter.terminate()
    assert starter.wait(timeout=PATIENCE_S) == 9
    eventually(lambda: gone(pid), PATIENCE_S)


def test_copies_go_on_when_the_warm_process_is_killed_and_end_with_their_starter(
    server: subprocess.Popen[bytes], warm_socket: Path, tmp_path: Path
) -> None:
    done = tmp_path / "done"
    starter, pid = started(
        warm_socket, tmp_path, f"time.sleep(1)\nopen('{done}', 'w').close()\ntime.sleep(60)"
    )
    server.kill()
    server.wait()
    eventually(done.exists, PATIENCE_S)
    starter.kill()
    starter.wait()
    eventually(lambda: gone(pid), PATIENCE_S)


def test_the_warm_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    path = tmp_path / "warm.sock"
    parent = f"import subprocess, sys\nprint(subprocess.Popen([sys.executable, '-c', {SERVER!r}, {str(path)!r}]).pid)\n"
    with subprocess.Popen(
        [sys.executable, "-uc", parent + "import time\ntime.sleep(60)"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        eventually(path.is_socket, PATIENCE_S)
        process.kill()
    eventually(lambda: gone(pid), PATIENCE_S)


def test_what_is_preloaded_leaves_ray_to_each_process() -> None:
    """Ray takes the job that a worker belongs to from its environment as it is loaded."""
    code = (
        "import sys, raymill.train.preload as preload\npreload.refresh()\n"
        "print('torch' in sys.modules, [name for name in preload.NEVER if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True []\n"


def worker(context: dict[str, object]) -> list[str]:
    program = str(setup_worker.ray_script().with_name("default_worker.py"))
    return ["--language=PYTHON", f"{setup_worker.CONTEXT}{json.dumps(context)}", program, "--node-id=1"]


def test_a_worker_whose_job_says_so_is_copied_with_its_variables() -> None:
    variables = {setup_worker.SOCKET: "/tmp/warm.sock", "WORD": "mine"}
    path, found, program = setup_worker.read(worker({"env_vars": variables, "py_executable": sys.executable}))
    assert (path, found, program[1:]) == ("/tmp/warm.sock", variables, ["--node-id=1"])


@pytest.mark.parametrize(
    "context",
    [
        {"env_vars": {"WORD": "mine"}},
        {"env_vars": {setup_worker.SOCKET: "/tmp/warm.sock"}, "py_executable": "/usr/bin/other"},
        {"env_vars": {setup_worker.SOCKET: "/tmp/warm.sock"}, "command_prefix": ["cd /there &&"]},
        {"env_vars": {setup_worker.SOCKET: "/tmp/warm.sock", "PATH": "${PATH}:/more"}},
    ],
    ids=["no job of ours", "another Python", "a prefix", "variables of variables"],
)
def test_any_other_worker_is_left_to_ray(context: dict[str, object]) -> None:
    assert setup_worker.read(worker(context))[0] is None
