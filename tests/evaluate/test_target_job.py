"""Targets behind HTTP: what they score, what is kept of their answers, and what a killed job asks again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.evaluate.benchmark_rows import gsm8k, humaneval
from tests.evaluate.pools import InThisProcess
from tests.evaluate.remote import asked, context_for, number_of, right, says, write_rows
from tests.lines import write_lines
from tests.serve.scripted_upstream import Script, error, reset, scripted, stall
from tests.serve.scripted_upstream import says as replies

from raymill.evaluate import actors, jobs
from raymill.evaluate.hf_model import HfModel
from raymill.evaluate.target_config import TargetEvaluation, backend_of
from raymill.evaluate.target_job import run_evaluate_target
from raymill.policies.errors import Conflict, Denied, Invalid, NotFound, Unavailable


@pytest.fixture(scope="module")
def upstream() -> Iterator[Script]:
    with scripted() as script:
        yield script


@pytest.fixture(autouse=True)
def nothing_yet(upstream: Script) -> None:
    upstream.seen.clear()
    upstream.acts.clear()


def target(upstream: Script) -> str:
    return f"{upstream.url}/v1#m"


def samples(root: Path, artifact: str, task: str) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = pq.read_table(root / "artifacts" / artifact / f"{task}.parquet").to_pylist()
    return table


def test_all_held_out_measures_judge_answers_that_are_asked_once(
    upstream: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path, 12)
    monkeypatch.setenv("RAYMILL_TARGET_KEY_X", "sk-secret-of-the-endpoint")
    upstream.on(
        "m",
        replies(503, error("warming up")),
        reset,
        replies(429, error("slow down"), retry_after_ms="30"),
        replies(200, b'{"choices": []}'),
        says(lambda seen: right(seen) if number_of(seen) % 4 else "mauve"),
    )
    tasks = ["heldout_exact_match", "heldout_f1", {"json_schema": {"type": "object"}}]
    context = context_for(tmp_path, target(upstream), tasks, key_env="RAYMILL_TARGET_KEY_X")
    outcome = run_evaluate_target(context)
    result = outcome.result
    assert result["metrics"] == {"heldout_exact_match": 0.75, "heldout_f1": 0.75, "heldout_json_schema": 0.0}
    assert len(upstream.seen) == 12 + 4
    first = upstream.seen[0]
    assert (first.path, first.body["temperature"]) == ("/v1/chat/completions", 0)
    assert first.headers["authorization"] == "Bearer sk-secret-of-the-endpoint"
    used = {
        "answers": 12,
        "refused": 0,
        "prompt_tokens": 120,
        "completion_tokens": 60,
        "cost_micro_usd": None,
    }
    assert (result["usage"], result["tasks"]["heldout_f1"]) == (used, used)
    assert set(result["backends"].values()) == {"generation"}
    table = samples(tmp_path, result["artifact"], "heldout_exact_match")
    assert [row["index"] for row in table] == list(range(12))
    assert (table[0]["prompt"], table[0]["answer"], table[0]["error"]) == ("user: colour 0", "mauve", "")
    # The key is nowhere: not in what was kept, said or told.
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"sk-secret" not in kept + json.dumps([result, context.events], default=str).encode()


def test_a_refused_question_is_a_wrong_answer_and_its_reason_is_kept(
    upstream: Script, tmp_path: Path
) -> None:
    write_rows(tmp_path, 6)

    async def act(seen: Any, writer: Any) -> None:
        filtered = number_of(seen) == 3
        await (replies(400, error("content filter")) if filtered else says(right))(seen, writer)

    upstream.on("m", act)
    outcome = run_evaluate_target(context_for(tmp_path, target(upstream), ["heldout_exact_match"]))
    assert outcome.result["metrics"] == {"heldout_exact_match": pytest.approx(5 / 6)}
    assert (outcome.result["usage"]["answers"], outcome.result["usage"]["refused"]) == (5, 1)
    assert (
        samples(tmp_path, outcome.result["artifact"], "heldout_exact_match")[3]["error"]
        == "400: content filter"
    )


@pytest.mark.parametrize(
    ("status", "headers", "kind", "reason"),
    [
        (401, {}, Denied, "m refuses the key: 401: no"),
        (404, {}, NotFound, "does not answer for m: 404: no: name a model that it has"),
        (400, {}, Invalid, "m refuses every question: 400: no"),
        (429, {"retry_after": "86400"}, Conflict, "raise its limit or budget"),
        (500, {}, Unavailable, "m failed 2 times at one question"),
    ],
)
def test_what_no_retry_helps_ends_the_job_with_the_cure(
    upstream: Script, tmp_path: Path, status: int, headers: dict[str, str], kind: type[Exception], reason: str
) -> None:
    write_rows(tmp_path, 20)
    upstream.on("m", replies(status, error("no"), **headers))
    context = context_for(tmp_path, target(upstream), ["heldout_exact_match"], ask={"attempts": 2})
    with pytest.raises(kind, match=reason):
        run_evaluate_target(context)
    assert len(upstream.seen) <= 8 + 4


def test_a_key_that_the_service_lacks_is_named(upstream: Script, tmp_path: Path) -> None:
    write_rows(tmp_path, 1)
    context = context_for(tmp_path, target(upstream), ["heldout_f1"], key_env="RAYMILL_TARGET_KEY_GONE")
    with pytest.raises(Invalid, match="environment has no RAYMILL_TARGET_KEY_GONE: export it"):
        run_evaluate_target(context)


CHILD = """
import sys
from pathlib import Path
from tests.evaluate.pools import InThisProcess
from tests.evaluate.remote import context_for
from raymill.evaluate.target_job import run_evaluate_target
run_evaluate_target(context_for(Path(sys.argv[1]), sys.argv[2], ["heldout_exact_match"]))
"""


def test_a_killed_job_asks_only_for_what_is_missing(upstream: Script, tmp_path: Path) -> None:
    write_rows(tmp_path, 24)
    answered, stalled = threading.Semaphore(0), 13

    async def act(seen: Any, writer: Any) -> None:
        if number_of(seen) >= stalled:
            await stall(seen, writer)
        await says(right)(seen, writer)
        answered.release()

    upstream.on("m", act)
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), target(upstream)])
    try:
        for _ in range(stalled):
            assert answered.acquire(timeout=60)
        log = tmp_path / "work" / "remote" / "samples" / "remote-replies.jsonl"
        deadline = time.monotonic() + 30
        while log.read_bytes().count(b"\n") < stalled and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    before = Counter(map(asked, upstream.seen))
    upstream.on("m", says(right))
    upstream.seen.clear()
    context = context_for(tmp_path, target(upstream), ["heldout_exact_match"])
    outcome = run_evaluate_target(context)
    assert sorted(map(number_of, upstream.seen)) == list(range(stalled, 24))
    assert all(before[f"colour {number}"] == 1 for number in range(stalled))
    assert outcome.result["metrics"] == {"heldout_exact_match": 1.0}
    assert (outcome.result["usage"]["answers"], outcome.result["usage"]["prompt_tokens"]) == (24, 240)
    assert ("log", {"text": "13 answers are there from an earlier attempt"}) in context.events


def test_functions_with_dots_go_as_tools_and_come_back(upstream: Script, tmp_path: Path) -> None:
    function = {
        "name": "weather.get",
        "description": "The weather.",
        "parameters": {"type": "dict", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
    questions = [
        {
            "id": f"q{n}",
            "question": [[{"role": "user", "content": f"weather {n}"}]],
            "function": [function],
            "ground_truth": [{"weather.get": {"city": ["Rome"]}}],
        }
        for n in range(4)
    ]
    write_lines(tmp_path / "bfcl.jsonl", questions)
    wrong: dict[int, str | list[dict[str, Any]]] = {
        1: "Sunny.",
        2: [{"name": "weather_get", "arguments": "{not json"}],
        3: [{"name": "weather_get", "arguments": '{"city": "Oslo"}'}],
    }
    call = [{"name": "weather_get", "arguments": '{"city": "Rome"}'}]
    upstream.on("m", says(lambda seen: wrong.get(number_of(seen), call)))
    outcome = run_evaluate_target(
        context_for(tmp_path, target(upstream), [{"bfcl": str(tmp_path / "bfcl.jsonl")}], dataset=None)
    )
    assert outcome.result["metrics"] == {"bfcl": 0.25}
    assert upstream.seen[0].body["tools"][0]["function"]["name"] == "weather_get"
    reasons = [row["reason"] for row in samples(tmp_path, outcome.result["artifact"], "bfcl")]
    assert reasons[:3] == ["", "no_call", "unreadable"]


def test_programs_of_chat_answers_are_run(upstream: Script, tmp_path: Path) -> None:
    problems = [
        humaneval(
            n,
            prompt=f'import math\n\n\ndef add{n}(a, b):\n    """Sum of a and b, {n}"""\n',
            test="def check(candidate):\n    assert candidate(2, 3) == 5\n",
            entry_point=f"add{n}",
        )
        for n in range(3)
    ]
    path = write_lines(tmp_path / "he.jsonl", problems)

    def answer(seen: Any) -> str:
        if "add0" in asked(seen):
            return "Here:\n```python\ndef add0(a, b):\n    return int(math.fsum([a, b]))\n```\nIt adds."
        return (
            "    return a + b\n" if "add1" in asked(seen) else "```python\ndef add2(a, b):\n    return a\n```"
        )

    upstream.on("m", says(answer))
    task = {"humaneval": str(path)}
    outcome = run_evaluate_target(context_for(tmp_path, target(upstream), [task], dataset=None))
    assert outcome.result["metrics"] == {"humaneval": pytest.approx(2 / 3)}
    assert [row["score"] for row in samples(tmp_path, outcome.result["artifact"], "humaneval")] == [1, 1, 0]


def test_gsm8k_is_answered_with_the_prompts_of_lm_eval(upstream: Script, tmp_path: Path) -> None:
    questions = gsm8k(6)
    path = write_lines(tmp_path / "gsm8k.jsonl", questions)
    truth = {row["question"]: row["answer"] for row in questions}

    def answer(seen: Any) -> str:
        question = asked(seen).removeprefix("Question: ").removesuffix("\nAnswer:")
        return f"{truth[question]}\n\nQuestion: and then #### 12345"

    upstream.on("m", says(answer))
    task = {"benchmark": "gsm8k", "file": str(path), "num_fewshot": 0}
    outcome = run_evaluate_target(context_for(tmp_path, target(upstream), [task], dataset=None))
    assert outcome.result["metrics"] == {"gsm8k": 1.0}
    assert (len(upstream.seen), outcome.result["tasks"]["gsm8k"]["answers"]) == (6, 6)


def test_a_version_is_measured_as_in_a_recipe(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path, 4)
    model = HfModel(str(tiny_model))
    monkeypatch.setattr(jobs, "ActorPool", lambda *_, **__: InThisProcess(model))
    monkeypatch.setattr(jobs, "pool_size", lambda _: None)
    monkeypatch.setattr(actors, "join_ray", lambda: None)
    version = {"artifact": "model/a/1", "tokenizer": "model/a/1", "variant": "", "file": ""}
    context = context_for(tmp_path, "a@1", ["heldout_exact_match", "heldout_f1"], version=version)
    result = run_evaluate_target(context).result
    assert set(result["metrics"]) == {"heldout_exact_match", "heldout_f1"}
    assert (result["usage"], result["samples"]["heldout_f1"]) == (None, 4)
    table = samples(tmp_path, result["artifact"], "heldout_f1")
    assert (table[0]["variant"], table[0]["prompt"].endswith("<|assistant|>")) == ("train", True)


def test_a_task_that_needs_likelihoods_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    task = tmp_path / "t.yaml"
    task.write_text("task: t\noutput_type: multiple_choice\n")
    needs = [
        {"benchmark": "mmlu", "file": "/m.jsonl"},
        {"benchmark": "hellaswag", "file": "/h.jsonl"},
        {"perplexity": "/p.txt"},
        {"lm_eval": str(task)},
    ]
    for each in needs:
        with pytest.raises(ValueError, match="needs likelihoods of given text, and gateway:gpt only answers"):
            TargetEvaluation.model_validate({"target": "gateway:gpt", "tasks": [each]})
        assert backend_of(TargetEvaluation.model_validate({"target": "a@1", "tasks": [each]}).tasks[0]) == (
            "log-likelihood"
        )
    for text, reason in (
        ("gateway:", "names no model"),
        ("https://h/v1", "write it as https://HOST/v1#MODEL"),
    ):
        with pytest.raises(ValueError, match=reason):
            TargetEvaluation.model_validate({"target": text})
    with pytest.raises(ValueError, match="takes no key of yours"):
        TargetEvaluation.model_validate({"target": "gateway:gpt", "key_env": "RAYMILL_TARGET_KEY_X"})
