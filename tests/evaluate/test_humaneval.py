from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from tests.conftest import SHARED_DATA
from tests.evaluate.benchmark_rows import Row, humaneval
from tests.evaluate.pools import InThisProcess
from tests.lines import json_lines

from raymill.cluster.context import LocalContext
from raymill.evaluate import jobs
from raymill.evaluate.actors import ActorPool
from raymill.evaluate.config import EvaluateConfig, HumanEvalTask, LmEvalTask, SandboxConfig
from raymill.evaluate.gguf_model import GgufModel
from raymill.evaluate.hf_model import HfModel
from raymill.evaluate.humaneval import (
    STOPS,
    metrics_of,
    pass_at_k,
    program_of,
    read_problems,
    run_all,
    solution_of,
)
from raymill.evaluate.llama_cpp_runner import LlamaCppRunner
from raymill.evaluate.lm_eval_tasks import LmEvalTasks
from raymill.evaluate.prompts import completion_ids, load_tokenizer
from raymill.evaluate.sandbox.runner import Sandbox
from raymill.evaluate.tasks import run_humaneval
from raymill.policies.errors import Invalid, NotFound
from raymill.registry.artifacts import sha256_file


def written(folder: Path, rows: Sequence[Row], name: str = "small.jsonl") -> Path:
    path = folder / name
    text = json_lines(rows)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["small.jsonl", "small.jsonl.gz", "small.parquet"])
def test_the_public_layout_is_read_from_each_kind_of_file(tmp_path: Path, name: str) -> None:
    problems = read_problems(written(tmp_path, [humaneval(0), humaneval(1), humaneval(2)], name), limit=2)
    assert [problem.task_id for problem in problems] == ["Small/0", "Small/1"]
    assert problems[1].prompt == humaneval(1)["prompt"]
    assert problems[1].canonical_solution == "    return x + 1\n"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"test": 3}, r"small\.jsonl, row 2 needs the text fields task_id, prompt, test, entry_point"),
        ({"prompt": "def add(x):\n"}, "row 2: prompt is no Python: "),
        ({"entry_point": "sub"}, "row 2: the prompt does not define sub, its entry_point"),
        ({"test": "assert True"}, r"row 2: the test does not define check\(candidate\)"),
        (
            {"test": "def check(candidate):\n    import numpy.linalg\n"},
            "row 2 imports numpy: the sandbox holds the standard library only",
        ),
        ({"task_id": "Small/0"}, "has Small/0 twice"),
    ],
)
def test_a_row_that_cannot_be_judged_is_named(tmp_path: Path, changed: Row, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        read_problems(written(tmp_path, [humaneval(0), humaneval(1, **changed)]))


def test_another_file_than_the_one_that_was_planned_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, [humaneval(0)])
    digest = sha256_file(path)
    assert len(read_problems(path, sha256=digest)) == 1
    written(tmp_path, [humaneval(1)])
    with pytest.raises(Invalid, match="has changed"):
        read_problems(path, sha256=digest)
    with pytest.raises(NotFound, match="there is no file"):
        read_problems(tmp_path / "none.jsonl")


def test_the_code_of_a_conversation_ends_with_its_block(tmp_path: Path) -> None:
    (problem,) = read_problems(written(tmp_path, [humaneval(0)]))
    assert solution_of(problem, "    return x\n```\nThis adds 0.") == problem.prompt + "    return x\n"
    assert solution_of(problem, "    return x\n") == problem.prompt + "    return x\n"


def test_pass_at_k_is_the_share_of_subsets_in_which_one_passes() -> None:
    for n, c in itertools.product(range(1, 7), range(7)):
        for k in range(1, n + 1):
            subsets = list(itertools.combinations([number < c for number in range(n)], k))
            share = sum(map(any, subsets)) / len(subsets)
            if c <= n:
                assert pass_at_k(n, c, k) == pytest.approx(share, abs=1e-12)


def test_the_metric_is_the_mean_over_the_problems() -> None:
    scores = {0: [1, 0, 0, 0], 1: [1, 1, 1, 1], 2: [0, 0, 0, 0]}
    records = [{"index": index, "score": float(score)} for index, of in scores.items() for score in of]
    metrics = metrics_of(records, (1, 2))
    assert metrics == {"pass@1": pytest.approx((0.25 + 1) / 3), "pass@2": pytest.approx((0.5 + 1) / 3)}


