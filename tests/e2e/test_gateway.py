"""The gateway as users run it: budgets under many clients at once, and `kill -9` of a replica under load."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx
import psutil
import pytest
from sqlalchemy import func, select
from tests.conftest import RunningService
from tests.serve.scripted_upstream import Script, answer, says, scripted
from tests.waiting import eventually

from raymill.client.sdk import Raymill
from raymill.cluster.settings import Settings
from raymill.registry.database import Database
from raymill.registry.tables import Account, GatewayReplica, Meter, MeterLease, Usage
from raymill.serve.gateway.wires.usage import prompt_tokens_bound

pytestmark = [pytest.mark.usefixtures("service"), pytest.mark.timeout(300)]

BODY = {"model": "spend", "max_tokens": 5, "messages": [{"role": "user", "content": "Where is my parcel?"}]}
PROMPT_TOKENS = prompt_tokens_bound(BODY)
COST = PROMPT_TOKENS + 5 * 3
"""Micro-dollars of one request: 1 for each prompt token and 3 for each of the answer."""


class Way(NamedTuple):
    """Through the service's gateway to a scripted provider."""

    url: str
    client: Raymill
    upstream: Script


@pytest.fixture
def client(service: RunningService) -> Iterator[Raymill]:
    with Raymill(service.url, service.api_key) as client:
        yield client


@pytest.fixture
def database() -> Iterator[Database]:
    database = Settings().open_database(pool_size=2)
    yield database
    database.close()


@pytest.fixture
def way(service: RunningService, client: Raymill) -> Iterator[Way]:
    """A provider that counts exactly as many tokens as a request could have at most."""
    usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": 5, "total_tokens": PROMPT_TOKENS + 5}
    with scripted() as upstream:
        upstream.on("m", says(200, answer("On its way.", usage)))
        name = f"p-{uuid.uuid4().hex[:8]}"
        client.providers.add("vllm", name=name, base_url=f"{upstream.url}/v1")
        client.prices.set(
            name, "m", input_micro_usd=1_000_000, output_micro_usd=3_000_000, max_output_tokens=5
        )
        client.routes.set("spend", {"targets": [{"provider": name, "model": "m"}]})
        yield Way(service.url, client, upstream)
        client.routes.remove("spend")
        client.providers.remove(name)


def new_key(client: Raymill, account: str, *, budget: int) -> str:
    """Of an account that may spend so many micro-dollars: a gateway that knows the key knows of that too."""
    client.accounts.create(account)
    client.budgets.set(f"account:{account}", "total", budget)
    return client.keys.create(account, "test").key


def ask(http: httpx.Client, key: str) -> httpx.Response:
    return http.post("/v1/chat/completions", json=BODY, headers={"Authorization": f"Bearer {key}"})


def in_parallel(count: int, work: Callable[[httpx.Client], Any], url: str) -> list[Any]:
    limits = httpx.Limits(max_connections=count)
    with httpx.Client(base_url=url, timeout=30, limits=limits) as http, ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: work(http), range(count)))


def spent_by(database: Database, account: str) -> tuple[int, int]:
    """How many requests that account was let in with, and what they cost."""
    with database.transaction() as session:
        rows = select(func.count(), func.coalesce(func.sum(Usage.cost_micro_usd), 0)).join(
            Account, Account.id == Usage.account_id
        )
        count, cost = session.execute(rows.where(Account.name == account)).one()
        return int(count), int(cost)


