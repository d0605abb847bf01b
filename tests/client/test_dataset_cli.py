"""`raymill dataset`: what is sent, what is shown, how it ends."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from tests.client.test_cli import JOB, MOMENT, PIPELINE, event, job, pipeline

from raymill.client.cli.main import run

if TYPE_CHECKING:
    from tests.client.conftest import Reply, Seen, Service

    Replies = type[Reply]
    Command = Callable[..., "Done"]

UPLOAD = "33333333-3333-3333-3333-333333333333"
SIDE = {
    "rows": 3,
    "characters": 1200,
    "length_characters": {
        "max": 700,
        "median": 300,
        "histogram": [{"from": 0, "to": 500, "rows": 2}, {"from": 500, "to": 1000, "rows": 1}],
    },
    "languages": {"en": 0.9, "de": 0.1},
    "roles": {"user": 3, "assistant": 3},
    "turns": {"2": 3},
    "with_tools": 0,
}
STATS = {
    "train": SIDE,
    "test": None,
    "duplicates": {"exact": 1, "near": 2, "dropped": 0},
    "overlap": 0,
    "contamination": {"sets": [{"name": "gsm8k", "number": 1, "rows": 4, "waived": True}]},
}
DETAIL = {
    "id": PIPELINE,
    "name": "mine",
    "number": 2,
    "digest": "d" * 64,
    "artifact_name": "dataset/mine/0a1b2c3d4e5f",
    "train_rows": 3,
    "test_rows": 0,
    "format": "messages",
    "shape": "conversation",
    "purpose": "training",
    "created_at": MOMENT,
    "stats": STATS,
    "provenance": {"files": [{"part": "train", "name": "a.jsonl", "sha256": "f" * 64}], "created_by": "ada"},
}


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def raymill(
    service: Service, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """`raymill(*arguments)` in this process; the service is the scripted one."""
    monkeypatch.setenv("RAYMILL_URL", service.url)
    monkeypatch.setenv("RAYMILL_API_KEY", "rk-test")
    assert home.is_dir()

    def call(*arguments: str) -> Done:
        code = run(arguments)
        return Done(code, *capsys.readouterr())

    return call


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "Is it late?", "completion": "no"}\n')
    return path


def on_dataset(service: Service, reply: Replies) -> None:
    ended = pipeline("succeeded", job("succeeded", step="dataset", kind="dataset", result={"train_rows": 1}))
    service.on("POST", "/api/v1/datasets", reply(status=202, data=ended))
    service.on("GET", f"/api/v1/pipelines/{PIPELINE}", reply(data=ended))
    service.on("GET", f"/api/v1/pipelines/{PIPELINE}/events", reply(chunks=(event(1, "end", {}),)))


def on_job(service: Service, reply: Replies, path: str, result: dict[str, Any]) -> None:
    ended = job("succeeded", pipeline_id=None, result=result)
    service.on("POST", path, reply(status=202, data=ended))
    service.on("GET", f"/api/v1/jobs/{JOB}", reply(data=ended))


def test_add_names_the_path_to_a_service_on_this_machine(
    raymill: Command, service: Service, reply: Replies, rows: Path
) -> None:
    on_dataset(service, reply)
    done = raymill("dataset", "add", "mine", str(rows), "--split", "0.1", "--seed", "3", "--waive", "gsm8k")
    assert done.returncode == 0, done.stderr
    body = service.seen[0].body
    assert body["train"] == [str(rows)]
    assert (body["name"], body["split"], body["test"]) == ("mine", {"test": 0.1, "seed": 3}, None)
    assert body["contamination"]["waive"] == ["gsm8k"]
    both = raymill("dataset", "add", "mine", str(rows), "--split", "0.1", "--test", str(rows))
    assert (both.returncode, "use one of them" in both.stderr) == (2, True)


def test_add_sends_the_file_and_goes_on_after_a_broken_connection(
    raymill: Command, service: Service, reply: Replies, rows: Path, refusal: Callable[..., Reply]
) -> None:
    content = rows.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()

    def told(offset: int) -> Reply:
        return reply(
            data={
                "id": UPLOAD,
                "name": "rows.jsonl",
                "size_bytes": len(content),
                "sha256": sha256,
                "offset": offset,
                "complete": offset == len(content),
                "created_by": "ada",
                "created_at": MOMENT,
            }
        )

    def rest(seen: Seen) -> Reply:
        assert seen.headers["upload-offset"] == "10"
        return told(len(content))

    on_dataset(service, reply)
    path = f"/api/v1/uploads/{UPLOAD}"
    service.on("POST", "/api/v1/uploads", told(0))
    service.on("PUT", path, refusal(503, "unavailable", "a replica ended"), rest)
    service.on("GET", path, told(10))
    done = raymill("dataset", "add", "mine", str(rows), "--upload")
    assert done.returncode == 0, done.stderr
    assert "sent rows.jsonl" in done.stderr
    posted = {seen.path: seen.body for seen in service.seen if seen.method == "POST"}
    assert posted["/api/v1/uploads"] == {"name": "rows.jsonl", "size_bytes": len(content), "sha256": sha256}
    assert posted["/api/v1/datasets"]["train"] == [f"upload:{UPLOAD}"]


def test_validate_tells_every_bad_row_and_exits_1(
    raymill: Command, service: Service, reply: Replies, rows: Path
) -> None:
    bad = {"file": "rows.jsonl", "unit": "line", "number": 7, "reason": "completion is empty"}
    result = {"valid": False, "problem": None, "bad_rows": 1, "first_bad_rows": [bad], "stats": STATS}
    on_job(service, reply, "/api/v1/datasets/validate", result)
    done = raymill("dataset", "validate", str(rows))
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == "rows.jsonl line 7: completion is empty"
    assert done.stderr.startswith("error: 1 rows are bad: fix them, or add the set with --allow-bad-rows")
    on_job(
        service,
        reply,
        "/api/v1/datasets/validate",
        {**result, "valid": True, "bad_rows": 0, "first_bad_rows": []},
    )
    assert raymill("dataset", "validate", str(rows)).returncode == 0
    assert json.loads(raymill("dataset", "validate", str(rows), "--json").stdout)["valid"]


def test_stats_draw_histograms_and_count_tokens_of_a_base(
    raymill: Command, service: Service, reply: Replies
) -> None:
    service.on("GET", "/api/v1/datasets/mine", reply(data=DETAIL))
    tokens = {
        "base": "/models/base", "rows": 3, "tokens": 300, "trained_token_share": 0.25, "max_tokens": 128,
        "rows_cut": 1, "share_cut": 0.3333, "rows_unusable": 0, "first_unusable": None,
        "length_tokens": {"histogram": [{"from": 0, "to": 200, "rows": 3}]},
    }  # fmt: skip
    on_job(service, reply, "/api/v1/datasets/mine/stats", tokens)
    shown = raymill("dataset", "stats", "mine", "--base", "/models/base", "--max-tokens", "128").stdout
    assert "mine version 2: conversation rows (messages)" in shown
    assert "duplicates: 1 exact, 2 near, 0 dropped" in shown
    assert "overlap with gsm8k version 1: 4 of its rows (waived)" in shown
    assert "en 90.0%, de 10.0%" in shown
    longest, shorter = (
        next(line for line in shown.splitlines() if line.startswith(start))
        for start in ("0 to 499", "500 to 999")
    )
    assert longest.count("█") == 2 * shorter.count("█") > 0
    assert "tokens of train by /models/base: 300, of which 25.0% trained" in shown
    assert "rows with more than 128 tokens: 1 of 3 (33.3%)" in shown
    as_json = json.loads(raymill("dataset", "stats", "mine", "--json").stdout)
    assert (as_json["number"], as_json["train"]["rows"]) == (2, 3)


def test_preview_marks_what_is_trained(raymill: Command, service: Service, reply: Replies) -> None:
    page = {
        "data": [{"number": 1, "row": {"messages": [{"role": "user", "content": "Größe?"}]}}],
        "next_cursor": None,
    }
    service.on("GET", "/api/v1/datasets/mine/rows", reply(data=page))
    assert (
        raymill("dataset", "preview", "mine").stdout
        == '1: {"messages": [{"role": "user", "content": "Größe?"}]}\n'
    )
    pieces = [{"trained": False, "text": "<|user|>Hi<|end|>"}, {"trained": True, "text": "Hello<|end|>"}]
    sequence = {"tokens": 9, "trained_tokens": 3, "pieces": pieces}
    result = {
        "rows": [
            {"number": 4, "problem": None, "sequences": [sequence]},
            {"number": 5, "problem": "too odd", "sequences": []},
        ]
    }
    on_job(service, reply, "/api/v1/datasets/mine/preview", result)
    shown = raymill(
        "dataset", "preview", "mine", "--base", "/models/base", "--first", "4", "--rows", "2"
    ).stdout
    assert "row 4: 9 tokens, 3 trained\n<|user|>Hi<|end|>[[Hello<|end|>]]\n" in shown
    assert "row 5: too odd" in shown
    assert service.seen[-2].body["first"] == 4


def test_show_tells_what_a_set_is_made_of(raymill: Command, service: Service, reply: Replies) -> None:
    service.on("GET", "/api/v1/datasets/mine", reply(data=DETAIL))
    shown = raymill("dataset", "show", "mine", "--number", "2").stdout
    assert "a.jsonl (train, ffffffffffff)" in shown
    assert "gsm8k" in shown
    assert service.seen[0].query == {"number": "2"}


def test_from_traffic_asks_for_a_route_and_a_time(raymill: Command, service: Service, reply: Replies) -> None:
    on_dataset(service, reply)
    service.routes["POST", "/api/v1/datasets/from-traffic"] = service.routes["POST", "/api/v1/datasets"]
    done = raymill(
        "dataset", "from-traffic", "better", "--route", "support", "--since", "2026-03-01", "--as", "preferences",
        "--min-score", "0.5", "--feedback", "corrected",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    body = service.seen[0].body
    assert (body["route"], body["rows_as"], body["min_score"], body["feedback"]) == (
        "support",
        "preferences",
        0.5,
        "corrected",
    )
    assert body["since"].startswith("2026-0")