class Writer(HfModel):
    """Right, but for the problem that adds 3."""

    def __init__(self) -> None:
        super().__init__("nowhere")
        self.asked: list[str] = []

    def load(self) -> None:
        return

    def complete(
        self, prompts: list[str], stops: Sequence[str], max_new_tokens: int, **drawn: Any
    ) -> list[str]:
        assert (tuple(stops), max_new_tokens) == (STOPS, 64)
        assert bool(drawn)
        numbers = [int(prompt.rpartition("Add ")[2].partition(".")[0]) for prompt in prompts]
        self.asked += prompts
        return [f"    return x + {number + (number == 3)}\n" for number in numbers]


def test_answers_are_run_counted_and_kept_and_the_next_attempt_asks_for_the_rest(tmp_path: Path) -> None:
    path = written(tmp_path, [humaneval(number) for number in range(4)])
    task = HumanEvalTask(humaneval=str(path), samples=2, k=(1, 2), max_new_tokens=64, name="small")
    config = EvaluateConfig(tasks=(task,), batch=3)
    context = LocalContext(tmp_path, name="tiny")
    model = Writer()
    result = run_humaneval(context, cast(ActorPool, InThisProcess(model)), task, config)
    assert result.metrics == {"small": pytest.approx(0.75)}
    assert result.details == {"small": {"pass@1": pytest.approx(0.75), "pass@2": pytest.approx(0.75)}}
    records = result.records["small"]
    assert [(each["index"], each["sample"]) for each in records] == [
        (n, s) for n in range(4) for s in range(2)
    ]
    failed = [each for each in records if not each["score"]]
    assert {each["reason"] for each in failed} == {"wrong"}
    assert failed[0]["detail"] == "AssertionError: assert candidate(1) == 4"
    assert len(model.asked) == 8
    assert [data["done"] for kind, data in context.events if kind == "progress"] == [3, 6, 8]

    log = context.work_dir / "samples" / "small.jsonl"
    first, second, _ = log.read_text().splitlines(keepends=True)
    log.write_text(first + second[:40])  # where an attempt was killed
    again = Writer()
    assert run_humaneval(context, cast(ActorPool, InThisProcess(again)), task, config).records == {
        "small": [{**each, "seconds": pytest.approx(each["seconds"], abs=5)} for each in records]
    }
    assert len(again.asked) == 5


