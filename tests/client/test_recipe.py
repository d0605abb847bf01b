"""Reading recipes: what is right gets every number, what is wrong is one line that names the key."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from raymill.client.recipe import load_recipe, parse_recipe
from raymill.policies.errors import Invalid

RECIPE = """
model: support-triage
base: {pretrain: {text: corpus.txt, hidden: 256, layers: 4}}
dataset: {train: train.jsonl, test: heldout.jsonl}
train: {method: sft, lora: {r: 16}, workers: 2, zero: 2, epochs: 3}
evaluate: {tasks: [heldout_exact_match]}
quantize: [Q8_0, Q4_K_M]
promote: {to: production, require: {heldout_exact_match: {at_least: 0.9, not_below_base: true}}}
serve: {engine: vllm, replicas: 1}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the recipe and the files that it names."""
    for name in ("corpus.txt", "train.jsonl", "heldout.jsonl"):
        (tmp_path / name).write_text("x\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def data(folder: Path) -> dict[str, Any]:
    """The recipe as data, paths absolute."""
    return load_recipe(folder / "recipe.yaml").resolved()


def problem(text: str, folder: Path) -> Invalid:
    path = folder / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(Invalid) as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)
    return caught.value


def changed(data: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of `data` in which the dotted key has another value."""
    made = copy.deepcopy(data)
    *parents, last = key.split(".")
    here = made
    for parent in parents:
        here = here[parent]
    here[last] = value
    return made


def test_paths_start_at_the_recipes_own_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    recipe = load_recipe(folder / "recipe.yaml")
    assert recipe.dataset.train == str(folder / "train.jsonl")
    assert recipe.base.pretrain is not None
    assert recipe.base.pretrain.text == str(folder / "corpus.txt")


def test_a_resolved_recipe_is_json_and_resolves_to_itself(data: dict[str, Any]) -> None:
    assert parse_recipe(json.loads(json.dumps(data))).resolved() == data


def test_only_model_base_and_dataset_are_needed(folder: Path) -> None:
    recipe = parse_recipe(
        {
            "model": "tiny",
            "base": {"hub": "org/name"},
            "dataset": {"train": "train.jsonl", "test": "heldout.jsonl"},
        },
        folder=folder,
    )
    assert (recipe.evaluate, recipe.quantize, recipe.promote, recipe.serve) == (None,) * 4
    assert recipe.base.imported is not None
    assert recipe.base.imported.hub == "org/name"


def test_the_files_of_a_benchmark_are_found_from_the_recipes_own_folder(folder: Path) -> None:
    for name in ("asked.jsonl", "solved.jsonl"):
        (folder / name).write_text("{}\n")
    data = yaml.safe_load(RECIPE)
    data["evaluate"] = {
        "tasks": [
            {"benchmark": "gsm8k", "file": "asked.jsonl", "fewshot_file": "solved.jsonl", "name": "math"}
        ]
    }
    data["promote"]["require"] = {"math": {"at_least": 0.5}}
    (task,) = parse_recipe(data, folder=folder).resolved()["evaluate"]["tasks"]
    assert task["file"] == str(folder / "asked.jsonl")
    assert task["fewshot_file"] == str(folder / "solved.jsonl")


def test_a_file_of_problems_is_found_from_the_recipes_own_folder_and_its_task_can_be_a_gate(
    folder: Path,
) -> None:
    (folder / "he.jsonl").write_text("{}\n")
    data = yaml.safe_load(RECIPE)
    data["evaluate"] = {"tasks": [{"humaneval": "he.jsonl", "limit": 3}]}
    data["promote"]["require"] = {"humaneval": {"at_least": 0.5}}
    recipe = parse_recipe(data, folder=folder)
    assert recipe.evaluate is not None
    assert recipe.resolved()["evaluate"]["tasks"][0]["humaneval"] == str(folder / "he.jsonl")


