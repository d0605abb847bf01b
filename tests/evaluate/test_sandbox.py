"""Hostile programs are contained and fail, good ones pass, and nothing is left; under each isolation and identity."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import psutil
import pytest
from tests.evaluate.hostile_programs import AT_LEAST, HOSTILE, SPECIFIC

import raymill
from raymill.evaluate.config import SandboxConfig
from raymill.evaluate.sandbox.kernel import Refused, machine
from raymill.evaluate.sandbox.runner import Program, Sandbox, SandboxRefused, Verdict

SECRET = "sesame-4711"
DOUBLE = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(5) == 10\n"
QUICK = SandboxConfig(cpu_s=3, wall_s=60, memory_mb=128, output_kb=256)
SYSTEM_PYTHON = Path("/usr/bin/python3")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")


class Outside(NamedTuple):
    """What a program must not reach."""

    folder: Path
    server: socket.socket

    @property
    def port(self) -> int:
        return int(self.server.getsockname()[1])


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outside]:
    """A secret in the environment, one in a file that everybody may write, a server and a process of nobody's."""
    monkeypatch.setenv("RAYMILL_SECRET", SECRET)
    for path in (tmp_path, *tmp_path.parents):
        if path.owner() == psutil.Process().username() and path.stat().st_mode & 0o777 == 0o700:
            path.chmod(0o755)
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "victim").write_text(SECRET)
    (folder / "victim").chmod(0o666)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield Outside(folder, server)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert (folder / "victim").read_text() == SECRET


@pytest.fixture(scope="module", autouse=True)
def isolation() -> None:
    """Some machines grant no namespaces; then nothing is run, and the reason says what is missing."""
    try:
        Sandbox(QUICK).prove()
    except SandboxRefused as refused:
        pytest.skip(str(refused))


@pytest.fixture(scope="module", autouse=True)
def bystander() -> Iterator[None]:
    """A process of the user whom the programs run as, where that is nobody."""
    user = 65534 if os.geteuid() == 0 else None
    with subprocess.Popen(["sleep", "3600"], user=user) as process:
        yield
        assert process.poll() is None
        process.kill()


@pytest.fixture(scope="module", autouse=True)
def nothing_left() -> Iterator[None]:
    """No process of a sandbox is there after the last test."""
    yield
    wait_for_the_end()


def wait_for_the_end() -> None:
    deadline = time.monotonic() + 60
    while left := sandboxes():
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def sandboxes() -> list[psutil.Process]:
    """Processes of sandboxes of this checkout, whoever has them now."""
    source = str(Path(next(iter(raymill.__path__))).parent)
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        command = process.info["cmdline"] or []
        if any("raymill.evaluate.sandbox.launch" in part for part in command) and source in command:
            found.append(process)
    return found


def run(
    source: str, test: str = DOUBLE, config: SandboxConfig = QUICK, executable: Path | None = None
) -> Verdict:
    prompt = 'def double(x):\n    """Twice x."""\n'
    program = Program(solution=source, prompt=prompt, test=test, entry_point="double")
    return Sandbox(config, executable).run(program)


def attack(name: str, outside: Outside, config: SandboxConfig, executable: Path | None = None) -> None:
    hostile = HOSTILE[name]
    source = hostile.source
    if "{folder" in source or "{port" in source or "{{" in source:
        source = source.format(folder=str(outside.folder), port=outside.port)
    verdict = run(source, config=config, executable=executable)
    assert not verdict.passed
    assert verdict.reason in hostile.reasons, verdict
    assert SECRET not in verdict.detail + verdict.output
    assert "root:" not in verdict.detail
    assert verdict.seconds < config.wall_s + 3


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_is_contained_and_fails(name: str, outside: Outside) -> None:
    if name in SPECIFIC and platform.machine() != "x86_64":
        pytest.skip("names system calls by their numbers on x86-64")
    wall_s = 1 if name == "endless sleep" else QUICK.wall_s
    cpu_s = 1 if "timeout" in HOSTILE[name].reasons else QUICK.cpu_s
    attack(name, outside, QUICK.model_copy(update={"cpu_s": cpu_s, "wall_s": wall_s}))