def test_an_evaluation_publishes_the_samples_of_problems_too(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = HfModel(str(tiny_model))
    monkeypatch.setattr(jobs, "ActorPool", lambda *_, **__: InThisProcess(model))
    monkeypatch.setattr(jobs, "pool_size", lambda _: None)
    path = written(tmp_path, [humaneval(number) for number in range(3)])
    config = EvaluateConfig(tasks=(HumanEvalTask(humaneval=str(path), max_new_tokens=8, limit=2),))
    context = LocalContext(tmp_path, name="tiny", inputs={"train": {"artifact": "model"}})
    results = jobs.evaluate_model(context, config, [], "train")
    assert results["train"].metrics == {"humaneval": 0.0}
    table = pq.read_table(jobs.write_samples(context, results) / "humaneval.parquet").to_pylist()
    assert [(line["variant"], line["task_id"], line["score"]) for line in table] == [
        ("train", "Small/0", 0.0),
        ("train", "Small/1", 0.0),
    ]
    assert all(line["reason"] and line["detail"] for line in table)


COMPLETED = 'doc_to_text: "{{prompt}}"\n'
ASKED = (
    'doc_to_text: "Write a solution to the following problem and make sure that it passes the tests:\\n'
    '```python\\n{{ prompt }}\\n```\\n"\n'
    'gen_prefix: "Here is the completed function:\\n```python\\n{{ prompt }}\\n"\n'
)
"""From lm-eval's humaneval.yaml and humaneval_instruct.yaml."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("chat", [False, True], ids=["humaneval", "humaneval_instruct"])
def test_prompts_and_answers_are_those_of_lm_eval(tiny_model: Path, tmp_path: Path, chat: bool) -> None:
    rows = [humaneval(number) for number in range(5)]
    problems = read_problems(written(tmp_path, rows))
    (tmp_path / "small.yaml").write_text(
        "task: small\ndataset_path: json\ndataset_kwargs: {data_files: {test: small.jsonl}}\ntest_split: test\n"
        f"output_type: generate_until\n{ASKED if chat else COMPLETED}"
        'doc_to_target: "{{test}}\\ncheck({{entry_point}})"\n'
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
        f"generation_kwargs: {{until: {json.dumps(list(STOPS))}, max_gen_toks: 32, do_sample: false}}\n"
    )
    model = HfModel(str(tiny_model))
    task = HumanEvalTask(humaneval="small.jsonl", max_new_tokens=32, chat_template=chat)
    ours = model.humaneval(task.model_dump(), [(problem, 0) for problem in problems], 0, 2)
    tasks = LmEvalTasks(LmEvalTask(lm_eval=str(tmp_path / "small.yaml"), chat_template=chat))
    plain = HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=5, backend="causal")
    theirs = tasks.shard(plain, 0, 1)["small"]
    assert [record["prompt"] for record in theirs] == [record["prompt"] for record in ours]
    assert [json.loads(record["answer"])[0] for record in theirs] == [record["answer"] for record in ours]
    assert any(record["answer"] for record in ours)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("chat", [False, True], ids=["completed", "asked"])
def test_a_file_is_asked_as_the_model_is_and_answers_alike(
    tiny_model: Path, f16: Path, tmp_path: Path, chat: bool
) -> None:
    problems = read_problems(written(tmp_path, [humaneval(number) for number in range(3)]))
    asked = [(problem, 0) for problem in problems]
    task = HumanEvalTask(humaneval="small.jsonl", max_new_tokens=24, chat_template=chat).model_dump()
    theirs = HfModel(str(tiny_model)).humaneval(task, asked, 0, 2)
    file = GgufModel(str(tiny_model))
    ours = file.humaneval(str(f16), task, asked, 0, 2)
    file.close()
    assert [record["prompt"] for record in ours] == [record["prompt"] for record in theirs]
    same = sum(one["answer"] == other["answer"] for one, other in zip(ours, theirs, strict=True))
    assert same >= 2  # F16 may tip a near tie
    assert any(record["answer"] for record in ours)


def test_a_file_draws_by_its_seed_and_stops_where_the_text_does(tiny_model: Path, f16: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    ids = completion_ids(tokenizer, "please help")
    with LlamaCppRunner(f16) as runner:
        (whole,) = runner.generate([ids], max_new_tokens=24, stops=[])
        text = tokenizer.decode(whole)
        middle = text[len(text) // 2 :][:3]
        (cut,) = runner.generate([ids], max_new_tokens=24, stops=[], until=[middle])
        drawn = [
            runner.generate(
                [ids] * 4,
                max_new_tokens=12,
                stops=[],
                drawn={"temperature": 1.5, "top_p": top_p, "seed": seed},
            )
            for seed, top_p in ((1, 0.95), (1, 0.95), (2, 0.95), (1, 1e-9))
        ]
    assert whole[: len(cut)] == cut
    assert middle in tokenizer.decode(cut)
    assert middle not in tokenizer.decode(cut[:-1])
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(map(tuple, drawn[0]))) > 1
    assert drawn[3] == [whole[:12]] * 4  # nothing but the likeliest is left


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_drawn_answers_are_the_same_for_the_same_seed(tiny_model: Path) -> None:
    model, prompt = HfModel(str(tiny_model)), humaneval(0)["prompt"]
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(model.complete([prompt] * 4, STOPS, 32, temperature=1.5, top_p=0.95, top_k=0))
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) > 1
    with pytest.raises(Invalid, match="lower max_new_tokens"):
        model.complete(["def f():"], STOPS, 1024)


@pytest.mark.real_data
@pytest.mark.parametrize(
    "step", [pytest.param(4, id="every fourth"), pytest.param(1, id="all", marks=pytest.mark.slow)]
)
def test_the_public_solutions_pass_and_empty_ones_fail(step: int) -> None:
    problems = read_problems(SHARED_DATA / "benchmarks" / "humaneval.jsonl")
    assert len(problems) == 82
    some = problems[::step]
    sandbox = Sandbox(SandboxConfig())
    verdicts = run_all(sandbox, [(each, each.prompt + each.canonical_solution) for each in some], 2)
    assert [
        (each.task_id, verdict) for each, verdict in zip(some, verdicts, strict=True) if not verdict.passed
    ] == []
    empty = run_all(sandbox, [(each, each.prompt + "    return None\n") for each in some[::3]], 2)
    assert not any(verdict.passed for verdict in empty)


def test_a_body_with_a_helper_of_a_longer_name_is_still_a_body(tmp_path: Path) -> None:
    (problem,) = read_problems(written(tmp_path, [humaneval(1)]))
    body = "    return add10(x) - 9\n\ndef add10(x):\n    return x + 10\n"
    assert program_of(problem, body) == problem.prompt + body
    assert (
        program_of(problem, "def add(x):\n    return x + 1\n")
        == "import math\n\ndef add(x):\n    return x + 1\n"
    )


def test_imports_of_the_future_stay_at_the_beginning(tmp_path: Path) -> None:
    (problem,) = read_problems(written(tmp_path, [humaneval(1)]))
    future, rest = "from __future__ import annotations\n", "\ndef add(x: Number):\n    return x + 1\n"
    program = program_of(problem, f"```python\n{future}{rest}```")
    assert program == f"{future}import math\n\n{rest}"
    compile(program, "program.py", "exec")
