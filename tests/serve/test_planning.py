from __future__ import annotations

from pathlib import Path

from raymill.evaluate.config import EvaluateConfig
from raymill.registry.artifacts import sha256_file
from raymill.serve.api.planning import evaluate_step


def test_another_file_of_problems_makes_another_step(tmp_path: Path) -> None:
    path = tmp_path / "he.jsonl"
    path.write_text("{}\n")
    config = EvaluateConfig.model_validate({"tasks": ["heldout_exact_match", {"humaneval": str(path)}]})
    step = evaluate_step("evaluate", config, "train", ("dataset", "train"))
    assert step.config["tasks"][0] == "heldout_exact_match"
    assert step.config["tasks"][1]["sha256"] == sha256_file(path)
    path.write_text("{}\n{}\n")
    assert evaluate_step("evaluate", config, "train", ("dataset", "train")).config != step.config


def test_a_schema_by_file_makes_another_step_when_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text("{}")
    tasks = [{"json_schema": str(path)}, {"json_schema": {"type": "object"}, "name": "form"}]
    step = evaluate_step("evaluate", EvaluateConfig.model_validate({"tasks": tasks}), "base", ("base",))
    assert [task["sha256"] for task in step.config["tasks"]] == [sha256_file(path), None]


def test_both_files_of_a_benchmark_are_part_of_the_step(tmp_path: Path) -> None:
    asked, solved = tmp_path / "mmlu.jsonl", tmp_path / "dev.jsonl"
    asked.write_text("{}\n")
    solved.write_text("{}\n{}\n")
    task = {"benchmark": "mmlu", "file": str(asked), "fewshot_file": str(solved), "num_fewshot": 5}
    step = evaluate_step("evaluate", EvaluateConfig.model_validate({"tasks": [task]}), "base", ("base",))
    (planned,) = step.config["tasks"]
    assert planned["sha256"] == sha256_file(asked)
    assert planned["fewshot_sha256"] == sha256_file(solved)


def test_a_digest_that_the_recipe_gives_stays(tmp_path: Path) -> None:
    path = tmp_path / "he.jsonl"
    path.write_text("{}\n")
    config = EvaluateConfig.model_validate({"tasks": [{"humaneval": str(path), "sha256": "0" * 64}]})
    assert evaluate_step("evaluate", config, "base", ("base",)).config["tasks"][0]["sha256"] == "0" * 64