def test_a_schema_is_found_from_the_recipes_own_folder_or_stands_in_the_recipe(folder: Path) -> None:
    (folder / "s.json").write_text("{}\n")
    data = yaml.safe_load(RECIPE)
    inline = {"json_schema": {"properties": {"bfcl": {"type": "string"}}}, "name": "form"}
    data["evaluate"] = {"tasks": ["heldout_f1", {"json_schema": "s.json"}, inline]}
    data["promote"]["require"] = {"heldout_json_schema": {"at_least": 0.5}, "form": {"at_least": 0.5}}
    tasks = parse_recipe(data, folder=folder).resolved()["evaluate"]["tasks"]
    assert tasks[1]["json_schema"] == str(folder / "s.json")
    assert tasks[2]["json_schema"] == inline["json_schema"]


def test_a_perplexity_may_not_be_held_above_the_bases(folder: Path) -> None:
    (folder / "text.txt").write_text("words\n")
    data = yaml.safe_load(RECIPE)
    data["evaluate"] = {"tasks": [{"perplexity": "text.txt"}]}
    data["promote"]["require"] = {"perplexity": {"at_most": 20}}
    parse_recipe(data, folder=folder)
    data["promote"]["require"] = {"perplexity": {"not_below_base": True}}
    with pytest.raises(
        Invalid, match=r"^promote\.require\.perplexity\.not_below_base: of a perplexity less is"
    ):
        parse_recipe(data, folder=folder)


def test_training_only_drops_what_comes_after_training_and_changes_nothing_else(folder: Path) -> None:
    recipe = load_recipe(folder / "recipe.yaml")
    part = recipe.training_only()
    assert (part.base, part.dataset, part.train) == (recipe.base, recipe.dataset, recipe.train)
    assert (part.evaluate, part.quantize, part.promote, part.serve) == (None,) * 4


