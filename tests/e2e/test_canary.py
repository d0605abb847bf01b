"""Canaries of real engines: two versions answer beside each other, one takes over by itself, one is taken back."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.conftest import RunningService
from tests.e2e.conftest import MakeRecipe, raymill, rows

from raymill.client.sdk import Raymill
from raymill.client.types import Canary, Promotion
from raymill.cluster.settings import Settings

# Slow: trains two versions on Ray, and starts three engines.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("service"), pytest.mark.timeout(900)]

NAME = "tried"
SECTIONS: dict[str, Any] = {
    "evaluate": {"tasks": ["heldout_exact_match"], "actors": 1, "max_new_tokens": 4},
    "promote": {"to": "production", "require": {"heldout_exact_match": {"at_least": 0.0}}},
    "quantize": {"types": ["Q8_0"], "parity_prompts": 2, "max_new_tokens": 4},
    "serve": {"engine": "llama_cpp", "quantization": "Q8_0", "cpu_threads": 1, "cpus": 0.5},
}
USERS = [f"user-{number}" for number in range(60)]


class Gateway:
    """Users' requests for the alias, and which version answered them."""

    def __init__(self, service: RunningService, data: Path) -> None:
        self.messages = rows(data / "heldout.jsonl")[0]["messages"][:-1]
        headers = {"authorization": f"Bearer {service.api_key}"}
        self.http = httpx.Client(base_url=service.url, headers=headers, timeout=120, trust_env=False)

    def ask(self, user: str) -> int:
        body = {"model": NAME, "messages": self.messages, "max_tokens": 2, "temperature": 0, "user": user}
        response = self.http.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        return int(response.headers["x-raymill-target"].rpartition("@")[2])


@pytest.fixture(scope="module")
def gateway(service: RunningService, data: Path) -> Iterator[Gateway]:
    gateway = Gateway(service, data)
    yield gateway
    gateway.http.close()


@pytest.fixture(scope="module")
def asked(make_recipe: MakeRecipe, client: Raymill) -> Promotion:
    """Version 1 in production, by a recipe; the next run of it has version 2 try itself, as the recipe says."""
    canary = {"steps": [0.3, 0.7], "for_s": 1, "min_requests": 25, "alpha": 0.001}
    sections = {**SECTIONS, "promote": {**SECTIONS["promote"], "canary": canary}}
    for train in ({}, {"learning_rate": 0.002}):
        done = raymill("run", str(make_recipe(NAME, train=train, **sections)), timeout_s=600)
        assert done.returncode == 0, done.stderr
    assert "version 2 tries itself on a share of production" in done.stdout
    return next(iter(client.promotions.list(llm=NAME)))


def canary_of(row: Promotion) -> Canary:
    assert row.canary is not None
    return row.canary


def until(what: str, found: Callable[[], Any], timeout_s: float = 120) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.2)
    raise AssertionError(f"not within {timeout_s:g} s: {what}")


def running(client: Raymill, row: Promotion) -> bool:
    return canary_of(client.promotions.get(row.id)).state == "running"


def engines(version: int) -> list[int]:
    """Processes that serve a version, of this service."""
    home, found = str(Settings().home), []
    for process in psutil.process_iter(["cmdline"]):
        try:
            if f"ServeReplica:llm-{NAME}-{version}:" in " ".join(process.info["cmdline"] or []) and (
                process.environ().get("RAYMILL_HOME") == home
            ):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def test_a_canary_that_does_as_well_takes_over_by_itself(
    asked: Promotion, client: Raymill, gateway: Gateway
) -> None:
    assert (asked.state, asked.version) == ("canary", 2)
    until("it answers", lambda: running(client, asked))
    (engine,) = engines(2)
    seen: dict[str, list[int]] = {user: [] for user in USERS}
    measured: dict[float, Canary] = {}
    met: dict[float, int] = {}

    def done() -> Promotion | None:
        before = canary_of(client.promotions.get(asked.id))
        for user in USERS:
            seen[user].append(gateway.ask(user))
        row = client.promotions.get(asked.id)
        after = canary_of(row)
        measured[after.share] = after
        if row.state != "canary":
            return row
        if before.share == after.share:
            met[after.share] = sum(seen[user][-1] == 2 for user in USERS)
        return None

    ended = until("the alias moves", done, 240)
    assert (ended.state, canary_of(ended).state) == ("executed", "advanced"), ended.note
    assert sorted(measured) == [0.3, 0.7]
    last = measured[0.7]
    assert last.measured_at is not None
    assert min(last.canary.requests, last.current.requests) >= 25
    assert (last.canary.errors, last.current.errors) == (0, 0)
    # 18 and 42 of 60, and more than three standard deviations more or less.
    assert 6 <= met[0.3] <= 30 <= met[0.7] <= 54
    for user, versions in seen.items():  # who meets the canary stays there, in its greater shares too
        assert versions == sorted(versions), user
    assert client.llms.get(NAME).aliases == {"production": 2}
    until("all are answered by the new version", lambda: {gateway.ask(user) for user in USERS} == {2})
    until("the old version's engine ends", lambda: not engines(1))
    assert engines(2) == [engine]  # it was not started anew


def test_a_canary_whose_engine_breaks_goes_back_by_itself(
    asked: Promotion, client: Raymill, gateway: Gateway
) -> None:
    assert client.llms.get(NAME).aliases == {asked.alias: 2}
    again = client.promotions.create(NAME, 1, canary={"share": 0.5, "for_s": 600, "min_requests": 1000})
    until("it answers", lambda: running(client, again))
    over = threading.Event()

    def break_it() -> None:
        while not over.is_set():
            for pid in engines(1):
                os.kill(pid, signal.SIGKILL)
            over.wait(0.2)

    breaking = threading.Thread(target=break_it)
    breaking.start()

    def done() -> Promotion | None:
        for user in USERS:
            gateway.ask(user)  # the present version answers for it
        row = client.promotions.get(again.id)
        return row if row.state != "canary" else None

    try:
        ended = until("the canary is taken back", done, 240)
    finally:
        over.set()
        breaking.join()
    assert (ended.state, canary_of(ended).state) == ("aborted", "ended")
    assert "requests failed, at most 50% may" in (ended.note or "")
    assert client.llms.get(NAME).aliases == {"production": 2}
    until("nobody meets it any more", lambda: {gateway.ask(user) for user in USERS} == {2})
    until("its engine ends", lambda: not engines(1))
