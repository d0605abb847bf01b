"""The named benchmarks: their files, and that a score is the one of lm-eval on the same rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from tests.conftest import SHARED_DATA
from tests.evaluate import benchmark_rows as made
from tests.lines import write_lines
from tests.llama import random_llama

from raymill.cluster.context import LocalContext
from raymill.evaluate.actors import ActorPool
from raymill.evaluate.benchmark_config import BenchmarkTask
from raymill.evaluate.benchmark_tasks import share_of_truth
from raymill.evaluate.benchmarks import packaged_tasks, read_benchmark
from raymill.evaluate.config import EvaluateConfig
from raymill.evaluate.hf_model import HfModel
from raymill.evaluate.samples import Record
from raymill.evaluate.tasks import TaskResult, check_files, run_lm_eval
from raymill.policies.errors import Invalid, NotFound

BENCHMARKS = SHARED_DATA / "benchmarks"

# lm-eval and datasets, both pinned, warn on their own account.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

PACKAGED = {
    "hellaswag": "hellaswag/hellaswag.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "truthfulqa_mc1": "truthfulqa/truthfulqa_mc1.yaml",
    "truthfulqa_mc2": "truthfulqa/truthfulqa_mc2.yaml",
    "gsm8k": "gsm8k/gsm8k.yaml",
}


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> HfModel:
    model = HfModel(str(tiny_model))
    model.load()
    return model


@pytest.fixture(scope="module")
def worded_model(tmp_path_factory: pytest.TempPathFactory) -> HfModel:
    """A small model that has words for tokens and a context that real prompts fit into, so that few of them are cut."""
    directory = tmp_path_factory.mktemp("worded")
    documents = [str(value) for row in real("truthfulqa.jsonl") for value in row.values()]
    shape = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4}
    made_of, _ = random_llama(directory, documents, 4096, max_position_embeddings=8192, **shape)
    made_of.save_pretrained(directory)
    model = HfModel(str(directory))
    model.load()
    return model


class InProcess:
    """Stands for a pool of actors."""

    def __init__(self, model: HfModel) -> None:
        self.model = model

    def map(self, method: str, calls: list[Any], finished: Callable[[int, Any], None]) -> None:
        for position, call in enumerate(calls):
            finished(position, getattr(self.model, method)(*call))


def ours(model: HfModel, task: BenchmarkTask, work: Path) -> TaskResult:
    pool = cast(ActorPool, InProcess(model))
    return run_lm_eval(LocalContext(work), pool, task, EvaluateConfig(actors=1, batch=4), "0")


def theirs(
    model: HfModel, name: str, packaged: str, splits: dict[str, Path], shots: int, **other: Any
) -> dict[str, Any]:
    """lm-eval's results of one task: its own task file, with lm-eval's own reader of JSON lines for its data set."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    settings: dict[str, Any] = load_yaml(packaged_tasks() / packaged)
    settings |= {"task": f"local_{name}", "dataset_path": "json", "dataset_name": None}
    settings["dataset_kwargs"] = {"data_files": {split: str(path) for split, path in splits.items()}}
    settings = {key: value for key, value in settings.items() if key != "tag"} | other
    for split in ("training_split", "validation_split", "test_split", "fewshot_split"):
        if settings.get(split) not in splits:
            settings[split] = None
    found = simple_evaluate(
        model=HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=4, backend="causal"),
        tasks=[settings],
        num_fewshot=shots,
        bootstrap_iters=0,
        task_manager=TaskManager(include_defaults=False),
    )
    return {"results": found["results"][f"local_{name}"], "samples": found["samples"][f"local_{name}"]}


def same(record: Record, sample: dict[str, Any]) -> None:
    """The same prompt and the same answer, or log-likelihoods as equal as sums of float32 can be: batches of other
    sizes are multiplied in another order, and 480 nats have no digit below 3e-5.
    """
    assert record["prompt"] == sample["arguments"][0][0]
    assert record["reference"] == str(sample["target"])
    given, wanted = json.loads(record["answer"]), sample["filtered_resps"]
    if isinstance(wanted[0], str):
        assert given == wanted
    else:
        assert [float(score) for score, _ in given] == pytest.approx(
            [float(score) for score, _ in wanted], rel=1e-5, abs=1e-4
        )
        assert [bool(greedy) for _, greedy in given] == [greedy for _, greedy in wanted]


