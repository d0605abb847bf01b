"""Data sets over HTTP: registered by the real job, looked at, checked, held against evaluation sets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from tests.lines import json_lines, write_lines
from tests.registry.making import World
from tests.serve.dataset_lab import API, connected, error_of, run_all

from raymill.registry.tables import AuditEvent, Dataset, Job, Role
from raymill.train.tokenizer import train_tokenizer

QUESTION = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many clips "
    "did Natalia sell altogether in April and May?"
)


@pytest.fixture
def client(world: World) -> Iterator[TestClient]:
    with connected(world, Role.OPERATOR) as found:
        yield found


@pytest.fixture(scope="module")
def tokenizer_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer with our chat template; no weights are asked for."""
    directory = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([f"What is the number of {n}?" for n in range(60)], 310, directory)
    return directory


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"What is the number of {n}?", "completion": str(n)} for n in range(count)]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    write_lines(path, rows)
    return str(path)


def add(client: TestClient, world: World, name: str, **body: Any) -> dict[str, Any]:
    """Submit, and run the job; its state, error and result."""
    made = client.post(f"{API}/datasets", json={"name": name, **body})
    assert made.status_code == 202, made.text
    run_all(world)
    (job,) = client.get(f"{API}/pipelines/{made.json()['id']}").json()["jobs"]
    found: dict[str, Any] = job
    return found


def test_an_uploaded_file_becomes_a_version_with_its_statistics(client: TestClient, world: World) -> None:
    content = json_lines(numbered(40)).encode()
    sha256 = hashlib.sha256(content).hexdigest()
    begun = client.post(
        f"{API}/uploads", json={"name": "rows.jsonl", "size_bytes": len(content), "sha256": sha256}
    )
    upload = f"upload:{begun.json()['id']}"
    early = client.post(f"{API}/datasets", json={"name": "mine", "train": upload})
    assert (early.status_code, "has 0 of" in early.json()["error"]["message"]) == (409, True)
    client.put(f"{API}/uploads/{begun.json()['id']}", content=content, headers={"upload-offset": "0"})
    assert add(client, world, "mine", train=upload, split={"test": 0.2})["state"] == "succeeded"
    told = client.get(f"{API}/datasets/mine").json()
    assert (told["number"], told["purpose"], told["shape"]) == (1, "training", "conversation")
    assert told["train_rows"] + told["test_rows"] == 40
    assert told["stats"]["train"]["rows"] == told["train_rows"]
    assert told["provenance"]["files"] == [{"part": "train", "name": "rows.jsonl", "sha256": sha256}]
    assert told["provenance"]["created_by"] == "operator"
    missing = client.get(f"{API}/datasets/mine?number=2")
    assert error_of(missing) == (404, "not_found", None)
    assert "its newest is 1" in missing.json()["error"]["message"]


def test_a_registered_set_stands_for_the_dataset_step_of_a_recipe(
    client: TestClient, world: World, tmp_path: Path
) -> None:
    train = write(tmp_path / "train.jsonl", numbered(10))
    added = add(client, world, "mine", train=train)["result"]
    corpus = write(tmp_path / "corpus.txt", numbered(3))
    recipe: dict[str, Any] = {
        "model": "triage",
        "base": {"pretrain": {"text": corpus}},
        "dataset": {"name": "mine", "version": 1},
    }
    made = client.post(f"{API}/pipelines", json={"recipe": recipe})
    assert made.status_code == 202, made.text
    run_all(world)
    job = client.get(f"{API}/pipelines/{made.json()['id']}").json()["jobs"][0]
    assert (job["step"], job["state"]) == ("dataset", "succeeded")
    for key in ("digest", "artifact", "dataset_id", "train_rows", "format", "shape"):
        assert job["result"][key] == added[key]
    with world.database.transaction() as session:
        assert session.scalars(select(Dataset.name)).all() == ["mine"]
    recipe["evaluate"] = {"tasks": ["heldout_exact_match"]}
    refused = client.post(f"{API}/pipelines", json={"recipe": recipe})
    assert error_of(refused) == (422, "invalid", "dataset.name")
    recipe["dataset"] = {"name": "nobody"}
    assert error_of(client.post(f"{API}/pipelines", json={"recipe": recipe}))[:2] == (404, "not_found")


def test_an_evaluation_set_keeps_training_rows_away_unless_it_is_waived_by_name(
    client: TestClient, world: World, tmp_path: Path
) -> None:
    benchmark = write(tmp_path / "gsm8k.jsonl", [{"question": QUESTION, "answer": "72"}])
    assert add(client, world, "gsm8k", train=benchmark, purpose="evaluation")["state"] == "succeeded"
    leaked = write(tmp_path / "train.jsonl", [*numbered(3), {"prompt": QUESTION, "completion": "It is 72."}])
    refused = add(client, world, "mine", train=leaked)
    assert refused["state"] == "failed"
    assert "gsm8k version 1: train row 4 holds 100% of its row 1" in refused["error"]
    assert client.get(f"{API}/datasets/mine").status_code == 404
    waived = add(client, world, "mine", train=leaked, contamination={"waive": ["gsm8k"]})
    assert waived["state"] == "succeeded"
    (found,) = client.get(f"{API}/datasets/mine").json()["stats"]["contamination"]["sets"]
    assert (found["name"], found["waived"]) == ("gsm8k", True)
    with world.database.transaction() as session:
        rows = session.scalars(select(AuditEvent).where(AuditEvent.action == "contamination.waive")).all()
        assert [(row.actor, row.object, row.detail["evaluation"]) for row in rows] == [
            ("operator", "dataset/mine/1", "gsm8k")
        ]
    trained = client.post(
        f"{API}/pipelines",
        json={
            "recipe": {"model": "m", "base": {"pretrain": {"text": benchmark}}, "dataset": {"name": "gsm8k"}}
        },
    )
    assert "is there to be measured with" in trained.json()["error"]["message"]