def test_64_clients_spend_a_small_budget_to_the_last_micro_dollar_and_no_further(
    way: Way, database: Database
) -> None:
    account = f"spender-{uuid.uuid4().hex[:6]}"
    requests = 300
    key = new_key(way.client, account, budget=requests * COST)
    with httpx.Client(base_url=way.url) as http:
        eventually(lambda: ask_until_known(http, key))

    def spend(http: httpx.Client) -> int:
        let_in = 0
        while True:
            response = ask(http, key)
            if response.status_code == 200:
                let_in += 1
            elif (
                response.json()["error"]["code"] == "budget_exceeded" and "x-should-retry" in response.headers
            ):
                return let_in
            else:
                assert response.status_code == 429, response.text

    let_in = sum(in_parallel(64, spend, way.url)) + 1
    assert let_in == requests
    eventually(lambda: spent_by(database, account) == (requests, requests * COST))
    with database.transaction() as session:
        meter = session.scalars(select(Meter).where(Meter.name.like("account:%/micro_usd/total"))).all()
        assert [row.used for row in meter if row.used] == [requests * COST]


def ask_until_known(http: httpx.Client, key: str) -> bool:
    """Whether the gateway knows the key and the route already; the first answer counts as one request."""
    status = ask(http, key).status_code
    assert status in {200, 401, 404}
    return status == 200


def replicas() -> list[psutil.Process]:
    """The gateway's processes of this service: the ones that hold a spool under its home open."""
    home = str(Settings().spool_dir)
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if "ServeReplica:gateway" in " ".join(process.info["cmdline"] or [])
        and any(file.path.startswith(home) for file in process.open_files())
    ]


def test_kill_9_of_a_replica_under_load_loses_no_usage_row_and_no_reservation(
    way: Way, database: Database
) -> None:
    account = f"loaded-{uuid.uuid4().hex[:6]}"
    key = new_key(way.client, account, budget=1_000_000 * COST)
    with httpx.Client(base_url=way.url) as http:
        eventually(lambda: ask_until_known(http, key))
    (replica,) = replicas()
    stopping = threading.Event()
    answered: set[str] = set()

    def load(http: httpx.Client) -> None:
        while not stopping.is_set():
            try:
                response = ask(http, key)
            except httpx.TransportError:
                time.sleep(0.05)  # the replica is gone: its client sees that
                continue
            if response.status_code == 200:
                answered.add(response.headers["x-request-id"])
            else:
                time.sleep(0.05)

    def kill_and_wait() -> None:
        try:
            time.sleep(2)
            os.kill(replica.pid, signal.SIGKILL)
            until_back(way.url, key)
        finally:
            stopping.set()

    killer = threading.Thread(target=kill_and_wait)
    killer.start()
    in_parallel(16, load, way.url)
    killer.join()

    def all_there() -> bool:
        with database.transaction() as session:
            rows = select(Usage.request_id).join(Account, Account.id == Usage.account_id)
            kept = list(session.scalars(rows.where(Account.name == account)))
        assert len(kept) == len(set(kept)), "a request was recorded twice"
        return answered <= set(kept)

    assert len(answered) > 50
    eventually(all_there)
    eventually(lambda: dead_leases(database) == 0)
    spent = spent_by(database, account)[1]
    above = func.sum(func.greatest(MeterLease.amount, 0))  # one below 0 is a debt, and holds nothing
    held = select(func.coalesce(above, 0)).where(MeterLease.name == Meter.name).scalar_subquery()
    with database.transaction() as session:
        # One statement: what is idle goes back at any moment.
        meters = session.execute(
            select(Meter.used, Meter.leased, held).where(Meter.name.like("account:%/micro_usd/total"))
        ).all()
    ((leased, counted),) = [(leased, counted) for used, leased, counted in meters if used == spent]
    assert leased == counted


def until_back(url: str, key: str) -> None:
    with httpx.Client(base_url=url) as http:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            try:
                if ask(http, key).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
    raise AssertionError("the gateway did not come back")


def dead_leases(database: Database) -> int:
    """What replicas hold that no longer live."""
    with database.transaction() as session:
        living = select(GatewayReplica.id)
        held = select(func.coalesce(func.sum(MeterLease.amount), 0)).where(
            MeterLease.replica_id.not_in(living)
        )
        return int(session.scalar(held) or 0)