def check_same(found: TaskResult, label: str, lm_eval: dict[str, Any]) -> None:
    records = {(record["index"], record["filter"]): record for record in found.records[label]}
    assert len(records) == len(lm_eval["samples"])
    for sample in lm_eval["samples"]:
        same(records[sample["doc_id"], sample["filter"]], sample)
    for key, value in lm_eval["results"].items():
        metric, _, kept = key.partition(",")
        if not metric.endswith("_stderr") and kept:
            ours = found.details[label]
            assert ours[metric if metric in ours else key] == pytest.approx(value, abs=1e-6), key


CASES = ["hellaswag", "arc_challenge", "truthfulqa_mc1", "truthfulqa_mc2", "gsm8k"]


@pytest.mark.parametrize("benchmark_name", CASES)
def test_a_benchmark_has_the_prompts_and_scores_of_lm_eval(
    model: HfModel, tmp_path: Path, benchmark_name: str
) -> None:
    task, splits = generated(benchmark_name, tmp_path)
    found = ours(model, task, tmp_path)
    lm_eval = theirs(model, benchmark_name, PACKAGED[benchmark_name], splits, task.shots)
    check_same(found, benchmark_name, lm_eval)
    reported = found.details[benchmark_name][task.reported]
    assert found.metrics == {benchmark_name: pytest.approx(reported)}
    (version,) = {record["task_version"] for record in found.records[benchmark_name]}
    assert float(version) >= 1
    assert {record["lm_eval_version"] for record in found.records[benchmark_name]} == {"0.4.13"}


def test_answers_too_unlikely_for_a_double_have_a_score_and_others_the_one_of_lm_eval() -> None:
    from lm_eval.tasks.truthfulqa.utils import process_results_mc2

    document = {"mc2_targets": {"labels": [1, 1, 0]}}
    likely = [(-3.0, True), (-2.5, False), (-2.0, False)]
    assert share_of_truth(document, likely) == pytest.approx(process_results_mc2(document, likely))
    unlikely = [(score - 2000, greedy) for score, greedy in likely]
    assert share_of_truth(document, unlikely) == pytest.approx(share_of_truth(document, likely))


def generated(name: str, folder: Path) -> tuple[BenchmarkTask, dict[str, Path]]:
    """A task on a generated file, and the files of lm-eval's splits that have the same rows."""
    task: dict[str, Any] = {"benchmark": name, "file": str(folder / "asked.jsonl")}
    if name.startswith("truthfulqa"):
        rows = made.truthfulqa(7)
        write_lines(folder / "asked.jsonl", rows)
        splits = {"validation": write_lines(folder / "theirs.jsonl", made.truthfulqa_of_lm_eval(rows))}
    else:
        make: Any = getattr(made, name)
        count, shots = (5, 3) if name == "gsm8k" else (9, 2)
        split = "validation" if name == "hellaswag" else "test"
        splits = {
            split: write_lines(folder / "asked.jsonl", make(count)),
            "train": write_lines(folder / "train.jsonl", make(6, 50)),
        }
        task |= {"fewshot_file": str(folder / "train.jsonl"), "num_fewshot": shots}
        if name == "hellaswag":  # its few-shot rows would come from another split than the one that is asked
            task["num_fewshot"] = 0
    return BenchmarkTask.model_validate(task), splits


def mmlu_task(folder: Path, rows: list[made.Row], dev: list[made.Row], **more: Any) -> BenchmarkTask:
    write_lines(folder / "mmlu.jsonl", rows)
    write_lines(folder / "dev.jsonl", dev)
    return BenchmarkTask.model_validate(
        {
            "benchmark": "mmlu",
            "file": str(folder / "mmlu.jsonl"),
            "fewshot_file": str(folder / "dev.jsonl"),
            **more,
        }
    )


