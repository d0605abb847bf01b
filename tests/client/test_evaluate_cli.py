"""`raymill evaluate`, run as a user runs it, and the same calls of both clients."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.client.test_cli import MOMENT, PIPELINE, pipeline

from raymill.client.sdk import AsyncRaymill, Raymill

if TYPE_CHECKING:
    from tests.client.conftest import Reply, Service
    from tests.client.test_cli import Command

    Replies = type[Reply]

A, B = "support@3", "support@2"
COMPARED: dict[str, Any] = {
    "a": A,
    "b": B,
    "alpha": 0.05,
    "tasks": [
        {
            "task": "heldout", "verdict": "better", "mean_a": 0.97, "mean_b": 0.91, "difference": 0.06,
            "standard_error": 0.02, "low": 0.025, "high": 0.095, "p_value": 0.0018, "test": "mcnemar",
            "examples": 200, "wins": 14, "losses": 2, "only_a": 3, "only_b": 0, "asked_differently": 4,
        }
    ],
}  # fmt: skip
STANDING: dict[str, Any] = {
    "task": "heldout", "version": A, "aliases": ["production"], "score": 0.97, "standard_error": 0.012,
    "low": 0.936, "high": 0.986, "note": None, "samples": 200, "dataset": "support@1", "evaluated_at": MOMENT,
    "backend": None, "prompt_tokens": None, "completion_tokens": None, "cost_micro_usd": None,
}  # fmt: skip
CHANGED: dict[str, Any] = {
    "place": 3, "index": 7, "better": "b", "prompt": "Where is\nmy parcel?", "prompt_b": None, "reference": "delayed",
    "a": {"score": 0.0, "answer": "lost " * 100, "answers": 1, "reason": "no_json"},
    "b": {"score": 0.5, "answer": "delayed", "answers": 2, "reason": None},
}  # fmt: skip
PAID = {**STANDING, "version": "gateway:gpt", "backend": "generation", "cost_micro_usd": 12_300}
UNKNOWN = {**STANDING, "version": B, "aliases": [], "low": None, "high": None, "note": "its samples are gone"}


@pytest.fixture
def evaluations(service: Service, reply: Replies) -> Service:
    service.on("GET", "/api/v1/evaluations/compare", reply(data=COMPARED))
    service.on(
        "GET", "/api/v1/evaluations/compare/changed", reply(data={"data": [CHANGED], "next_cursor": None})
    )
    service.on("GET", "/api/v1/evaluations/compare/plot", reply(data=1))
    service.on("GET", "/api/v1/evaluations/leaderboard", reply(data={"standings": [STANDING, UNKNOWN, PAID]}))
    service.on("POST", "/api/v1/evaluations/judge", reply(status=202, data=pipeline("running")))
    service.on("POST", "/api/v1/evaluations", reply(status=202, data=pipeline("running")))
    service.on("GET", "/api/v1/evaluations/leaderboard/plot", reply(data=2))
    return service


def test_compare_says_the_verdict_its_numbers_and_what_was_left_out(
    raymill: Command,
    evaluations: Service,
) -> None:
    done = raymill("evaluate", "compare", A, "support@production", "--task", "heldout")
    assert done.returncode == 0, done.stderr
    assert evaluations.seen[-1].query == {"a": A, "b": "support@production", "task": "heldout"}
    assert done.stdout.splitlines()[0] == f"{A} against {B}"
    row = " ".join(done.stdout.splitlines()[-1].split())
    assert row == "heldout better 0.97 0.91 +0.06 +0.025 to +0.095 0.0018 200 14 2 mcnemar"
    assert done.stderr.splitlines() == [
        f"heldout: 3 examples of {A} alone are left out",
        "heldout: 4 examples were asked in different words (another template)",
    ]
    assert json.loads(raymill("evaluate", "compare", A, B, "--json").stdout) == COMPARED


def test_changed_shows_what_was_asked_wanted_and_answered(raymill: Command, evaluations: Service) -> None:
    done = raymill("evaluate", "changed", A, B, "--better", "b", "-t", "heldout", "-n", "30")
    assert done.returncode == 0, done.stderr
    assert evaluations.seen[-1].query == {"a": A, "b": B, "task": "heldout", "better": "b", "limit": "30"}
    assert done.stdout.splitlines() == [
        f"example 7: {B} did better",
        "  asked   Where is my parcel?",
        "  wanted  delayed",
        f"  A 0     {('lost ' * 60)}… (no_json)",
        "  B 0.5   delayed (the first of 2)",
        "",
    ]
    assert json.loads(raymill("evaluate", "changed", A, B, "--json").stdout) == [CHANGED]
    assert evaluations.seen[-1].query["better"] == "either"
    assert raymill("evaluate", "changed", A, B, "-n", "1").stderr == "these are the first 1: -n shows more\n"


def test_the_leaderboard_shows_intervals_and_why_one_is_missing(
    raymill: Command,
    evaluations: Service,
) -> None:
    done = raymill("evaluate", "leaderboard", "--model", "support", "-n", "7")
    assert done.returncode == 0, done.stderr
    assert evaluations.seen[-1].query == {"model": "support", "limit": "7"}
    first, second, paid = done.stdout.splitlines()[1:]
    assert first.split()[:8] == ["heldout", A, "production", "0.97", "0.936", "to", "0.986", "0.012"]
    assert second.split()[:5] == ["heldout", B, "-", "0.97", "-"]
    assert [paid.split()[1], paid.split()[10]] == ["gateway:gpt", "0.0123"]
    assert done.stderr == f"{B} has no interval: its samples are gone\n"
    assert json.loads(raymill("evaluate", "leaderboard", "--json").stdout)["standings"][0] == STANDING


def test_run_sends_tasks_with_their_paths_seen_from_here(
    raymill: Command,
    evaluations: Service,
) -> None:
    done = raymill(
        "evaluate", "run", "gateway:openai/gpt", "-t", "heldout_f1", "-t", "{benchmark: gsm8k, file: g.jsonl, num_fewshot: 0}",
        "--dataset", "support@2", "-n", "50", "--concurrency", "3", "--no-wait",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"{PIPELINE}\n"), done.stderr
    body = evaluations.seen[-1].body
    assert (body["target"], body["dataset"], body["limit"]) == ("gateway:openai/gpt", "support@2", 50)
    assert (body["tasks"][0], body["tasks"][1]["file"]) == ("heldout_f1", str(Path.cwd() / "g.jsonl"))
    assert body["ask"]["concurrency"] == 3
    refused = raymill("evaluate", "run", "gateway:gpt", "-t", "{benchmark: mmlu, file: m.jsonl}")
    assert refused.returncode == 2
    assert "mmlu needs likelihoods of given text, and gateway:gpt only answers" in refused.stderr


def test_judge_sends_whose_answers_what_counts_and_whose_labels(
    raymill: Command,
    evaluations: Service,
    tmp_path: Path,
) -> None:
    (tmp_path / "rubric.txt").write_text("Be kind.")
    done = raymill(
        "evaluate", "judge", A, "gateway:gpt", "--judge", "strict", "--rubric", f"@{tmp_path / 'rubric.txt'}",
        "--labels", "l.jsonl", "--labels-by", "two agents", "--no-wait",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"{PIPELINE}\n"), done.stderr
    body = evaluations.seen[-1].body
    assert (body["a"], body["b"], body["judge"], body["kind"]) == (A, "gateway:gpt", "strict", "pairwise")
    assert (body["rubric"], body["labels"]["source"]) == ("Be kind.", "two agents")
    refused = raymill("evaluate", "judge", A, "--judge", "strict")
    assert (refused.returncode, "say what makes an answer good" in refused.stderr) == (2, True)


def test_both_can_be_drawn(
    raymill: Command,
    evaluations: Service,
    tmp_path: Path,
) -> None:
    one, two = tmp_path / "one.svg", tmp_path / "two.png"
    assert raymill("evaluate", "compare", A, B, "--plot", str(one)).returncode == 0
    assert evaluations.seen[-1].query == {"format": "svg", "a": A, "b": B}
    assert raymill("evaluate", "leaderboard", "--task", "t", "--plot", str(two), "--json").returncode == 0
    assert evaluations.seen[-1].query == {"format": "png", "task": "t", "limit": "100"}
    assert (one.read_text(), two.read_text()) == ("1", "2")
    wrong = raymill("evaluate", "leaderboard", "--plot", "board.pdf")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "error: --plot is board.pdf, a picture is .png or .svg: change its ending\n",
    )


def test_both_clients_compare_and_rank(evaluations: Service, client: Raymill) -> None:
    assert client.evaluations.compare(A, B).tasks[0].verdict == "better"
    assert client.evaluations.leaderboard(task="heldout").standings[1].note == "its samples are gone"
    assert [each.index for each in client.evaluations.changed(A, B, limit=5)] == [7]
    assert client.evaluations.compare_plot(A, B, task="heldout") == b"1"
    assert client.evaluations.leaderboard_plot(model="support", image="svg") == b"2"
    sent = [each.query for each in evaluations.seen]

    async def the_same() -> None:
        async with AsyncRaymill(evaluations.url, "rk-test") as connected:
            both = connected.evaluations
            assert (await both.compare(A, B)).tasks[0].p_value == 0.0018
            assert len((await both.leaderboard(task="heldout")).standings) == 3
            assert [each.index async for each in both.changed(A, B, limit=5)] == [7]
            assert await both.compare_plot(A, B, task="heldout") == b"1"
            assert await both.leaderboard_plot(model="support", image="svg") == b"2"

    asyncio.run(the_same())
    assert [each.query for each in evaluations.seen[len(sent) :]] == sent