def test_held_out_rows_of_a_registered_set_are_an_evaluation_set_too(
    client: TestClient, world: World, tmp_path: Path
) -> None:
    held = write(tmp_path / "held.jsonl", [{"prompt": QUESTION, "completion": "72"}])
    train = write(tmp_path / "train.jsonl", numbered(3))
    assert add(client, world, "first", train=train, test=held)["state"] == "succeeded"
    assert add(client, world, "first", train=held, test=train)["state"] == "succeeded"  # its own next version
    refused = add(client, world, "second", train=held)
    assert (refused["state"], "first version 1: train row 1" in refused["error"]) == ("failed", True)


def test_a_check_registers_nothing_and_tells_every_bad_row(
    client: TestClient, world: World, tmp_path: Path
) -> None:
    path = write(tmp_path / "train.jsonl", [*numbered(2), {"prompt": "x", "completion": " "}])
    made = client.post(f"{API}/datasets/validate", json={"train": path})
    assert made.status_code == 202, made.text
    run_all(world)
    job = client.get(f"{API}/jobs/{made.json()['id']}").json()
    assert job["state"] == "succeeded", job["error"]
    assert (job["result"]["valid"], job["result"]["bad_rows"]) == (False, 1)
    (row,) = job["result"]["first_bad_rows"]
    assert (row["file"], row["number"], row["reason"]) == ("train.jsonl", 3, "completion is empty")
    assert client.get(f"{API}/datasets").json()["data"] == []


def test_rows_come_in_pages_that_go_on_where_the_last_one_ended(
    client: TestClient, world: World, tmp_path: Path
) -> None:
    add(client, world, "mine", train=write(tmp_path / "train.jsonl", numbered(7)))
    found: list[int] = []
    cursor: str | None = None
    for size in (3, 3, 1):
        query = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        page = client.get(f"{API}/datasets/mine/rows", params=query).json()
        assert len(page["data"]) == size
        found += [row["number"] for row in page["data"]]
        assert page["data"][0]["row"]["messages"][1]["content"] == str(found[-size] - 1)
        cursor = page["next_cursor"]
    assert (found, cursor) == ([1, 2, 3, 4, 5, 6, 7], None)
    for wrong in ("x", "1.1", "999999.1", "-1.0"):
        assert error_of(client.get(f"{API}/datasets/mine/rows?cursor={wrong}")) == (422, "invalid", "cursor")
    assert error_of(client.get(f"{API}/datasets/mine/rows?part=test"))[0] == 404


def test_a_base_counts_and_renders_the_rows(
    client: TestClient, world: World, tmp_path: Path, tokenizer_directory: Path
) -> None:
    long = {"prompt": "What is the number of 1? " * 9, "completion": "1"}
    add(client, world, "mine", train=write(tmp_path / "train.jsonl", [*numbered(4), long]))
    body = {"base": str(tokenizer_directory), "max_tokens": 16, "rows": 2, "first": 2}
    jobs = [
        client.post(f"{API}/datasets/mine/{verb}", json=body).json()["id"] for verb in ("stats", "preview")
    ]
    run_all(world)
    counted, rendered = (client.get(f"{API}/jobs/{job}").json() for job in jobs)
    assert counted["state"] == rendered["state"] == "succeeded", (counted["error"], rendered["error"])
    result = counted["result"]
    assert (result["rows"], result["max_tokens"], result["rows_unusable"]) == (5, 16, 0)
    assert result["rows_cut"] == 1
    assert 0 < result["trained_token_share"] < 1
    first, second = rendered["result"]["rows"]
    assert (first["number"], second["number"]) == (2, 3)
    (sequence,) = first["sequences"]
    assert [piece["trained"] for piece in sequence["pieces"]] == [False, True]
    assert sequence["pieces"][1]["text"] == "1<|end|>"
    assert sequence["tokens"] > sequence["trained_tokens"] > 0
    nowhere = client.post(f"{API}/datasets/mine/stats", json={**body, "base": "/no/such"}).json()["id"]
    run_all(world)
    assert "no base '/no/such'" in client.get(f"{API}/jobs/{nowhere}").json()["error"]


def test_jobs_of_data_sets_leave_no_rows_of_statistics_in_their_results(
    client: TestClient, world: World, tmp_path: Path
) -> None:
    add(client, world, "mine", train=write(tmp_path / "train.jsonl", numbered(3)))
    with world.database.transaction() as session:
        (job,) = session.scalars(select(Job))
        assert job.result is not None
        assert {"stats", "provenance"}.isdisjoint(job.result)
        assert job.result["number"] == 1