def test_mmlu_has_the_prompts_and_scores_of_lm_eval_in_each_subject_and_is_their_mean_by_size(
    model: HfModel, tmp_path: Path
) -> None:
    rows, dev = made.mmlu(11), made.mmlu(9, 40)
    found = ours(model, mmlu_task(tmp_path, rows, dev, num_fewshot=2), tmp_path)
    check_mmlu(model, tmp_path, found, rows, dev, 2)


def check_mmlu(
    model: HfModel, folder: Path, found: TaskResult, rows: list[made.Row], dev: list[made.Row], shots: int
) -> None:
    right = 0.0
    records = {record["index"]: record for record in found.records["mmlu"]}
    assert sorted(records) == list(range(len(rows)))
    for subject in sorted({row["subject"] for row in rows}):
        places = [place for place, row in enumerate(rows) if row["subject"] == subject]
        splits = {
            "test": write_lines(folder / f"{subject}.jsonl", [rows[place] for place in places]),
            "dev": write_lines(
                folder / f"{subject}-dev.jsonl", [row for row in dev if row["subject"] == subject]
            ),
        }
        lm_eval = theirs(model, subject, f"mmlu/default/mmlu_{subject}.yaml", splits, shots)
        for sample in lm_eval["samples"]:
            same(records[places[sample["doc_id"]]], sample)
        accuracy = lm_eval["results"]["acc,none"]
        assert found.details["mmlu"][f"acc,mmlu_{subject}"] == pytest.approx(accuracy)
        right += accuracy * len(places)
    assert found.metrics == {"mmlu": pytest.approx(right / len(rows))}


def test_a_limit_takes_from_each_subject_of_mmlu_in_turn(tmp_path: Path) -> None:
    rows = sorted(made.mmlu(12), key=lambda row: str(row["subject"]))
    found = read_benchmark(mmlu_task(tmp_path, rows, made.mmlu(3), limit=5))
    assert {leaf: kept.index for leaf, kept in found.items()} == {
        "mmlu_abstract_algebra": [0, 1],
        "mmlu_anatomy": [4, 5],
        "mmlu_world_religions": [8],
    }


def test_hellaswag_with_its_context_alone_is_asked_with_that(model: HfModel, tmp_path: Path) -> None:
    row = {"ctx": "[header] my parcel [title] is late.", "endings": ["now [step]", "help"], "label": 1}
    write_lines(tmp_path / "h.jsonl", [row])
    task = BenchmarkTask(benchmark="hellaswag", file=str(tmp_path / "h.jsonl"))
    (record,) = ours(model, task, tmp_path).records["hellaswag"]
    assert record["prompt"] == " my parcel. is late."
    assert record["reference"] == "1"


