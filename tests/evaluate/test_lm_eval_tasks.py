from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq
import pytest
from tests.lines import write_lines

from raymill.cluster.context import LocalContext
from raymill.evaluate.actors import ActorPool
from raymill.evaluate.config import EvaluateConfig, LmEvalTask
from raymill.evaluate.hf_model import HfModel
from raymill.evaluate.jobs import run_evaluate
from raymill.evaluate.lm_eval_tasks import task_dict, with_score
from raymill.evaluate.tasks import run_lm_eval
from raymill.policies.errors import Invalid, NotFound

BENCHMARKS = Path(__file__).parents[3] / "shared" / "data" / "benchmarks"

CHOICE = """\
task: parcels
dataset_path: json
dataset_kwargs:
  data_files: {test: parcels.jsonl}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{options}}"
doc_to_target: "{{answer}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""

ARC = """\
task: arc_local
dataset_path: json
dataset_kwargs:
  data_files: {test: %s}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{choices.text}}"
doc_to_target: "{{choices.label.index(answerKey)}}"
metric_list:
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""

# lm-eval and datasets, both pinned, warn on their own account.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def task_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {"question": f"the parcel {n} is", "options": ["late", "broken", "wrong"], "answer": n % 3}
        for n in range(11)
    ]
    write_lines(folder / "parcels.jsonl", rows)
    (folder / "parcels.yaml").write_text(CHOICE)
    return folder / "parcels.yaml"


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> HfModel:
    model = HfModel(str(tiny_model))
    model.load()
    return model


def samples_in(model: HfModel, task: dict[str, Any], shards: int) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for shard in range(shards):
        for leaf, samples in model.lm_eval_shard(task, shard, shards, 4).items():
            found.setdefault(leaf, []).extend(samples)
    return found


def test_sharing_a_task_over_actors_changes_no_number(model: HfModel, task_file: Path) -> None:
    task = LmEvalTask(lm_eval=str(task_file)).model_dump()
    whole, shared = samples_in(model, task, 1), samples_in(model, task, 4)
    assert [sample["index"] for sample in whole["parcels"]] == list(range(11))
    assert sorted(sample["index"] for sample in shared["parcels"]) == list(range(11))
    assert model.lm_eval_metrics(task, whole) == model.lm_eval_metrics(task, shared)


def test_the_first_metric_of_the_task_is_reported_unless_another_is_named(
    model: HfModel, task_file: Path
) -> None:
    task = LmEvalTask(lm_eval=str(task_file), limit=5).model_dump()
    samples = samples_in(model, task, 2)
    assert len(samples["parcels"]) == 5
    metrics = model.lm_eval_metrics(task, samples)
    assert set(metrics["all"]["parcels"]) == {"acc", "acc_norm"}
    assert metrics["primary"] == {"parcels": metrics["all"]["parcels"]["acc"]}
    named = {**task, "metric": "acc_norm"}
    assert model.lm_eval_metrics(named, samples)["primary"] == {
        "parcels": metrics["all"]["parcels"]["acc_norm"]
    }
    with pytest.raises(Invalid, match="task parcels has no metric 'f1': use any of acc, acc_norm"):
        model.lm_eval_metrics({**task, "metric": "f1"}, samples)


def test_a_sample_has_the_score_of_the_reported_metric_under_its_filter(
    model: HfModel, task_file: Path
) -> None:
    task = LmEvalTask(lm_eval=str(task_file), metric="acc_norm").model_dump()
    metrics = model.lm_eval_metrics(task, samples_in(model, task, 1))
    assert metrics["scored_by"] == {"parcels": ("acc_norm", True)}
    sample = {"filter": "strict", "metrics": '{"em": true, "ppl": [1.5, 3]}'}
    assert with_score(sample, "em,strict", True)["score"] == 1.0
    assert with_score(sample, "em", False)["higher_is_better"] is False
    for metric in ("em,loose", "ppl", "none"):
        assert with_score(sample, metric, True)["score"] is None


class InProcess:
    """Stands for a pool of actors."""

    def __init__(self, model: HfModel) -> None:
        self.model = model

    def map(self, method: str, calls: list[Any], finished: Callable[[int, Any], None]) -> None:
        for position, call in enumerate(calls):
            finished(position, getattr(self.model, method)(*call))


def test_the_scores_of_the_samples_add_up_to_the_metric(
    model: HfModel, task_file: Path, tmp_path: Path
) -> None:
    task = LmEvalTask(lm_eval=str(task_file), metric="acc_norm")
    pool = cast(ActorPool, InProcess(model))
    found = run_lm_eval(LocalContext(tmp_path), pool, task, EvaluateConfig(actors=1), "0")
    (records,) = found.records.values()
    assert {(record["metric"], record["higher_is_better"]) for record in records} == {("acc_norm", True)}
    assert sum(record["score"] for record in records) / 11 == pytest.approx(found.metrics["parcels"])


def test_a_missing_task_or_data_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"there is no task file .*none\.yaml"):
        task_dict(tmp_path / "none.yaml")
    (tmp_path / "t.yaml").write_text(CHOICE)
    with pytest.raises(NotFound, match=r"there is no data file .*parcels\.jsonl"):
        task_dict(tmp_path / "t.yaml")


@pytest.mark.usefixtures("ray_session")
def test_actors_run_a_task_and_its_samples_are_published(
    tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    model, dataset = "model/tiny/000000000001", "dataset/tiny/000000000002"
    shutil.copytree(tiny_model, tmp_path / "artifacts" / model)
    (tmp_path / "artifacts" / dataset).mkdir(parents=True)
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    (tmp_path / "artifacts" / dataset / "test.jsonl").write_text(json.dumps(row) + "\n")
    context = LocalContext(
        tmp_path,
        config={"of": "train", "tasks": [str(task_file)]},
        inputs={"dataset": {"artifact": dataset}, "train": {"artifact": model}},
    )
    result = run_evaluate(context).result
    assert list(result["metrics"]) == ["parcels"]
    assert 0 <= result["metrics"]["parcels"] <= 1
    assert result["samples"] == {"parcels": 11}
    table = pq.read_table(context.path(result["artifact"]) / "parcels.parquet").to_pylist()
    assert [line["index"] for line in table] == list(range(11))
    assert len({line["doc_hash"] for line in table}) == 11
    assert {(line["metric"], line["higher_is_better"]) for line in table} == {("acc", True)}
    assert sum(line["score"] for line in table) / 11 == pytest.approx(result["metrics"]["parcels"])


@pytest.mark.real_data
@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the public data sets do not lie beside the repository")
def test_arc_challenge_runs_from_a_local_file(model: HfModel, tmp_path: Path) -> None:
    (tmp_path / "arc.yaml").write_text(ARC % (BENCHMARKS / "arc_challenge.jsonl"))
    task = LmEvalTask(lm_eval=str(tmp_path / "arc.yaml"), limit=6).model_dump()
    samples = samples_in(model, task, 2)
    assert len(samples["arc_local"]) == 6
    assert set(model.lm_eval_metrics(task, samples)["primary"]) == {"arc_local"}
