"""The systems that are measured, each as a user starts it, on the loopback interface: the mock upstream
itself, uvicorn, LiteLLM and Portkey here; Raymill in `service.py`.

Only one runs while it is measured: the others are stopped (SIGSTOP) and go on later (SIGCONT), so that
their idle work does not disturb. Memory is bytes. Knows nothing of what is asked of them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType

import psutil
from benchmarks.peers import BENCH
from benchmarks.programs import BenchmarkFailed, Endpoint, Load, Outcome, run_load, upstream_command

from raymill.cluster import processes
from raymill.policies.errors import RaymillError

PORTS = range(20_000, 30_000)
"""Below the ephemeral range, so that no outgoing connection takes one meanwhile."""

ROOT = Path(__file__).resolve().parent.parent
MOCK_MODEL = "mock-model"
CHAT = "/v1/chat/completions"
ONCE = Load(connections=1, requests=1)


class Missing(BenchmarkFailed):
    """A peer is not installed here; the benchmark goes on without it."""


class System(ABC):
    """Something that answers chat completions."""

    name: str
    endpoint: Endpoint
    answered = 0
    """Requests since its start that got a good answer."""

    failed = 0
    ready_s = 120.0
    """Longest that it may take until it answers."""

    @abstractmethod
    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            Missing: it is not installed.
            BenchmarkFailed: it does not come up; the message names its log.
        """

    @abstractmethod
    def stop(self) -> None:
        """End all that `start` began; does nothing when nothing did."""

    @abstractmethod
    def processes(self) -> list[psutil.Process]:
        """All processes that it consists of."""

    def resident_bytes(self) -> int:
        """Memory of the part that answers requests: here the whole tree of processes."""
        return resident_bytes(self.processes())

    def pause(self) -> None:
        signal_all(self.processes(), signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on and wait until it answers."""
        signal_all(self.processes(), signal.SIGCONT)
        self.wait_until_it_answers()

    def ask(self, load: Load) -> Outcome:
        """Put it under load, and count what it answers."""
        outcome = run_load(self.endpoint, load)
        self.count(outcome, load)
        return outcome

    def count(self, outcome: Outcome, load: Load) -> None:  # noqa: ARG002 (others need it)
        self.answered += outcome.answered
        self.failed += outcome.failed

    def wait_until_it_answers(self, ended: Callable[[], bool] = lambda: False) -> None:
        """Ask until a whole answer comes.

        Raises:
            BenchmarkFailed: none came within `ready_s`, or the process has `ended`.
        """
        deadline = time.monotonic() + self.ready_s
        said: str | None = "nothing"
        while time.monotonic() < deadline and not ended():
            outcome = run_load(self.endpoint, ONCE)
            if outcome.answered:
                self.count(outcome, ONCE)
                return
            said = outcome.first_error
            time.sleep(0.1)
        raise BenchmarkFailed(f"{self.name} does not answer; the last it said: {said}")


class Program(System):
    """A system that is one command, with the processes it starts."""

    def __init__(self, name: str, logs: Path) -> None:
        self.name = name
        self.port = free_port()
        self._log = logs / f"{name}.log"
        self._pid: int | None = None

    @abstractmethod
    def command(self) -> list[str]: ...

    def environment(self) -> dict[str, str]:
        return {}

    def start(self) -> None:
        child = processes.spawn(self.command(), log=self._log, env=os.environ | self.environment())
        self._pid = child.pid
        try:
            self.wait_until_it_answers(lambda: child.poll() is not None)
        except BenchmarkFailed as error:
            raise BenchmarkFailed(f"{error}; the end of its log: {last_line(self._log)}") from error

    def stop(self) -> None:
        if self._pid is not None:
            signal_all(self.processes(), signal.SIGCONT)
            processes.end_tree(self._pid, patience_s=5)
            self._pid = None

    def processes(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            if self._pid is not None:
                root = psutil.Process(self._pid)
                return [root, *root.children(recursive=True)]
        return []


class Direct(Program):
    """The mock upstream, without anything before it."""

    def __init__(self, logs: Path) -> None:
        super().__init__("direct", logs)
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        self.endpoint = Endpoint(url=f"http://127.0.0.1:{self.port}{CHAT}", model=MOCK_MODEL)

    def command(self) -> list[str]:
        return upstream_command(self.port)

    def pause(self) -> None:
        """Never: every other system needs it, and it does nothing unless asked."""


class Uvicorn(Program):
    """The bare pass-through, with one of two HTTP clients."""

    def __init__(self, name: str, client: str, upstream: Direct, logs: Path) -> None:
        super().__init__(name, logs)
        self._client, self._upstream = client, upstream
        self.endpoint = Endpoint(url=f"http://127.0.0.1:{self.port}{CHAT}", model=MOCK_MODEL)

    def command(self) -> list[str]:
        module = [sys.executable, "-m", "benchmarks.passthrough"]
        return [*module, str(self.port), self._upstream.endpoint.url, self._client]

    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(ROOT)}


class LiteLlm(Program):
    """LiteLLM's proxy with one worker, without a database: one model, one key."""

    KEY = "sk-bench-0123456789"

    def __init__(self, upstream: Direct, logs: Path) -> None:
        super().__init__("litellm", logs)
        self._base_url = upstream.base_url
        self._config = logs / "litellm.yaml"
        self.endpoint = Endpoint(
            url=f"http://127.0.0.1:{self.port}{CHAT}",
            model="bench",
            headers=(f"authorization: Bearer {self.KEY}",),
        )

    def command(self) -> list[str]:
        program = BENCH / "litellm" / "bin" / "litellm"
        if not program.exists():
            raise Missing("LiteLLM is not installed: run make bench-peers")
        self._config.write_text(
            "model_list:\n"
            "  - model_name: bench\n"
            f"    litellm_params: {{model: openai/{MOCK_MODEL}, api_base: {self._base_url}, api_key: none}}\n"
            f"general_settings: {{master_key: {self.KEY}}}\n"
        )
        listen = ["--host", "127.0.0.1", "--port", str(self.port), "--num_workers", "1"]
        return [str(program), "--config", str(self._config), *listen, "--telemetry", "False"]

    def environment(self) -> dict[str, str]:
        # Prices as shipped: it would otherwise wait for a download first.
        return {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}


class Portkey(Program):
    """Portkey's gateway, headless as its container runs it; each request says where it goes."""

    def __init__(self, upstream: Direct, logs: Path) -> None:
        super().__init__("portkey", logs)
        self.endpoint = Endpoint(
            url=f"http://127.0.0.1:{self.port}{CHAT}",
            model=MOCK_MODEL,
            headers=(
                "authorization: Bearer none",
                "x-portkey-provider: openai",
                f"x-portkey-custom-host: {upstream.base_url}",
            ),
        )

    def command(self) -> list[str]:
        package = BENCH / "portkey" / "node_modules" / "@portkey-ai" / "gateway"
        script = package / "build" / "start-server.js"
        node = shutil.which("node")
        if node is None or not script.exists():
            raise Missing("Portkey, or node, is not installed: run make bench-peers")
        return [node, str(script), f"--port={self.port}", "--headless"]

    def environment(self) -> dict[str, str]:
        return {"NODE_ENV": "production"}


def interrupt_once() -> None:
    """Ctrl-C and SIGTERM interrupt the run; what comes after the first does not interrupt the clearing up."""

    def interrupt(_: int, __: FrameType | None) -> None:
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.SIG_IGN)
        raise KeyboardInterrupt

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, interrupt)


@contextlib.contextmanager
def errors_told(benchmark: str) -> Iterator[None]:
    """An error or an interruption of the block ends the benchmark with a line that says so."""
    try:
        yield
    except RaymillError as error:
        sys.stderr.write(f"{benchmark}: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write(f"{benchmark}: interrupted; everything it started has ended\n")
        sys.exit(130)


def signal_all(family: Iterable[psutil.Process], signum: signal.Signals) -> None:
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process.send_signal(signum)


def resident_bytes(family: Iterable[psutil.Process]) -> int:
    """Sum of what each holds in memory; pages that two share are counted twice."""
    total = 0
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def free_port() -> int:
    for port in PORTS[os.getpid() % 9000 :]:
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("0.0.0.0", port))
                _given.add(port)
                return port
    raise BenchmarkFailed(f"no port from {PORTS.start} to {PORTS.stop} is free: stop what listens there")


_given: set[int] = set()


def last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it is empty"
