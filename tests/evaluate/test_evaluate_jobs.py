"""The handlers as the engine calls them, but without the engine: real Ray, real models, real files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.lines import write_lines

from raymill.cluster.context import JsonObject, LocalContext
from raymill.evaluate.compress import FOLDER
from raymill.evaluate.compress_job import run_compress
from raymill.evaluate.exact_match import record_of
from raymill.evaluate.hf_model import HfModel
from raymill.evaluate.jobs import run_evaluate
from raymill.evaluate.prompts import Answer, Conversation, read_rows
from raymill.evaluate.quantize_job import run_quantize
from raymill.evaluate.samples import SampleLog
from raymill.policies.errors import Invalid
from raymill.registry.artifacts import sha256_file

pytestmark = pytest.mark.usefixtures("ray_session")

MODEL = "model/tiny/000000000001"
DATASET = "dataset/tiny/000000000002"
ANY = {"kl_mean": 10, "kl_p99": 50, "same_top": 0, "perplexity_ratio": 1000, "agreement": 0}
WIDE = {"Q8_0": ANY, "Q4_K_M": ANY}
"""Random weights lose most of what they say when they lose bits."""


@pytest.fixture(scope="module")
def store(
    tiny_model: Path, conversations: list[Conversation], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An artifact store with the model, and a set of which it answers all but every fourth row right."""
    root = tmp_path_factory.mktemp("store")
    shutil.copytree(tiny_model, root / "artifacts" / MODEL)
    answers = HfModel(str(tiny_model)).generate(conversations, 16)
    rows = [
        (asked, "something else" if number % 4 == 0 else answer["text"])
        for number, (asked, answer) in enumerate(zip(conversations, answers, strict=True))
    ]
    write_rows(root / "artifacts" / DATASET / "test.jsonl", rows)
    return root


