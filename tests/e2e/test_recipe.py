"""The main job, whole: a recipe in, a governed, quantized, served model out; and what refuses it on the way."""

from __future__ import annotations

import shutil
from pathlib import Path

import openai
import pytest
from ray.job_submission import JobStatus, JobSubmissionClient
from tests.conftest import RunningService
from tests.e2e.conftest import RAYMILL, MakeRecipe, raymill, rows
from tests.evaluate.benchmark_rows import humaneval
from tests.lines import write_lines

from raymill.client.errors import ApiError
from raymill.client.sdk import Raymill
from raymill.client.types import Pipeline
from raymill.cluster.service import read_service
from raymill.cluster.settings import Settings

pytestmark = [pytest.mark.usefixtures("service"), pytest.mark.timeout(900)]

NAME = "triage"
SECTIONS = {
    "evaluate": {"tasks": ["heldout_exact_match"], "actors": 1, "max_new_tokens": 16},
    "quantize": {"types": ["F16", "Q8_0"], "parity_prompts": 4, "max_new_tokens": 8},
    "promote": {"to": "production", "require": {"heldout_exact_match": {"at_least": 0.0}}},
    "serve": {"engine": "llama_cpp", "quantization": "Q8_0", "cpu_threads": 1},
}


@pytest.fixture(scope="module")
def recipe(make_recipe: MakeRecipe) -> Path:
    return make_recipe(NAME, train={"workers": 2, "zero": 1}, **SECTIONS)


@pytest.fixture(scope="module")
def served(recipe: Path, client: Raymill) -> Pipeline:
    """Run it once for all tests of this file."""
    done = raymill("run", str(recipe), timeout_s=800)
    assert done.returncode == 0, done.stderr
    newest = next(iter(client.pipelines.list(name=NAME)))
    return client.pipelines.get(newest.id)


def test_every_step_ran_and_left_its_result(served: Pipeline) -> None:
    results = {job.step: job.result or {} for job in served.jobs}
    assert [job.step for job in served.jobs] == [
        "dataset",
        "base",
        "evaluate-base",
        "train",
        "evaluate",
        "quantize",
        "evaluate-quantized",
        "promote",
        "serve",
    ]
    assert {file["type"] for file in results["quantize"]["files"]} == {"F16", "Q8_0"}
    assert results["evaluate-quantized"]["metrics"]["Q8_0"].keys() == {"heldout_exact_match"}
    assert results["promote"]["allowed"]


def test_the_version_answers_over_http(served: Pipeline, service: RunningService, data: Path) -> None:
    message = rows(data / "heldout.jsonl")[0]["messages"][:-1]
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=service.api_key) as chat:
        assert NAME in [model.id for model in chat.models.list()]
        answer = chat.chat.completions.create(model=NAME, messages=message, max_tokens=8, temperature=0)
        stream = chat.chat.completions.create(
            model=NAME, messages=message, max_tokens=8, temperature=0, stream=True
        )
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(pieces) == answer.choices[0].message.content
    assert served.state == "succeeded"


def test_the_served_version_is_watched_for_drift(served: Pipeline, client: Raymill, data: Path) -> None:
    assert served.state == "succeeded"
    canary = {"file": str(data / "heldout.jsonl"), "max_new_tokens": 8}
    client.drift.add(NAME, {"target": f"{NAME}@production", "canary": canary})
    for _ in range(2):
        ended = client.jobs.wait(client.drift.run(NAME).job_id)
        assert ended.state == "succeeded", ended.error
    again, first = client.drift.runs(NAME)
    assert (first.severity, first.baseline, first.version) == ("none", True, 1)
    assert first.canary is not None
    assert 0 < first.canary["prompts"] <= 8
    assert again.canary is not None
    assert (again.baseline, again.canary["compared"]["difference"]) == (False, 0)