ROWS: dict[str, dict[str, Any]] = {
    "mmlu": made.mmlu(1)[0],
    "hellaswag": made.hellaswag(1)[0],
    "arc_challenge": made.arc_challenge(1)[0],
    "truthfulqa_mc1": made.truthfulqa(1)[0],
    "truthfulqa_mc2": made.truthfulqa_of_lm_eval(made.truthfulqa(1))[0],
    "gsm8k": made.gsm8k(1)[0],
}


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("mmlu", {"subject": "../gsm8k"}, "has the subject '../gsm8k', which MMLU does not"),
        ("mmlu", {"answer": 4}, "has answer 4, which is none of the choices 0 to 3"),
        ("mmlu", {"answer": True}, "has answer True"),
        ("mmlu", {"answer": "AB"}, "has answer 'AB'"),
        ("mmlu", {"choices": ["a", "b", "c"]}, "has 3 choices, MMLU has 4"),
        ("mmlu", {"choices": ["a", "b", "c", ""]}, "needs in 'choices' a list of two or more texts"),
        ("mmlu", {"question": " "}, "has no text 'question'"),
        ("hellaswag", {"ctx_b": None}, "has no text 'ctx_b'"),
        ("hellaswag", {"label": "-1"}, "has label '-1'"),
        ("hellaswag", {"label": ""}, "has label ''"),
        ("hellaswag", {"endings": "abcd"}, "needs in 'endings' a list"),
        ("arc_challenge", {"answerKey": "E"}, "has the answerKey 'E', which is none of A, B, C"),
        ("arc_challenge", {"choices": ["a"]}, "has no object 'choices'"),
        ("arc_challenge", {"choices": {"text": ["a", "b"], "label": ["A", "A"]}}, "with the labels A, A"),
        ("truthfulqa_mc1", {"Correct Answers": "; ;"}, "has no answer in 'Correct Answers'"),
        ("truthfulqa_mc1", {"Best Answer": 3}, "has no text 'Best Answer'"),
        (
            "truthfulqa_mc2",
            {"mc2_targets": {"choices": ["a", "b"], "labels": [0, 0]}},
            "has mc2_targets whose labels",
        ),
        (
            "truthfulqa_mc2",
            {"mc2_targets": {"choices": ["a", "b"], "labels": [True, False]}},
            "has mc2_targets whose",
        ),
        (
            "truthfulqa_mc2",
            {"mc1_targets": {"choices": ["a", "b"], "labels": [0, 1]}},
            "whose first choice is not",
        ),
        ("gsm8k", {"answer": "it is 18"}, "has an answer that does not end in '#### NUMBER'"),
    ],
)
def test_a_row_that_is_not_in_the_layout_is_named(
    tmp_path: Path, name: str, wrong: dict[str, Any], said: str
) -> None:
    rows = [ROWS[name], {**ROWS[name], **wrong}]
    shots = 0 if name == "gsm8k" else None
    task = {"benchmark": name, "file": str(write_lines(tmp_path / "r.jsonl", rows)), "num_fewshot": shots}
    with pytest.raises(Invalid) as caught:
        read_benchmark(BenchmarkTask.model_validate(task))
    assert "r.jsonl, row 2 " in str(caught.value)
    assert said in str(caught.value)


def test_a_file_that_is_not_what_was_meant_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with pytest.raises(NotFound, match=r"there is no file .* the layout of hellaswag"):
        read_benchmark(BenchmarkTask(benchmark="hellaswag", file=str(path)))
    for text, said in (
        ("", "holds no row"),
        ("[1]\n", "row 1 is no object, but list"),
        ("{\n", "line 1 is no JSON"),
        ("[" * 100_000 + "\n", "line 1 is no JSON"),
        ("\xff\n", "line 1 is no JSON"),
    ):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(Invalid, match=said):
            read_benchmark(BenchmarkTask(benchmark="hellaswag", file=str(path)))
    write_lines(path, made.hellaswag(2))
    with pytest.raises(Invalid, match="it has changed"):
        read_benchmark(BenchmarkTask(benchmark="hellaswag", file=str(path), sha256="0" * 64))
    write_lines(path, [*made.hellaswag(1), {"ctx": "a", "endings": ["b", "c"], "label": 0}])
    with pytest.raises(Invalid, match="rows of two layouts"):
        read_benchmark(BenchmarkTask(benchmark="hellaswag", file=str(path)))


def test_a_subject_without_enough_examples_is_named(tmp_path: Path) -> None:
    task = mmlu_task(tmp_path, made.mmlu(6), made.mmlu(4), num_fewshot=2)
    with pytest.raises(Invalid, match="has 1 examples for mmlu_anatomy, but 2 are asked for"):
        read_benchmark(task)