@pytest.mark.parametrize(
    ("key", "value", "message", "param"),
    [
        ("train.lora.r", 0, "train.lora.r: must be at least 1, got 0", "train.lora.r"),
        ("train.lora", {"rr": 4}, "train.lora.rr: unknown key; did you mean r?", "train.lora.rr"),
        ("train.epochs", "three", "train.epochs: must be a whole number, got 'three'", "train.epochs"),
        ("train.epochs", 1.5, "train.epochs: must be a whole number, got 1.5", "train.epochs"),
        ("train.packing", "maybe", "train.packing: must be true or false, got 'maybe'", "train.packing"),
        ("train.method", "magic", "train.method: must be 'pretrain', 'sft', 'tool', 'dpo' or 'kto', got 'magic'", "train.method"),
        ("train", None, "train: must be a section of keys, got nothing", "train"),
        ("modle", "x", "modle: unknown key; did you mean model?", "modle"),
        ("colour", "red", "colour: unknown key; the keys here are model, base, ", "colour"),
        ("model", "Bad Name", "model: must be text that matches ", "model"),
        ("model", 5, "model: must be text, got 5", "model"),
        ("base", {}, "base: needs exactly one of pretrain, path and hub, got none of them", "base"),
        ("base", {"path": "/", "hub": "a/b"}, "base: needs exactly one of pretrain, path and hub, got path", "base"),
        ("base", {"hub": "nohub"}, "base.hub: must be text that matches ", "base.hub"),
        ("base", {"path": "/", "revision": "v1"}, "base: revision 'v1' belongs to hub", "base"),
        ("base", {"path": "/no/such"}, "base.path: no such directory: /no/such", "base.path"),
        ("base", {"path": "model"}, "base.path: must be an absolute path, got model", "base.path"),
        ("base", {"pretrain": {}}, "base.pretrain.text: is missing: add it", "base.pretrain.text"),
        ("base.pretrain.hidden", 100, "base.pretrain: hidden is 100, which 256 does not divide", "base.pretrain"),
        ("base.pretrain.layers", 0, "base.pretrain.layers: must be at least 1, got 0", "base.pretrain.layers"),
        ("dataset.train", "/no/such.jsonl", "dataset.train: no such file: /no/such.jsonl", "dataset.train"),
        ("dataset.test", "/", "dataset.test: must be a file, / is not one", "dataset.test"),
        ("evaluate.tasks", ["mmlu"], "evaluate.tasks[0]: 'mmlu' is no evaluation task", "evaluate.tasks[0]"),
        ("evaluate.tasks", [{"lm_eval": "arc", "limt": 3}], "evaluate.tasks[0].limt: unknown key; did you mean limit?", "evaluate.tasks[0].limt"),
        ("evaluate.tasks", [{"lm_eval": "arc", "limit": 0}], "evaluate.tasks[0].limit: must be at least 1, got 0", "evaluate.tasks[0].limit"),
        ("evaluate.tasks", ["/no/task.yaml"], "evaluate.tasks[0]: no such file: /no/task.yaml", "evaluate.tasks[0]"),
        ("evaluate.tasks", ["heldout_exact_match", {"humaneval": "/no/he.jsonl"}], "evaluate.tasks[1].humaneval: no such file: /no/he.jsonl", "evaluate.tasks[1].humaneval"),
        ("evaluate.tasks", ["heldout_exact_match", {"benchmark": "mmlu", "file": "/no/mmlu.jsonl"}], "evaluate.tasks[1].file: no such file: /no/mmlu.jsonl", "evaluate.tasks[1].file"),
        ("evaluate.tasks", [{"benchmark": "gsm8k", "file": "/g.jsonl"}], "evaluate.tasks[0]: gsm8k is asked with 5 solved examples: name their file", "evaluate.tasks[0]"),
        ("evaluate.tasks", [{"humaneval": "/he.jsonl", "sampels": 3}], "evaluate.tasks[0].sampels: unknown key; did you mean samples?", "evaluate.tasks[0].sampels"),
        ("evaluate.tasks", [{"humaneval": "/he.jsonl", "sandbox": {"cpu": 3}}], "evaluate.tasks[0].sandbox.cpu: unknown key; did you mean cpu_s?", "evaluate.tasks[0].sandbox.cpu"),
        ("evaluate.tasks", [{"humaneval": "/he.jsonl", "k": [1, 5]}], "evaluate.tasks[0]: pass@5 needs at least 5 samples, got 1", "evaluate.tasks[0]"),
        ("evaluate.tasks", ["heldout_exact_match", {"json_schema": "/no/s.json"}], "evaluate.tasks[1].json_schema: no such file: /no/s.json", "evaluate.tasks[1].json_schema"),
        ("evaluate.tasks", [{"json_schema": 3}], "evaluate.tasks[0].json_schema: ", "evaluate.tasks[0].json_schema"),
        ("quantize", ["Q9"], "quantize: 'Q9' is no quantization type", "quantize"),
        ("quantize", [], "quantize: must be a list of at least 1, got a list of 0", "quantize"),
        ("promote.require", {"mmlu": {"at_least": 1}}, "promote.require.mmlu: is not measured, evaluate measures heldout_exact_match", "promote.require.mmlu"),
        ("promote.require", {"heldout_exact_match": {}}, "promote.require.heldout_exact_match: asks for nothing", "promote.require.heldout_exact_match"),
        ("promote.require", {"heldout_exact_match": {"atleast": 1}}, "promote.require.heldout_exact_match.atleast: unknown key; did you mean at_least?", "promote.require.heldout_exact_match.atleast"),
        ("promote.require", {"heldout_exact_match": {"at_least": "high"}}, "promote.require.heldout_exact_match.at_least: must be a number, got 'high'", "promote.require.heldout_exact_match.at_least"),
        ("promote.require", {"heldout_exact_match": {"at_least": 0.9, "at_most": 0.1}}, "promote.require.heldout_exact_match: at_least 0.9 is above at_most 0.1", "promote.require.heldout_exact_match"),
        ("promote.require", {"heldout_exact_match": {"not_significantly_worse_than": True}}, "promote.require.heldout_exact_match.not_significantly_worse_than: must be text, got true", "promote.require.heldout_exact_match.not_significantly_worse_than"),
        ("promote.canary", {"steps": [0.5, 0.1]}, "promote.canary: steps is [0.5, 0.1]: each must be greater than the one before", "promote.canary"),
        ("promote.canary", {"min_request": 5}, "promote.canary.min_request: unknown key; did you mean min_requests?", "promote.canary.min_request"),
        ("promote", None, "serve: needs promote", "serve"),
        ("evaluate", None, "promote.require.heldout_exact_match: is not measured, there is no evaluate section", "promote.require.heldout_exact_match"),
        ("serve.engine", "tgi", "serve.engine: must be 'vllm' or 'llama_cpp', got 'tgi'", "serve.engine"),
        ("serve", {"engine": "llama_cpp", "quantization": "Q2_K"}, "serve.quantization: Q2_K is not made: add it to quantize", "serve.quantization"),
        ("serve.replicas", 0, "serve.replicas: must be at least 1, got 0", "serve.replicas"),
        ("serve.lora", {"max_rank": 24}, "serve.lora.max_rank: must be 8, 16, 32, 64, 128, 256, 320 or 512, got 24", "serve.lora.max_rank"),
        ("serve.lora", {"max_loras": 9, "max_cpu_loras": 8}, "serve.lora: max_cpu_loras 8 is below max_loras 9", "serve.lora"),
        ("serve", {"engine": "llama_cpp", "quantization": "Q8_0", "lora": {}}, "serve: lora is vllm's: llama_cpp serves merged weights, so leave lora out", "serve"),
        ("serve", {"quantization": "FP8", "lora": {}}, "serve: quantization FP8 is made of merged weights, and lora serves an adapter", "serve"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_key(
    data: dict[str, Any], key: str, value: Any, message: str, param: str
) -> None:
    with pytest.raises(Invalid) as caught:
        parse_recipe(changed(data, key, value))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("trained", "message", "param"),
    [
        (None, "serve.lora: serves an adapter, and train makes none: add train.lora", "serve.lora"),
        ({"dora": True}, "serve.lora: vllm serves no DoRA adapter: leave it out, or train.lora.dora", "serve.lora"),
        ({"r": 20}, "serve.lora.max_rank: is 16, and train.lora.r is 20: set it to 32", "serve.lora.max_rank"),
        ({"r": 600}, "serve.lora.max_rank: is 16, and train.lora.r is 600: vllm serves ranks up to 512", "serve.lora.max_rank"),
    ],
)  # fmt: skip
def test_an_adapter_that_vllm_cannot_serve_is_refused_before_it_is_trained(
    data: dict[str, Any], trained: Any, message: str, param: str
) -> None:
    served = changed(changed(data, "train.lora", {}), "serve", {"lora": {}})
    assert parse_recipe(served).serve is not None
    with pytest.raises(Invalid) as caught:
        parse_recipe(changed(served, "train.lora", trained))
    assert str(caught.value).startswith(message)
    assert caught.value.param == param


def test_several_problems_are_counted_and_a_misspelt_key_comes_first(data: dict[str, Any]) -> None:
    wrong = changed(changed(data, "train.lora.r", 0), "modle", data.pop("model"))
    del wrong["model"]
    with pytest.raises(Invalid, match=r"^modle: unknown key; did you mean model\? \(and 2 more\)$"):
        parse_recipe(wrong)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [a", r"recipe\.yaml: line 1, column 10: "),
        ("model: a\n\tbase: b\n", r"recipe\.yaml: line 2, column 1: "),
        ("model: a\nmodel: b\n", r"line 2, column 1: key 'model' stands here twice"),
        ("model: a\ntrain:\n  epochs: 1\n  epochs: 2\n", r"line 4, column 3: key 'epochs' stands here twice"),
        ("model: a\non: b\n", r"line 2, column 1: key True is not text"),
        ("model: !!python/object:os.system x\n", r"line 1, column 8: could not determine a constructor"),
        ("", r"^a recipe is a mapping with model, base and dataset, got an empty file$"),
        ("- a\n- b\n", r"^a recipe is a mapping with model, base and dataset, got a list$"),
        ("just words", r"got a str$"),
        ("base: \x00", r"recipe\.yaml is no YAML: "),
    ],
)
def test_broken_yaml_is_told_with_line_and_column(folder: Path, text: str, message: str) -> None:
    import re

    assert re.search(message, str(problem(text, folder)))


def test_a_recipe_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"recipe \S+/nope.yaml does not exist: check the path"):
        load_recipe(tmp_path / "nope.yaml")


def test_a_recipe_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Invalid, match=r"cannot be read \(it is not UTF-8 text\)"):
        load_recipe(tmp_path / "recipe.yaml")


def test_importing_the_recipe_loads_nothing_heavy() -> None:
    import subprocess
    import sys

    code = "import raymill.client.recipe, raymill.client.sdk, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"ray", "torch", "sqlalchemy", "transformers", "numpy"}.isdisjoint(loaded.stdout.split())