def test_the_lineage_is_whole_and_the_bytes_are_the_signed_ones(served: Pipeline, client: Raymill) -> None:
    lineage = client.llms.lineage(NAME, 1)
    assert lineage.recipe == served.recipe
    trained = next(job.result or {} for job in served.jobs if job.step == "train")
    assert {each["artifact_name"] for each in lineage.attestations} == {
        lineage.model.name,
        trained["adapter"],
        *(artifact.name for artifact in lineage.quantized),
    }
    assert [(move.alias, move.version) for move in lineage.alias_moves] == [("production", 1)]
    assert all(file.sha256 for file in lineage.model.files)
    assert client.llms.verify(NAME, 1).verified


def test_a_second_run_reuses_every_finished_step(served: Pipeline, recipe: Path, client: Raymill) -> None:
    again = raymill("run", str(recipe))
    assert again.returncode == 0, again.stderr
    newest = client.pipelines.get(next(iter(client.pipelines.list(name=NAME))).id)
    assert newest.id != served.id
    reused = {job.step for job in newest.jobs if job.reused_job_id}
    assert reused == {job.step for job in newest.jobs} - {"promote", "serve"}
    assert "reused" in again.stdout
    assert len(list(client.llms.versions(NAME))) == 1


def test_a_recipe_by_ray_job_submit_ends_in_the_same_registry(
    served: Pipeline, recipe: Path, client: Raymill
) -> None:
    jobs = JobSubmissionClient(read_service(Settings()).dashboard_url)
    submitted = jobs.submit_job(entrypoint=f"{RAYMILL} train {recipe}")
    for _ in jobs_until_done(jobs, submitted):
        pass
    assert jobs.get_job_status(submitted) == JobStatus.SUCCEEDED, jobs.get_job_logs(submitted)
    newest = client.pipelines.get(next(iter(client.pipelines.list(name=NAME))).id)
    assert [job.step for job in newest.jobs] == ["dataset", "base", "train"]
    assert newest.id != served.id
    assert newest.state == "succeeded"


def jobs_until_done(jobs: JobSubmissionClient, submitted: str) -> list[JobStatus]:
    """Its states, once a second, until it has ended or five minutes are over."""
    import time

    seen = []
    for _ in range(300):
        seen.append(jobs.get_job_status(submitted))
        if seen[-1].is_terminal():
            break
        time.sleep(1)
    return seen


def test_a_base_that_exists_is_taken_from_its_directory(
    served: Pipeline, make_recipe: MakeRecipe, client: Raymill, service: RunningService
) -> None:
    path = service.home / "artifacts" / client.llms.lineage(NAME, 1).base.name
    done = raymill("train", str(make_recipe("on-a-path", base={"path": str(path)}, **SECTIONS)))
    assert done.returncode == 0, done.stderr
    lineage = client.llms.lineage("on-a-path", 1)
    assert lineage.base.name.startswith("base/on-a-path/")
    assert lineage.base.digest == client.llms.lineage(NAME, 1).base.digest
    assert served.state == "succeeded"


def test_a_policy_that_is_not_met_refuses_and_moves_nothing(
    served: Pipeline, make_recipe: MakeRecipe, client: Raymill
) -> None:
    strict = {
        **SECTIONS,
        "promote": {"to": "production", "require": {"heldout_exact_match": {"at_least": 1.5}}},
    }
    refused = raymill("run", str(make_recipe(NAME, train={"workers": 2, "zero": 1}, **strict)))
    assert refused.returncode == 1
    assert one_error(refused.stderr).count("heldout_exact_match is 0, production requires at least 1.5") == 1
    moves = list(client.aliases.history(NAME))
    assert {move.version for move in moves} == {1}
    assert not next(iter(client.promotions.list(llm=NAME))).allowed
    assert served.state == "succeeded"


