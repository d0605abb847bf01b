"""Code analysis as users run it: the command, the service's pool, the gateway in front of a scripted provider."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from tests.e2e.conftest import raymill
from tests.serve.code_lab import GOOD, SAFE, WEAK, table
from tests.serve.scripted_upstream import USAGE, scripted
from tests.waiting import eventually

from raymill.client.code_types import STEPS
from raymill.client.sdk import Raymill
from raymill.client.usage_endpoints import Which
from raymill.cluster.settings import Settings
from raymill.registry.database import Database
from raymill.registry.identity import CODE_ACCOUNT

pytestmark = [
    pytest.mark.usefixtures("service"),
    pytest.mark.timeout(300),
    pytest.mark.slow,  # a dozen commands, 15 to 70 s
]

COST = USAGE["prompt_tokens"] + 3 * USAGE["completion_tokens"]
"""Micro-dollars of one answer, at 1 for each prompt token and 3 for each of the answer."""


def told(*words: str) -> str:
    """What the command prints; it must not fail."""
    done = raymill(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def told_json(*words: str) -> Any:
    return json.loads(told(*words, "--json"))


@pytest.fixture
def database() -> Iterator[Database]:
    database = Settings().open_database(pool_size=2)
    yield database
    database.close()


@pytest.fixture
def code_file(client: Raymill, tmp_path: Path) -> Iterator[Path]:
    """Weak code, and steps whose model repairs it."""
    path = tmp_path / "app.py"
    path.write_text(WEAK)
    with scripted() as upstream:
        upstream.on("m", table(json.loads(json.dumps(GOOD).replace("code.py", path.name))))
        provider = f"p-{uuid.uuid4().hex[:8]}"
        client.providers.add("vllm", name=provider, base_url=f"{upstream.url}/v1")
        client.prices.set(provider, "m", input_micro_usd=1_000_000, output_micro_usd=3_000_000)
        for step in STEPS:
            assert told("code", "set", step, "--model", f"{provider}/m").startswith(f"{step} is at version")
        yield path
        client.providers.remove(provider)


def test_a_submission_goes_through_the_gateway_and_costs_what_that_has_recorded(
    client: Raymill, code_file: Path
) -> None:
    printed = told("code", "submit", str(code_file), "--comment", "handles uploads", "--wait")
    submission_id = printed.split()[0]
    assert f"{submission_id} succeeded, python" in printed
    assert "measured: 1 resolved, 0 remaining" in printed
    shown = told_json("code", "show", submission_id)
    assert shown["rebuilt"][0]["text"] == SAFE
    assert shown["dossier"].startswith("# Forensic analysis\n")
    assert shown["quality"]["rating"] == shown["quality"]["rating_at_most"] == 80
    diff = told("code", "show", submission_id, "--diff")
    assert diff.startswith(f"--- a/{code_file.name}\n+++ b/{code_file.name}\n")
    assert submission_id in told("code", "history")
    ended = [event.data["step"] for event in client.code.events(submission_id) if is_success(event.data)]
    assert ended == list(STEPS)

    answers = client.code.answers
    eventually(lambda: [each.cost_micro_usd for each in answers(submission_id)] == [COST] * len(STEPS))
    asked = {f"code-{each.id.hex}" for each in answers(submission_id)}
    records = [each for each in client.usage.records(Which(account=CODE_ACCOUNT)) if each.request_id in asked]
    assert [(each.cost_micro_usd, each.outcome) for each in records] == [(COST, "ok")] * len(STEPS)


def is_success(data: dict[str, Any]) -> bool:
    return data.get("state") == "succeeded"


def test_a_dead_letter_is_listed_retried_and_deleted(
    client: Raymill, database: Database, code_file: Path
) -> None:
    away = client.code.start_experiment("database_away", seconds=120)
    dead, cancelled = (client.code.submit(files={code_file.name: WEAK}).id for _ in range(2))
    job_id = client.code.get(dead).steps[0].job_id
    eventually(lambda: bool(client.jobs.get(job_id).failures))  # the pool has heard of the experiment
    assert told("code", "cancel", str(cancelled)) == f"{cancelled} cancelled\n"
    # It has failed as often as it may but once; to wait for that would take a quarter of an hour.
    with database.transaction() as session:
        session.execute(
            text("""UPDATE job SET failures = '{"transient": 11}', run_at = now() WHERE id = :id"""),
            {"id": job_id},
        )
    eventually(lambda: client.jobs.get(job_id).state == "dead")
    assert str(job_id) in told("jobs", "list", "--state", "dead", "--kind", "code_forensic")
    client.code.stop_experiment(away.id)
    assert told("code", "retry", str(dead)) == f"{dead} is running\n"
    assert client.code.wait(dead, timeout_s=60).state == "succeeded"
    assert told("code", "delete", str(dead)) == f"{dead} is deleted\n"
    left = {each.id: each.state for each in client.code.list()}
    assert dead not in left
    assert left[cancelled] == "cancelled"