def write_rows(path: Path, rows: list[tuple[list[dict[str, str]], str]]) -> None:
    """A data set in normal form: each row is the question and its answer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"messages": [*asked, {"role": "assistant", "content": answer}]}, ensure_ascii=False)
        for asked, answer in rows
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def context_for(store: Path, job: str, config: JsonObject, **inputs: JsonObject) -> LocalContext:
    given = {"dataset": {"artifact": DATASET}, "train": {"artifact": MODEL}, **inputs}
    return LocalContext(
        store, job_id=job, name="tiny", address=job[:12].ljust(12, "0"), config=config, inputs=given
    )


def test_a_model_is_measured_on_the_held_out_rows(store: Path) -> None:
    context = context_for(store, "evaluate", {"of": "train", "max_new_tokens": 16, "batch": 5, "actors": 2})
    outcome = run_evaluate(context)
    result = outcome.result
    assert result["metrics"] == {"heldout_exact_match": pytest.approx(17 / 23)}
    assert result["samples"] == {"heldout_exact_match": 23}
    assert result["digest"] == outcome.artifacts[0].digest
    table = pq.read_table(context.path(result["artifact"]) / "heldout_exact_match.parquet").to_pylist()
    assert [line["index"] for line in table] == list(range(23))
    assert [line["score"] for line in table] == [float(number % 4 != 0) for number in range(23)]
    assert table[0]["prompt"].endswith("<|assistant|>")
    assert {"done": 23, "total": 23, "what": "samples", "task": "heldout"} in [
        data for kind, data in context.events if kind == "progress"
    ]


def test_the_next_attempt_asks_only_for_what_is_missing(store: Path) -> None:
    context = context_for(store, "again", {"of": "train", "max_new_tokens": 16, "batch": 5, "actors": 1})
    rows = read_rows(store / "artifacts" / DATASET / "test.jsonl")
    wrong = Answer(prompt="p", text="", prompt_tokens=1, tokens=[], finished=True)
    log = SampleLog(context.work_dir / "samples" / "answers" / "heldout.jsonl")
    log.add(record_of(row, wrong) for row in rows[:13])
    with log.path.open("ab") as file:
        file.write(b'{"index": 13, "pro')  # where the earlier attempt was killed
    outcome = run_evaluate(context)
    # Of the ten rows that were left, 16 and 20 are answered wrong.
    assert outcome.result["metrics"]["heldout_exact_match"] == pytest.approx(8 / 23)
    said = [data["text"] for kind, data in context.events if kind == "log"]
    assert said == ["heldout: 13 of 23 samples are there from an earlier attempt"]


def test_an_unknown_step_is_refused(store: Path) -> None:
    with pytest.raises(Invalid, match="of is 'serve': evaluate the model of base, train or quantize"):
        run_evaluate(context_for(store, "bad", {"of": "serve"}))


def test_quantized_files_are_made_compared_and_measured(store: Path) -> None:
    config = {
        "types": ["F16", "Q8_0", "Q4_K_M"],
        "parity_prompts": 20,
        "max_new_tokens": 16,
        "verify": {"tokens": 300, "bounds": WIDE},
    }
    context = context_for(store, "quantize", config)
    outcome = run_quantize(context)
    made: dict[str, Any] = outcome.result
    files = {file["type"]: file for file in made["files"]}
    folder = store / "artifacts" / made["artifact"]
    assert list(files) == ["F16", "Q8_0", "Q4_K_M"]
    for file in files.values():
        assert sha256_file(folder / file["file"]) == file["sha256"]
        assert (folder / file["file"]).stat().st_size == file["size_bytes"]
        assert sum(file["tensors"].values()) == len(file["tensor_types"]) == 21
        assert file["parity"]["prompts"] == 20
        assert file["parity"]["template_identical"]
        assert file["planned_bytes"] == pytest.approx(file["size_bytes"], abs=1000)
        assert file["verification"] == made["metrics"][file["type"]]
        assert file["verification"]["tokens"] == 300
    assert [data["how"] for kind, data in context.events if kind == "sizes"] == ["about", "exactly"]
    assert files["F16"]["parity"]["agreement"] >= 0.8
    assert files["F16"]["size_bytes"] > files["Q8_0"]["size_bytes"] > files["Q4_K_M"]["size_bytes"]

    text = store / "text.jsonl"
    write_lines(text, ({"text": f"please help {number}"} for number in range(3)))
    tasks = ["heldout_exact_match", "heldout_f1", {"perplexity": str(text), "metric": "bits_per_byte"}]
    config = {"max_new_tokens": 16, "tasks": tasks}
    evaluated = run_evaluate(context_for(store, "of-quantized", {"of": "quantize", **config}, quantize=made))
    scores = evaluated.result["metrics"]
    assert list(scores) == ["F16", "Q8_0", "Q4_K_M"]
    of_model = run_evaluate(context_for(store, "of-model", {"of": "train", **config})).result["metrics"]
    assert scores["F16"]["perplexity"] == pytest.approx(of_model["perplexity"], rel=0.02)
    assert scores["F16"]["heldout_f1"] >= scores["F16"]["heldout_exact_match"]
    assert scores["F16"]["heldout_exact_match"] == pytest.approx(17 / 23, abs=0.2)
    table = pq.read_table(
        store / "artifacts" / evaluated.result["artifact"] / "heldout_exact_match.parquet"
    ).to_pylist()
    assert len(table) == 3 * 23


def test_a_model_without_a_chat_template_is_refused(store: Path) -> None:
    bare = store / "artifacts" / "model/tiny/000000000003"
    shutil.copytree(store / "artifacts" / MODEL, bare)
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    path = bare / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("chat_template", None)
    path.write_text(json.dumps(config), encoding="utf-8")
    context = context_for(
        store, "bare", {"of": "train", "actors": 1}, train={"artifact": "model/tiny/000000000003"}
    )
    with pytest.raises(Invalid, match=r"has no chat template: add chat_template\.jinja"):
        run_evaluate(context)


@pytest.mark.slow  # llm-compressor's imports, half a minute
@pytest.mark.skipif(not FOLDER.is_dir(), reason="llm-compressor is not installed: run `make setup`")
def test_compressed_weights_are_artifacts_of_their_own(store: Path) -> None:
    config = {"types": ["FP8"], "verify": {"tokens": 300, "bounds": {"FP8": {"kl_mean": 0.5, "kl_p99": 5}}}}
    context = context_for(store, "compress", config)
    outcome = run_compress(context)
    (made,) = outcome.result["files"]
    (published,) = outcome.artifacts
    assert (made["type"], made["artifact"], made["sha256"]) == ("FP8", published.name, published.digest)
    assert published.name.startswith("fp8/tiny/")
    assert made["verification"]["tokens"] == 300
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.path for file in published.files}
    assert run_compress(context).artifacts[0].digest == published.digest  # after a kill, at the very end