def as_nobody(folder: Path) -> Path:
    """A Python that gives up being root first."""
    script = folder / "python"
    script.write_text(
        f'#!/bin/sh\nexec setpriv --reuid 65534 --regid 65534 --clear-groups {SYSTEM_PYTHON} "$@"\n'
    )
    script.chmod(0o755)
    return script


def system_python() -> Path:
    """A Python whose library every user may read, as the one of these tests may not be."""
    if not SYSTEM_PYTHON.exists():
        pytest.skip(f"there is no {SYSTEM_PYTHON}")
    code = "import sys; sys.exit(sys.version_info < (3, 11))"
    if subprocess.run([SYSTEM_PYTHON, "-c", code], check=False).returncode != 0:
        pytest.skip(f"{SYSTEM_PYTHON} is older than 3.11")
    return SYSTEM_PYTHON


@pytest.mark.parametrize("name", AT_LEAST)
@pytest.mark.parametrize(
    ("isolation", "identity"), [("full", "nobody"), ("reduced", "nobody"), ("reduced", "root")]
)
def test_it_is_contained_without_privileges_and_without_namespaces_too(
    name: str, isolation: Literal["full", "reduced"], identity: str, outside: Outside, tmp_path: Path
) -> None:
    executable = system_python()
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    if identity == "nobody":
        if shutil.which("setpriv") is None:
            pytest.skip("there is no setpriv")
        executable = as_nobody(tmp_path)
    attack(name, outside, QUICK.model_copy(update={"isolation": isolation}), executable)


