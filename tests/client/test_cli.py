"""The `raymill` command, run as a user runs it: a process, its output and its exit code."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from raymill.client.cli.main import COMMANDS

if TYPE_CHECKING:
    from tests.client.conftest import Reply, Service

    Replies = type[Reply]
    Refusal = Callable[..., Reply]
    Command = Callable[..., subprocess.CompletedProcess[str]]

PIPELINE = "11111111-1111-1111-1111-111111111111"
JOB = "22222222-2222-2222-2222-222222222222"
MOMENT = "2026-01-02T03:04:05Z"
LATER = "2026-01-02T03:06:10Z"
RUN = [sys.executable, "-m", "raymill.client.cli.main"]


def job(state: str, **more: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "id": JOB,
        "pipeline_id": PIPELINE,
        "step": "train",
        "kind": "train",
        "queue": "heavy",
        "name": "tiny",
        "state": state,
        "attempt": 1,
        "max_attempts": 3,
        "epoch": 1,
        "address": "0a1b2c3d4e5f",
        "reused_job_id": None,
        "config": {},
        "result": None,
        "error": None,
        "created_at": MOMENT,
        "started_at": MOMENT,
        "finished_at": None,
    }
    return {**base, **more}


def pipeline(state: str, *jobs: dict[str, Any], **more: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "id": PIPELINE,
        "name": "tiny",
        "state": state,
        "error": None,
        "created_by": "admin",
        "created_at": MOMENT,
        "finished_at": None,
        "recipe": {},
        "jobs": list(jobs),
    }
    return {**base, **more}


def event(number: int, kind: str, data: dict[str, Any]) -> str:
    body = {"id": number, "job_id": JOB, "pipeline_id": PIPELINE, "kind": kind, "data": data, "at": MOMENT}
    return f"id: {number}\nevent: {kind}\ndata: {json.dumps(body)}\n\n"


END = "event: end\ndata: {}\n\n"
STEP = {"step": 120, "total": 375, "loss": 0.4119, "tokens_per_s": 8500.2, "eta_s": 40}
TRAINED = {
    "digest": "d",
    "artifact": "model/tiny/x",
    "final_loss": 0.0213,
    "steps": 375,
    "tokens_per_s": 8500.0,
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    for name in ("corpus.txt", "train.jsonl", "heldout.jsonl"):
        (tmp_path / name).write_text("x\n")
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "model: tiny\nbase: {pretrain: {text: corpus.txt}}\ndataset: {train: train.jsonl, test: heldout.jsonl}\n"
        "quantize: [Q8_0]\n"
    )
    return path


def processor_s() -> float:
    """What ended children took of it: as long as they take where nothing else runs, however busy this machine is."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_takes_less_than_three_tenths_of_a_second_and_names_every_command() -> None:
    took: list[float] = []
    for _ in range(5):
        start = processor_s()
        done = subprocess.run([*RUN, "--help"], capture_output=True, text=True, check=True)
        took.append(processor_s() - start)
    for group in COMMANDS.values():
        for name in group:
            assert f"\n  {name} " in done.stdout
    assert min(took) < 0.3


@pytest.mark.parametrize("noun", [name for group in COMMANDS.values() for name in group])
def test_every_command_has_help_and_takes_json(noun: str) -> None:
    from typer.main import get_command
    from typer.testing import CliRunner

    entry = next(group[noun] for group in COMMANDS.values() if noun in group)
    app = getattr(__import__(f"raymill.client.cli.{entry.module}", fromlist=["x"]), entry.app)
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0, shown.output
    for verb in verbs_of(get_command(app)):
        assert any("--json" in parameter.opts for parameter in verb.params), verb.name


