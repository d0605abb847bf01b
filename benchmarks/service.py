"""Raymill as a user runs it: `raymill up` under a home of its own, configured by the Python client, with
keys, limits, a budget, prices and usage records all at work. And the books afterwards: whether each answered
request has its record, and whether the budget says what the records cost.

Money is integer micro-dollars. Knows nothing of what is measured.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from abc import abstractmethod
from pathlib import Path
from typing import NamedTuple

import psutil
from benchmarks.programs import (
    ANSWER_TOKENS,
    PROMPT_TOKENS,
    BenchmarkFailed,
    Endpoint,
    Load,
    Outcome,
)
from benchmarks.systems import (
    CHAT,
    MOCK_MODEL,
    Direct,
    System,
    free_port,
    last_line,
    signal_all,
)

from raymill.client.sdk import Raymill
from raymill.client.usage_endpoints import Which
from raymill.cluster.ray_head import ray_temp_dir
from raymill.cluster.settings import Settings
from raymill.cluster.supervisor import leftovers

GATEWAY = "ray::ServeReplica:gateway"
"""How a gateway replica's process calls itself."""

NAME = "bench"
"""Of the account, its key and the route."""

PROVIDER = "mock"
BUDGET_MICRO_USD = 10**12
LIMITS = {
    "requests_per_minute": 10**9,
    "requests_per_day": 10**9,
    "tokens_per_minute": 10**12,
    "tokens_per_day": 10**12,
    "streams": 10_000,
}
"""Too high to be met; each request is held against them all the same."""

INPUT_MICRO_USD, OUTPUT_MICRO_USD = 2_500_000, 10_000_000
"""A million tokens."""

BOOKS_CLOSE_S = 60.0
"""Records go to Postgres in batches; so long may the last one take."""


class Books(NamedTuple):
    """What the service recorded of the account."""

    requests: int
    errors: int
    cost_micro_usd: int
    unpriced: int
    spent_micro_usd: int
    """By the budget's meter."""

    held_micro_usd: int


class RaymillService(System):
    """The whole service. What `pause` stops is all of it but Postgres, which is idle by then."""

    name = "raymill"

    def __init__(self) -> None:
        self._port = free_port()
        # Not below the home of root: Postgres runs as another user, who must get in.
        self.folder = Path(tempfile.mkdtemp(prefix="raymill-bench-"))
        self.folder.chmod(0o755)
        self.settings = Settings(home=self.folder / "service", port=self._port)
        self.more_settings: dict[str, str] = {}
        """`RAYMILL_*` of the service, its home and port apart."""

    @abstractmethod
    def configure(self, client: Raymill) -> str:
        """Make a model that answers by the name of `NAME`, and a key for it. Returns the key."""

    def up(self) -> None:
        """Start it as it is at first.

        Raises:
            BenchmarkFailed: it did not come up.
        """
        done = self._command("up", "--port", str(self._port))
        if done.returncode != 0:
            log = self.settings.logs_dir / "supervisor.log"
            raise BenchmarkFailed(f"raymill up failed: {done.stderr.strip()[-300:]}; {last_line(log)}")

    def start(self) -> None:
        self.up()
        with self.client() as client:
            key = self.configure(client)
        self.endpoint = Endpoint(
            url=f"http://127.0.0.1:{self._port}{CHAT}", model=NAME, headers=(f"authorization: Bearer {key}",)
        )
        self.wait_until_it_answers()

    def stop(self) -> None:
        signal_all(self.processes(), signal.SIGCONT)
        self._command("down")
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(ray_temp_dir(self.settings), ignore_errors=True)

    def processes(self) -> list[psutil.Process]:
        """With the dashboard's children, which hide their environment and would poll a stopped cluster busily."""
        kept = {process.pid for process in self._postgres()}
        found = {process.pid: process for process in leftovers(self.settings)}
        for process in list(found.values()):
            with contextlib.suppress(psutil.NoSuchProcess):
                found.update((child.pid, child) for child in process.children(recursive=True))
        return [process for pid, process in found.items() if pid not in kept]

    def everything(self) -> list[psutil.Process]:
        """All processes, Postgres' too."""
        return [*self.processes(), *self._postgres()]

    def _postgres(self) -> list[psutil.Process]:
        embedded = self.settings.embedded_postgres
        pid = embedded.pid() if embedded is not None else None
        if pid is None:
            return []
        postgres = psutil.Process(pid)
        return [postgres, *postgres.children(recursive=True)]

    def resident_bytes(self) -> int:
        """Of the gateway replica; of the largest where there are several."""
        return max((replica.memory_info().rss for replica in self._replicas()), default=0)

    def service_bytes(self) -> int:
        """Memory of the whole service, Postgres included, each shared page counted once."""
        total = 0
        for process in self.everything():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
        return total

    def client(self) -> Raymill:
        key = (self.settings.keys_dir / "admin.key").read_text().strip()
        return Raymill(url=f"http://127.0.0.1:{self._port}", api_key=key)

    def _replicas(self) -> list[psutil.Process]:
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if " ".join(process.cmdline()).startswith(GATEWAY):
                    found.append(process)
        return found

    def _command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        program = Path(sys.executable).with_name("raymill")
        environment = {"RAYMILL_HOME": str(self.settings.home), "RAYMILL_PORT": str(self._port)}
        return subprocess.run(
            [str(program), *arguments],
            env=os.environ | environment | self.more_settings,
            capture_output=True,
            text=True,
            check=False,
        )