GOOD = {
    "plain": ("def double(x):\n    return 2 * x\n", DOUBLE),
    "library, classes and its own folder": (
        "import dataclasses, collections, functools, hashlib, itertools, json, math, re, typing\n"
        "@dataclasses.dataclass\nclass Pair:\n    left: int\n    right: int\n"
        "@functools.cache\ndef total(pair_left, pair_right): return pair_left + pair_right\n"
        "def double(x):\n"
        "    with open('/tmp/note', 'w') as file: file.write(hashlib.sha256(b'a').hexdigest())\n"
        "    assert len(open('/tmp/note').read()) == 64\n"
        "    pair = Pair(x, x)\n    return total(pair.left, pair.right)\n",
        DOUBLE,
    ),
    "talkative": ("import sys\ndef double(x):\n    print('hm', x); print('ha', file=sys.stderr)\n    return 2 * x\n", DOUBLE),
    "every kind of value": (
        "import collections, decimal, fractions\n"
        "def double(x):\n    return collections.OrderedDict(x) if isinstance(x, dict) else x\n",
        "import decimal, fractions, math\n"
        "def check(candidate):\n"
        "    values = [None, True, 0, -1, 2 ** 200, 1.5, math.inf, 'ä\\ud800', b'y', [1, [2]], (1, (2,)), {1, 2},\n"
        "              frozenset({3}), {(1, 2): [3], 'y': {}}, 1 + 2j, decimal.Decimal('0.1'), fractions.Fraction(1, 3),\n"
        "              bytearray(b'z'), set(), ()]\n"
        "    for value in values:\n"
        "        given = candidate(value)\n"
        "        assert given == value and type(given) is type(value), value\n"
        "    assert math.isnan(candidate(math.nan))\n"
        "    assert candidate(x=[1]) == [1]\n",
    ),
    "raises what is asked for, changes its argument": (
        "def double(x):\n    if not x: raise ValueError('empty')\n    x.sort()\n    x.append(9)\n",
        "def check(candidate):\n"
        "    try:\n        candidate([])\n        assert False\n    except ValueError as error:\n        assert str(error) == 'empty'\n"
        "    numbers = [3, 1, 2]\n    assert candidate(numbers) is None\n    assert numbers == [1, 2, 3, 9]\n",
    ),
    "recursion and drawn inputs": (
        "import sys\nsys.setrecursionlimit(5000)\ndef double(x):\n    return 0 if x == 0 else 2 + double(x - 1)\n",
        "import random\ndef check(candidate):\n    for _ in range(20):\n        n = random.randint(0, 3000)\n"
        "        assert candidate(n) == 2 * n\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_a_good_program_passes(name: str) -> None:
    source, test = GOOD[name]
    verdict = run(source, test)
    assert verdict.passed, verdict
    assert (verdict.reason, verdict.detail) == (None, "")


def test_what_a_program_says_and_why_it_fails_are_told() -> None:
    verdict = run("def double(x):\n    print('so far')\n    return x * x\n")
    assert (verdict.reason, verdict.output) == ("wrong", "so far\n" * 2)
    assert verdict.detail == "AssertionError: assert candidate(5) == 10"
    assert run("def double(x):\n    return {}[x]\n").detail == "KeyError: '2'"
    assert run("def double(x) return x\n").detail.startswith("SyntaxError: ")
    assert run("def other(x): return x\n").detail == "NameError: the program defines no double"


def test_the_tests_may_use_helpers_of_the_prompt_which_the_program_cannot_replace() -> None:
    program = Program(
        solution="def helper(x):\n    return 5\ndef double(x):\n    return 5\n",
        prompt='def helper(x):\n    return x + x\ndef double(x):\n    """Twice x."""\n',
        test="def check(candidate):\n    assert candidate(2) == helper(2)\n",
        entry_point="double",
    )
    assert Sandbox(QUICK).run(program).reason == "wrong"


def test_sets_have_the_same_order_every_time() -> None:
    source = "def double(x):\n    raise ValueError(list(set('abcdefgh')))\n"
    assert run(source).detail == run(source).detail


def test_all_of_it_ends_with_the_process_that_started_it() -> None:
    code = (
        "from raymill.evaluate.config import SandboxConfig\n"
        "from raymill.evaluate.sandbox.runner import Program, Sandbox\n"
        "program = Program(solution='import time\\ntime.sleep(100)', prompt='', test='', entry_point='f')\n"
        "Sandbox(SandboxConfig(wall_s=100)).run(program)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        deadline = time.monotonic() + 60
        while len(sandboxes()) < 5:  # launcher, holder, first, and the two sides
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
    wait_for_the_end()


def test_a_machine_that_grants_no_namespaces_is_refused_with_the_cure(tmp_path: Path) -> None:
    script = tmp_path / "python"
    granted = subprocess.run(["unshare", "-U", "-r", "true"], capture_output=True, check=False)
    if granted.returncode != 0:
        pytest.skip("this machine grants no namespaces, so none can be taken away")
    script.write_text(
        "#!/bin/sh\n"
        "exec unshare -U -r sh -c 'echo 0 > /proc/sys/user/max_user_namespaces; exec \"$@\"' - "
        f'{sys.executable} "$@"\n'
    )
    script.chmod(0o755)
    with pytest.raises(
        SandboxRefused, match=r"no namespaces .*user\.max_user_namespaces .*isolation: reduced"
    ):
        run("def double(x): return 2 * x\n", executable=script)


def test_what_cannot_be_run_safely_is_refused_not_run_with_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(Refused, match="no table of system calls for riscv64"):
        machine()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxRefused, match="on Linux only, this is darwin"):
        Sandbox(SandboxConfig())


def test_the_sandbox_proves_that_it_works() -> None:
    Sandbox(SandboxConfig()).prove()


def test_limits_that_no_program_fits_in_are_refused_before_any_is_judged(tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -c "" \n')
    script.chmod(0o755)
    with pytest.raises(SandboxRefused, match="a program that is known to be good fails here"):
        Sandbox(QUICK, script).prove()