def test_tampered_weights_are_not_promoted(
    served: Pipeline, recipe: Path, client: Raymill, service: RunningService
) -> None:
    weights = service.home / "artifacts" / client.llms.lineage(NAME, 1).model.name / "model.safetensors"
    good = weights.read_bytes()
    moves = len(list(client.aliases.history(NAME)))
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    try:
        refused = raymill("run", str(recipe))
        with pytest.raises(ApiError, match=r"model\.safetensors"):
            client.llms.verify(NAME, 1)
    finally:
        weights.write_bytes(good)
    assert refused.returncode == 1
    assert "model.safetensors" in one_error(refused.stderr)
    assert "restore it from a backup" in one_error(refused.stderr)
    assert len(list(client.aliases.history(NAME))) == moves
    assert served.state == "succeeded"


MADE = "the base of the recipe that is served"


@pytest.mark.parametrize(
    ("change", "exit_code", "says"),
    [
        ({"train": {"lora": {"r": 0}}}, 2, "train.lora.r"),
        ({"trian": {}}, 2, "trian"),
        ({"dataset": {"train": "nowhere.jsonl", "test": "heldout.jsonl"}}, 2, "nowhere.jsonl"),
        ({"base": {"path": "no-such-base"}}, 2, "no-such-base"),
        ({"base": MADE, "dataset": {"train": "bad.jsonl", "test": "heldout.jsonl"}}, 1, "bad.jsonl"),
        ({"base": {"path": "empty-base"}}, 1, "empty-base"),
    ],
)
def test_a_wrong_input_is_one_line_and_leaves_nothing(
    change: dict[str, object],
    exit_code: int,
    says: str,
    served: Pipeline,
    make_recipe: MakeRecipe,
    data: Path,
    client: Raymill,
    service: RunningService,
) -> None:
    shutil.copy(data / "train.jsonl", data / "bad.jsonl")
    with (data / "bad.jsonl").open("a") as file:
        file.write('{"messages": [{"role": "robot", "content": "hi"}]}\n')
    (data / "empty-base").mkdir(exist_ok=True)
    if change.get("base") is MADE:  # one that is there: nothing is trained only to be thrown away
        assert served.state == "succeeded"
        change["base"] = {"path": str(service.home / "artifacts" / client.llms.lineage(NAME, 1).base.name)}
    name = f"wrong-{says.replace('.', '-').replace('_', '-').lower()}"
    train = change.pop("train", None)
    done = raymill("run", str(make_recipe(name, train=train, **change)))
    assert done.returncode == exit_code, done.stderr
    assert says in one_error(done.stderr)
    good_data = "dataset" not in change and exit_code == 1
    assert (name in [dataset.name for dataset in client.datasets.list()]) == good_data
    assert name not in [llm.name for llm in client.llms.list()]


def one_error(stderr: str) -> str:
    """The one line that tells of the error; whatever is above it is progress."""
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, stderr
    assert stderr.rstrip().splitlines()[-1] == errors[0]
    return errors[0]


@pytest.mark.slow
def test_a_recipe_measures_the_code_of_its_model_and_of_the_files(
    make_recipe: MakeRecipe, client: Raymill, data: Path
) -> None:
    # Slow: trains, quantizes and evaluates three times, each on Ray.
    problems = data / "problems.jsonl"
    write_lines(problems, map(humaneval, range(3)))
    task = {"humaneval": str(problems), "max_new_tokens": 8}
    sections = {**SECTIONS, "evaluate": {"tasks": [task], "actors": 1}, "serve": None}
    sections["promote"] = {"to": "production", "require": {"humaneval": {"at_least": 0.0}}}
    done = raymill("run", str(make_recipe("coder", **sections)), timeout_s=800)
    assert done.returncode == 0, done.stderr
    newest = client.pipelines.get(next(iter(client.pipelines.list(name="coder"))).id)
    results = {job.step: job.result or {} for job in newest.jobs}
    assert results["evaluate"]["metrics"].keys() == {"humaneval"}
    assert {kind: each.keys() for kind, each in results["evaluate-quantized"]["metrics"].items()} == {
        "F16": {"humaneval"},
        "Q8_0": {"humaneval"},
    }
    assert results["evaluate-quantized"]["samples"] == {"humaneval": 3}