def test_a_bad_row_is_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    write_lines(tmp_path / "g.jsonl", [{"question": "q", "answer": "a"}])
    task = {"benchmark": "gsm8k", "file": str(tmp_path / "g.jsonl"), "num_fewshot": 0}
    with pytest.raises(Invalid, match=r"g\.jsonl, row 1 has an answer"):
        check_files(EvaluateConfig.model_validate({"tasks": [task]}).tasks)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"benchmark": "gsm8k"}, "gsm8k is asked with 5 solved examples: name their file in fewshot_file"),
        ({"benchmark": "mmlu", "num_fewshot": 5}, "mmlu is asked with 5 solved examples"),
        (
            {"benchmark": "truthfulqa_mc1", "num_fewshot": 1},
            "truthfulqa_mc1 has six solved examples in its prompt",
        ),
        ({"benchmark": "mlu"}, "Input should be 'mmlu'"),
        ({"benchmark": "mmlu", "name": "a/b"}, "String should match pattern"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(task: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        EvaluateConfig.model_validate({"tasks": [{"file": "f.jsonl", **task}]})


def test_a_benchmark_may_be_listed_again_under_another_name() -> None:
    task = {"benchmark": "mmlu", "file": "f.jsonl"}
    EvaluateConfig.model_validate({"tasks": [task, {**task, "name": "mmlu-5"}]})
    with pytest.raises(ValueError, match="task 'mmlu' is listed twice"):
        EvaluateConfig.model_validate({"tasks": [task, {**task, "limit": 5}]})


REAL_ROWS = 200


def real(name: str) -> list[made.Row]:
    lines = (BENCHMARKS / name).read_bytes().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the public data sets do not lie beside the repository")
@pytest.mark.parametrize("benchmark_name", ["arc_challenge", "truthfulqa_mc1", "truthfulqa_mc2", "gsm8k"])
def test_real_rows_have_the_prompts_and_scores_of_lm_eval(
    worded_model: HfModel, tmp_path: Path, benchmark_name: str
) -> None:
    task: dict[str, Any] = {"benchmark": benchmark_name, "limit": REAL_ROWS}
    file = "truthfulqa.jsonl" if benchmark_name.startswith("truthfulqa") else f"{benchmark_name}.jsonl"
    rows = real(file)[:REAL_ROWS]
    task["file"] = str(BENCHMARKS / file)
    if benchmark_name.startswith("truthfulqa"):
        splits = {"validation": write_lines(tmp_path / "theirs.jsonl", made.truthfulqa_of_lm_eval(rows))}
    else:
        splits = {"test": write_lines(tmp_path / "theirs.jsonl", rows)}
    if benchmark_name == "gsm8k":
        splits["train"] = BENCHMARKS / "gsm8k_train_200.jsonl"
        task["fewshot_file"] = str(splits["train"])
    parsed = BenchmarkTask.model_validate(task)
    found = ours(worded_model, parsed, tmp_path)
    lm_eval = theirs(worded_model, benchmark_name, PACKAGED[benchmark_name], splits, parsed.shots)
    check_same(found, benchmark_name, lm_eval)


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the public data sets do not lie beside the repository")
def test_real_rows_of_hellaswag_have_the_scores_of_lm_eval(worded_model: HfModel, tmp_path: Path) -> None:
    from lm_eval.tasks.hellaswag.utils import preprocess

    rows = real("hellaswag.jsonl")[:REAL_ROWS]
    task = BenchmarkTask(benchmark="hellaswag", file=str(BENCHMARKS / "hellaswag.jsonl"), limit=REAL_ROWS)
    processed = [
        {
            "query": preprocess(row["ctx"]),
            "choices": [preprocess(ending) for ending in row["endings"]],
            "label": str(row["label"]),
        }
        for row in rows
    ]
    splits = {"validation": write_lines(tmp_path / "theirs.jsonl", processed)}
    found = ours(worded_model, task, tmp_path)
    check_same(
        found,
        "hellaswag",
        theirs(worded_model, "hellaswag", PACKAGED["hellaswag"], splits, 0, process_docs=None),
    )


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the public data sets do not lie beside the repository")
def test_real_rows_of_mmlu_have_the_scores_of_lm_eval(worded_model: HfModel, tmp_path: Path) -> None:
    wanted = {"abstract_algebra", "anatomy", "astronomy", "business_ethics"}
    rows = [row for row in real("mmlu.jsonl") if row["subject"] in wanted][:REAL_ROWS]
    dev = [row for row in real("mmlu_dev.jsonl") if row["subject"] in wanted]
    for row in [*rows, *dev]:
        row["answer"] = int(row["answer"])
    found = ours(worded_model, mmlu_task(tmp_path, rows, dev, num_fewshot=5), tmp_path)
    check_mmlu(worded_model, tmp_path, found, rows, dev, 5)