def verbs_of(command: Any) -> list[Any]:
    """The commands below a noun, and below the nouns in it; a command without any by itself."""
    below = getattr(command, "commands", None)
    if below is None:
        return [command]
    return [verb for each in below.values() for verb in verbs_of(each)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["job"], "error: no command 'job': did you mean jobs?\n"),
        (["jobs", "lst"], "No such command 'lst'"),
        (["jobs", "list", "--state", "broken"], "Invalid value for '--state'"),
        (["jobs", "logs"], "Missing argument"),
        (["run", "--dry"], "No such option"),
        (["promotion", "create", "tiny", "1", "--at-least", "nonsense"], "'nonsense' is no gate"),
        (["user", "create", "Bad Name"], "error: name: must be text that matches "),
    ],
)
def test_bad_usage_is_exit_2(raymill: Command, arguments: list[str], message: str) -> None:
    done = raymill(*arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_wrong_recipe_is_one_line_and_exit_2(raymill: Command, recipe: Path, service: Service) -> None:
    recipe.write_text(recipe.read_text() + "train: {lora: {r: 0}}\n")
    done = raymill("run", str(recipe))
    assert (done.returncode, done.stderr) == (2, "error: train.lora.r: must be at least 1, got 0\n")
    assert service.seen == []


def test_what_the_service_finds_wrong_with_a_recipe_is_exit_2(
    raymill: Command, recipe: Path, service: Service, refusal: Refusal
) -> None:
    service.on(
        "POST", "/api/v1/pipelines", refusal(422, "invalid", "base.hub: no repository a/b", param="base.hub")
    )
    done = raymill("run", str(recipe))
    assert (done.returncode, done.stderr) == (2, "error: base.hub: no repository a/b\n")


def test_no_service_is_one_line_and_exit_1(home: Path) -> None:
    env = {**os.environ, "RAYMILL_URL": "http://127.0.0.1:9", "RAYMILL_HOME": str(home)}
    done = subprocess.run([*RUN, "status"], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no answer from http://127.0.0.1:9 (")
    assert done.stderr.count("\n") == 1


def test_a_run_is_followed_to_its_end_and_printed_as_a_table(
    raymill: Command, recipe: Path, service: Service, reply: Replies
) -> None:
    reused = job(
        "succeeded",
        id=str(uuid.uuid4()),
        step="dataset",
        kind="dataset",
        reused_job_id=str(uuid.uuid4()),
        result={"digest": "d", "train_rows": 2000, "test_rows": 200},
        finished_at=MOMENT,
    )
    running = pipeline("running", reused, job("running"))
    done = pipeline("succeeded", reused, job("succeeded", result=TRAINED, finished_at=LATER))
    service.on("POST", "/api/v1/pipelines", reply(status=202, data=running))
    service.on("GET", f"/api/v1/pipelines/{PIPELINE}", reply(data=running), reply(data=done))
    service.on(
        "GET",
        f"/api/v1/pipelines/{PIPELINE}/events",
        reply(chunks=(event(1, "step", STEP),), cut=True),
        reply(chunks=(event(2, "log", {"text": "careful"}), event(3, "state", {"state": "succeeded"}), END)),
    )
    ended = raymill("run", str(recipe))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        "STEP     STATE      TIME  RESULT",
        "dataset  reused     -     2,000 training rows, 200 held out",
        "train    succeeded  2:05  loss 0.0213, 375 steps, 8,500 tokens/s",
    ]
    assert "train              step 120 of 375, loss 0.4119, 8,500 tokens/s, 0:40 left\n" in ended.stderr
    assert "train              careful\n" in ended.stderr
    assert "dataset            reused: 2,000 training rows" in ended.stderr
    posted = service.seen[0].body["recipe"]
    assert posted["quantize"]["types"] == ["Q8_0"]
    assert Path(posted["dataset"]["train"]).is_absolute()


def test_a_failed_run_is_one_line_with_its_reason_and_exit_1(
    raymill: Command, recipe: Path, service: Service, reply: Replies
) -> None:
    failed = job("failed", error="row 7 has 2000 tokens,\n a row holds 1024", finished_at=LATER)
    over = pipeline("failed", failed, error="train: row 7 has 2000 tokens, a row holds 1024")
    service.on("POST", "/api/v1/pipelines", reply(status=202, data=over))
    service.on("GET", f"/api/v1/pipelines/{PIPELINE}", reply(data=over))
    service.on("GET", f"/api/v1/pipelines/{PIPELINE}/events", reply(chunks=(END,)))
    done = raymill("run", str(recipe), "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["jobs"][0]["state"] == "failed"
    assert done.stderr.splitlines()[-1] == (
        f"error: pipeline {PIPELINE} failed: train: row 7 has 2000 tokens, a row holds 1024; "
        f"`raymill jobs logs {JOB}` tells more"
    )


def test_no_wait_prints_the_id_alone(
    raymill: Command, recipe: Path, service: Service, reply: Replies
) -> None:
    service.on("POST", "/api/v1/pipelines", reply(status=202, data=pipeline("running")))
    done = raymill("run", str(recipe), "--no-wait")
    assert (done.returncode, done.stdout) == (0, f"{PIPELINE}\n")


def test_train_posts_the_recipe_up_to_training(
    raymill: Command, recipe: Path, service: Service, reply: Replies
) -> None:
    service.on("POST", "/api/v1/pipelines", reply(status=202, data=pipeline("running")))
    assert raymill("train", "start", str(recipe), "--no-wait").returncode == 0
    posted = service.seen[0].body["recipe"]
    assert posted["quantize"] is posted["serve"] is None
    assert posted["model"] == "tiny"


def test_a_dry_run_shows_the_resolved_recipe_and_its_steps(
    raymill: Command, recipe: Path, service: Service, reply: Replies
) -> None:
    steps = [{"step": "train", "kind": "train", "depends_on": ["base", "dataset"], "config": {}}]
    service.on("POST", "/api/v1/pipelines", reply(data={"recipe": {"model": "tiny"}, "steps": steps}))
    done = raymill("run", str(recipe), "--dry-run")
    assert done.stdout == "model: tiny\n\nSTEP   KIND   AFTER\ntrain  train  base, dataset\n"
    assert service.seen[0].body["dry_run"] is True


def test_interrupting_a_run_is_exit_130_and_says_how_to_go_on(
    recipe: Path, service: Service, home: Path, reply: Replies
) -> None:
    running = pipeline("running", job("running"))
    service.on("POST", "/api/v1/pipelines", reply(status=202, data=running))
    service.on("GET", f"/api/v1/pipelines/{PIPELINE}", reply(data=running))
    service.on(
        "GET", f"/api/v1/pipelines/{PIPELINE}/events", reply(chunks=(event(1, "step", STEP),), cut=True)
    )
    env = {**os.environ, "RAYMILL_URL": service.url, "RAYMILL_API_KEY": "k", "RAYMILL_HOME": str(home)}
    process = subprocess.Popen(
        [*RUN, "run", str(recipe)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A run in the background (nohup, CI) hands its children a SIGINT that is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 (one thread forks)
    )
    deadline = time.monotonic() + 60
    while not any(seen.path.endswith("/events") for seen in service.seen) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert f"raymill pipeline watch {PIPELINE}" in err
    assert "Traceback" not in err


def test_a_list_is_a_table_or_json(raymill: Command, service: Service, reply: Replies) -> None:
    service.on("GET", "/api/v1/jobs", reply(data={"data": [job("running")], "next_cursor": None}))
    shown = raymill("jobs", "list").stdout.splitlines()
    assert shown[0].split() == ["ID", "NAME", "STEP", "STATE", "ATTEMPT", "CREATED", "WAITING"]
    assert shown[1].split()[:5] == [JOB, "tiny", "train", "running", "1/3"]
    assert json.loads(raymill("jobs", "list", "--json").stdout)[0]["id"] == JOB


def test_a_refused_promotion_is_exit_1_with_its_reasons(
    raymill: Command, service: Service, reply: Replies
) -> None:
    decision = {
        "id": PIPELINE,
        "llm": "tiny",
        "version": 1,
        "alias": "production",
        "allowed": False,
        "state": "refused",
        "reasons": ["heldout_exact_match is 0.5, at least 0.9 is required"],
        "input": {},
        "input_digest": "i",
        "bundle_digest": "b",
        "requested_by": "admin",
        "created_at": MOMENT,
    }
    service.on("POST", "/api/v1/promotions", reply(status=201, data=decision))
    done = raymill("promotion", "create", "tiny", "1", "--at-least", "heldout_exact_match=0.9")
    assert done.returncode == 1
    assert done.stderr == (
        "error: tiny version 1 may not become production: heldout_exact_match is 0.5, at least 0.9 is required\n"
    )
    assert service.seen[0].body["require"] == {"heldout_exact_match": {"at_least": 0.9}}
    raymill("promotion", "create", "tiny", "1", "--not-significantly-worse-than", "arc/easy=production")
    asked = service.seen[1].body["require"]
    assert asked == {"arc/easy": {"not_significantly_worse_than": "production"}}
    assert (
        raymill("promotion", "create", "tiny", "1", "--not-significantly-worse-than", "arc").returncode == 2
    )


def test_a_new_key_stands_alone_on_standard_output(
    raymill: Command, service: Service, reply: Replies
) -> None:
    made = {
        "id": JOB,
        "account": "ann",
        "name": "laptop",
        "prefix": "rk-abc",
        "created_at": MOMENT,
        "expires_at": None,
        "revoked_at": None,
        "key": "rk-abcdef",
    }
    service.on("POST", "/api/v1/keys", reply(status=201, data=made))
    assert raymill("key", "create", "ann", "laptop").stdout == "rk-abcdef\n"


def test_chat_reads_standard_input_and_writes_the_answer(
    raymill: Command, service: Service, reply: Replies
) -> None:
    chunk = 'data: {"choices":[{"delta":{"content":"Hello"}}]}\n\n'
    service.on("POST", "/v1/chat/completions", reply(chunks=(chunk, "data: [DONE]\n\n")))
    done = raymill("chat", "tiny", "--system", "be kind", input="hi")
    assert (done.returncode, done.stdout) == (0, "Hello\n")
    assert service.seen[0].body["messages"] == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hi"},
    ]
