from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from raymill.evaluate.config import (
    HELDOUT,
    HELDOUT_F1,
    EvaluateConfig,
    HumanEvalTask,
    JsonSchemaTask,
    LmEvalTask,
    file_of,
    label_of,
    runs_on_files,
)


def test_the_default_task_is_held_out_exact_match() -> None:
    assert EvaluateConfig().tasks == (HELDOUT,)


def test_a_path_of_a_yaml_file_is_a_task_of_lm_eval() -> None:
    config = EvaluateConfig.model_validate(
        {"tasks": [HELDOUT, "tasks/arc.yaml", {"lm_eval": "mmlu", "limit": 5}]}
    )
    assert config.tasks[1] == LmEvalTask(lm_eval="tasks/arc.yaml")
    assert isinstance(config.tasks[2], LmEvalTask)
    assert not config.tasks[2].is_file


def test_an_unknown_task_is_refused_with_what_is_allowed() -> None:
    with pytest.raises(ValidationError, match=r"'accuracy' is no evaluation task: use heldout_exact_match"):
        EvaluateConfig.model_validate({"tasks": ["accuracy"]})


def test_a_task_listed_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="listed twice"):
        EvaluateConfig.model_validate({"tasks": [HELDOUT, HELDOUT]})


def test_humaneval_is_a_task_with_a_sandbox() -> None:
    given = {"humaneval": "he.jsonl", "samples": 10, "k": [1, 10], "sandbox": {"cpu_s": 3}}
    (task,) = EvaluateConfig.model_validate({"tasks": [given]}).tasks
    assert isinstance(task, HumanEvalTask)
    assert (task.name, task.k, task.sandbox.cpu_s, task.sandbox.isolation) == (
        "humaneval",
        (1, 10),
        3,
        "full",
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"k": [1, 10], "samples": 5}, "pass@10 needs at least 10 samples, got 5: raise samples, or lower k"),
        ({"k": [0]}, "k counts answers, got 0"),
        ({"sandbox": {"isolation": "none"}}, "'full' or 'reduced'"),
    ],
)
def test_settings_of_humaneval_that_mean_nothing_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EvaluateConfig.model_validate({"tasks": [{"humaneval": "he.jsonl", **given}]})


def test_two_tasks_of_humaneval_need_two_names() -> None:
    with pytest.raises(ValidationError, match="task 'humaneval' is listed twice"):
        EvaluateConfig.model_validate({"tasks": [{"humaneval": "a.jsonl"}, {"humaneval": "b.jsonl"}]})
    EvaluateConfig.model_validate(
        {"tasks": [{"humaneval": "a.jsonl"}, {"humaneval": "b.jsonl", "name": "b"}]}
    )


def test_a_schema_is_a_task_by_file_or_as_it_stands() -> None:
    given = [HELDOUT_F1, {"json_schema": "s.json"}, {"json_schema": {"type": "object"}, "name": "form"}]
    name, of_file, inline = EvaluateConfig.model_validate({"tasks": given}).tasks
    assert name == HELDOUT_F1
    assert isinstance(of_file, JsonSchemaTask)
    assert isinstance(inline, JsonSchemaTask)
    assert [label_of(each) for each in (of_file, inline)] == ["heldout_json_schema", "form"]
    assert [file_of(each) for each in (of_file, inline)] == [("json_schema", "s.json"), None]
    with pytest.raises(ValidationError, match="task 'heldout_json_schema' is listed twice"):
        EvaluateConfig.model_validate({"tasks": [{"json_schema": "a.json"}, {"json_schema": "b.json"}]})
    with pytest.raises(ValidationError, match="json_schema is empty, and anything would do"):
        EvaluateConfig.model_validate({"tasks": [{"json_schema": {}}]})


def test_files_are_measured_by_what_asks_for_answers_or_reads_text() -> None:
    tasks = [
        HELDOUT,
        HELDOUT_F1,
        {"json_schema": "s.json"},
        {"bfcl": "b.jsonl"},
        {"perplexity": "a.txt"},
        {"humaneval": "he.jsonl"},
    ]
    assert all(map(runs_on_files, EvaluateConfig.model_validate({"tasks": tasks}).tasks))
    others = EvaluateConfig.model_validate(
        {"tasks": [{"lm_eval": "arc_easy"}, {"benchmark": "mmlu", "file": "m.jsonl"}]}
    )
    assert not any(map(runs_on_files, others.tasks))


def test_a_window_moves_by_less_than_it_sees() -> None:
    with pytest.raises(ValidationError, match="stride is 8, and the window 8: lower stride, or raise window"):
        EvaluateConfig.model_validate({"tasks": [{"perplexity": "a.txt", "window": 8, "stride": 8}]})


def test_a_name_that_another_task_has_is_refused() -> None:
    with pytest.raises(ValidationError, match="task 'heldout_f1' is listed twice"):
        EvaluateConfig.model_validate({"tasks": [HELDOUT_F1, {"json_schema": "a.json", "name": HELDOUT_F1}]})


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="bach"):
        EvaluateConfig.model_validate({"bach": 3})


def test_the_resolved_config_survives_json() -> None:
    config = EvaluateConfig.model_validate(
        {
            "tasks": [
                HELDOUT,
                {"lm_eval": "a.yaml", "limit": 3},
                {"humaneval": "he.jsonl"},
                {"json_schema": {"type": "object"}},
                {"bfcl": "bfcl.jsonl", "limit": 3},
                {"perplexity": "text.txt", "metric": "bits_per_byte"},
            ]
        }
    )
    assert EvaluateConfig.model_validate_json(config.model_dump_json()) == config


def test_the_configuration_imports_nothing_heavy() -> None:
    code = (
        "import sys, raymill.evaluate.config\n"
        "heavy = {'torch', 'ray', 'transformers', 'sqlalchemy', 'numpy', 'lm_eval'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