class OverMock(RaymillService):
    """The service with the mock upstream as its only provider."""

    due_micro_usd = 0
    """What all good answers since the start must have cost."""

    def __init__(self, upstream: Direct) -> None:
        super().__init__()
        self._upstream = upstream

    def configure(self, client: Raymill) -> str:
        client.providers.add("vllm", name=PROVIDER, base_url=self._upstream.base_url)
        client.prices.set(
            PROVIDER, MOCK_MODEL, input_micro_usd=INPUT_MICRO_USD, output_micro_usd=OUTPUT_MICRO_USD
        )
        client.routes.set(NAME, {"targets": [{"provider": PROVIDER, "model": MOCK_MODEL}]})
        return limited_key(client)

    def count(self, outcome: Outcome, load: Load) -> None:
        super().count(outcome, load)
        self.due_micro_usd += outcome.answered * cost_micro_usd(load)

    def books(self) -> Books:
        """The account's books, once they hold every answer or no more time is left to wait for them."""
        deadline = time.monotonic() + BOOKS_CLOSE_S
        with self.client() as client:
            while True:
                found = read_books(client)
                closed = found.requests - found.errors >= self.answered and not found.held_micro_usd
                if closed or time.monotonic() > deadline:
                    return found
                time.sleep(1.0)


def limited_key(client: Raymill) -> str:
    """The key of a new account that has every limit there is, and a budget."""
    client.accounts.create(NAME)
    client.accounts.update(NAME, limits={**LIMITS})
    client.budgets.set(f"account:{NAME}", "month", BUDGET_MICRO_USD)
    return client.keys.create(NAME, NAME).key


def cost_micro_usd(load: Load) -> int:
    """Of one answer of the mock, rounded up as each request is."""
    made = load.max_tokens if load.stream else ANSWER_TOKENS
    return -(-(PROMPT_TOKENS * INPUT_MICRO_USD + made * OUTPUT_MICRO_USD) // 1_000_000)


def read_books(client: Raymill) -> Books:
    total = client.usage.summary((), Which(account=NAME)).total
    [budget] = client.budgets.list(subject=f"account:{NAME}")
    return Books(
        requests=total.requests,
        errors=total.errors,
        cost_micro_usd=total.cost_micro_usd,
        unpriced=total.unpriced,
        spent_micro_usd=budget.spent_micro_usd,
        held_micro_usd=budget.held_micro_usd,
    )


def forget_other_services() -> None:
    """Take out of the environment what would lead to a service, database or cluster that is not ours."""
    for name in list(os.environ):
        if name.startswith("RAYMILL_") or name in ("DATABASE_URL", "RAY_ADDRESS"):
            del os.environ[name]
