"""What is drawn: the board of steps, the lineage tree, tables and times."""

from __future__ import annotations

import datetime as dt
import io
import uuid
from typing import Any

import pytest

from raymill.client.cli.board import Board
from raymill.client.cli.follow import draw, final_table
from raymill.client.cli.lineage import lineage_tree
from raymill.client.cli.output import Tree, duration, table
from raymill.client.cli.results import scores, summary
from raymill.client.types import Job, JobEvent, Lineage, Pipeline
from raymill.registry.sizes import size

START = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


def a_job(step: str, state: str, **more: Any) -> Job:
    data: dict[str, Any] = {
        "id": uuid.uuid5(uuid.NAMESPACE_URL, step),
        "pipeline_id": uuid.UUID(int=1),
        "step": step,
        "kind": step,
        "queue": "heavy",
        "name": "tiny",
        "state": state,
        "attempt": 1,
        "max_attempts": 3,
        "epoch": 1,
        "address": None,
        "reused_job_id": None,
        "config": {},
        "result": None,
        "error": None,
        "created_at": START,
        "started_at": START,
        "finished_at": None,
    }
    return Job.model_validate({**data, **more})


def a_pipeline(*jobs: Job, state: str = "running") -> Pipeline:
    return Pipeline.model_validate(
        {
            "id": uuid.UUID(int=1),
            "name": "tiny",
            "state": state,
            "error": None,
            "created_by": "admin",
            "created_at": START,
            "finished_at": None,
            "recipe": {},
            "jobs": jobs,
        }
    )


def an_event(job: Job, kind: str, **data: Any) -> JobEvent:
    return JobEvent(id=1, job_id=job.id, pipeline_id=job.pipeline_id, kind=kind, data=data, at=START)


def test_a_board_tells_which_steps_changed() -> None:
    waiting, running = a_job("train", "queued"), a_job("train", "running")
    board = Board(a_pipeline(a_job("dataset", "running"), waiting))
    done = a_job("dataset", "succeeded", result={"train_rows": 3, "test_rows": 1}, finished_at=START)
    changed = board.refresh(a_pipeline(done, running))
    assert [(row.name, row.label, row.detail) for row in changed] == [
        ("dataset", "succeeded", "3 training rows, 1 held out"),
        ("train", "running", ""),
    ]
    assert board.refresh(a_pipeline(done, running)) == []
    retried = running.model_copy(update={"attempt": 2})
    assert [row.name for row in board.refresh(a_pipeline(done, retried))] == ["train"]


def test_progress_moves_its_row_and_late_progress_of_a_finished_step_does_not() -> None:
    train = a_job("train", "running")
    board = Board(a_pipeline(train))
    row = board.take(an_event(train, "step", step=5, total=10, loss=0.5, eta_s=61, tokens_per_s=1234.5))
    assert row is not None
    assert (row.detail, row.done, row.total) == ("step 5 of 10, loss 0.5, 1,234 tokens/s, 1:01 left", 5, 10)
    board.take(an_event(train, "progress", done=3, total=4, what="samples"))
    assert row.detail == "3 of 4 samples"
    board.take(an_event(train, "phase", name="merge"))
    assert (row.detail, row.total) == ("merge", 0)
    assert board.take(an_event(train, "unheard-of")) is None
    board.refresh(a_pipeline(a_job("train", "succeeded", finished_at=START)))
    assert board.take(an_event(train, "step", step=6, total=10)) is None


def test_the_live_table_shows_a_bar_a_mark_and_what_was_reused() -> None:
    from rich.console import Console

    train = a_job("train", "running")
    kept = a_job("dataset", "succeeded", reused_job_id=uuid.uuid4(), result={"train_rows": 3, "test_rows": 1})
    board = Board(a_pipeline(kept, train, a_job("evaluate", "queued", started_at=None)))
    board.take(an_event(train, "step", step=5, total=10))
    console = Console(width=100, file=io.StringIO(), color_system=None)
    with console.capture() as captured:
        console.print(draw(board))
    text = captured.get()
    assert "✓  dataset" in text
    assert "reused: 3 training rows" in text
    assert "━━━" in text
    assert "step 5 of 10" in text
    assert "·  evaluate" in text


def test_the_final_table_has_times_and_errors() -> None:
    failed = a_job("train", "failed", error="out of\nmemory", finished_at=START + dt.timedelta(seconds=65))
    assert final_table(a_pipeline(failed)).splitlines() == [
        "STEP   STATE   TIME  RESULT",
        "train  failed  1:05  out of memory",
    ]


@pytest.mark.parametrize(
    ("kind", "result", "text"),
    [
        ("pretrain", {"parameters": 4_123_456, "final_loss": 2.34567}, "4,123,456 parameters, loss 2.346"),
        ("evaluate", {"metrics": {"heldout_exact_match": 0.985}}, "heldout_exact_match 0.985"),
        (
            "evaluate",
            {"metrics": {"Q8_0": {"em": 0.98}, "Q4_K_M": {"em": 0.9}}},
            "Q8_0: em 0.98; Q4_K_M: em 0.9",
        ),
        (
            "quantize",
            {"files": [{"type": "Q8_0", "size_bytes": 4_400_000, "parity": {"prompts": 50, "same": 49}}]},
            "Q8_0 4.4 MB, 49 of 50 answers the same",
        ),
        (
            "quantize",
            {"files": [{"type": "Q4_K_M", "size_bytes": 2_600_000, "verification": {"kl_mean": 0.01234}}]},
            "Q4_K_M 2.6 MB, KL 0.012",
        ),
        (
            "promote",
            {"allowed": True, "alias": "production", "version": 3},
            "allowed, production is version 3",
        ),
        (
            "promote",
            {"pending": True, "canary": True, "alias": "production", "version": 3, "promotion_id": "7"},
            "allowed, version 3 tries itself on a share of production, `raymill promotion show 7`",
        ),
        ("deploy", {"digest": "d", "alias": "production", "version": 3}, "alias production, version 3"),
        ("quantize", {"files": []}, ""),
        ("new-kind", {"answer": True, "list": []}, "answer true"),
    ],
)
def test_a_result_is_one_line(kind: str, result: dict[str, Any], text: str) -> None:
    assert summary(a_job("x", "succeeded", kind=kind, result=result)) == text


def test_scores_of_nothing_are_nothing() -> None:
    assert scores({}) == ""


def test_the_lineage_is_a_tree_with_digests() -> None:
    digest = "ab" * 32
    artifact = {
        "name": "model/tiny/0a1b2c3d4e5f",
        "digest": digest,
        "size_bytes": 16_000_000,
        "files": [{"path": "model.safetensors", "size_bytes": 16_000_000, "sha256": "cd" * 32}],
        "created_at": START,
    }
    identity = str(uuid.UUID(int=7))
    chain = Lineage.model_validate(
        {
            "version": {
                "id": identity,
                "llm": "tiny",
                "number": 3,
                "artifact_name": artifact["name"],
                "base_artifact_name": "base/tiny/1",
                "dataset_id": identity,
                "job_id": identity,
                "aliases": ["production"],
                "scores": {},
                "created_at": START,
            },
            "dataset": {
                "id": identity,
                "name": "tiny",
                "number": 1,
                "digest": digest,
                "artifact_name": "dataset/tiny/2",
                "train_rows": 2000,
                "test_rows": 200,
                "format": "messages",
                "created_at": START,
            },
            "base": {**artifact, "name": "base/tiny/1", "files": []},
            "model": artifact,
            "recipe": {},
            "training": {"final_loss": 0.0213, "note": "x"},
            "evaluations": [
                {
                    "artifact_name": artifact["name"],
                    "variant": "model",
                    "task": "heldout_exact_match",
                    "score": 0.985,
                    "samples": 200,
                    "created_at": START,
                }
            ],
            "quantizations": [
                {
                    "type": "Q8_0",
                    "artifact_name": "gguf/tiny/3",
                    "file": "tiny.Q8_0.gguf",
                    "size_bytes": 4_400_000,
                    "sha256": "ef" * 32,
                    "tensors": {"Q8_0": 29, "F32": 9},
                    "parity": {
                        "prompts": 50,
                        "same": 49,
                        "agreement": 0.98,
                        "perplexity": 5.0123,
                        "perplexity_f16": 5,
                        "kl_mean": 0.0012,
                        "kl_p99": 0.03,
                        "same_top": 0.991,
                    },
                    "scores": {"heldout_exact_match": 0.98},
                }
            ],
            "quantized": [{**artifact, "name": "gguf/tiny/3"}],
            "promotions": [
                {
                    "id": identity,
                    "llm": "tiny",
                    "version": 3,
                    "alias": "production",
                    "allowed": True,
                    "state": "executed",
                    "reasons": [],
                    "input": {},
                    "input_digest": digest,
                    "bundle_digest": digest,
                    "requested_by": "admin",
                    "created_at": START,
                }
            ],
            "attestations": [{"artifact_name": artifact["name"], "key_id": "k1"}],
            "alias_moves": [
                {
                    "alias": "production",
                    "version": 3,
                    "previous_version": 2,
                    "actor": "admin",
                    "moved_at": START,
                    "promotion_id": identity,
                }
            ],
        }
    )
    text = lineage_tree(chain).render()
    assert text.startswith(
        "tiny version 3 [production]\n├── dataset tiny number 1  sha256:abababababababab\n"
    )
    for line in (
        "│   ├── model.safetensors  sha256:cdcdcdcdcdcdcdcd  16.0 MB",
        "│   └── training: final_loss 0.0213",
        "│   └── heldout_exact_match 0.985 on 200 samples (model/tiny/0a1b2c3d4e5f model)",
        "├── quantized gguf/tiny/3  sha256:abababababababab",
        "│       ├── tensors: 29 Q8_0, 9 F32",
        "│       ├── parity: 98% of 50 answers the same as the model's",
        "│       ├── against F16: perplexity 5.012 (5), KL divergence 0.0012, 99 % below 0.03, 99.1% the same "
        "likeliest token",
        "│   └── model/tiny/0a1b2c3d4e5f signed with key k1",
    ):
        assert line in text.splitlines()
    assert text.splitlines()[-1].endswith("production -> 3, before that 2 (by admin)")


def test_a_tree_is_drawn_with_its_branches() -> None:
    root = Tree("a")
    root.add("b").add("c")
    root.add("d")
    assert root.render().splitlines() == ["a", "├── b", "│   └── c", "└── d"]


def test_a_table_keeps_one_line_for_each_row() -> None:
    rows = [("x", None, 0.98765, ["p", "q"], "two\nlines")]
    assert table(["A", "B", "C", "D", "E"], rows).splitlines() == [
        "A  B  C       D     E",
        "x  -  0.9877  p, q  two lines",
    ]


def test_times_and_sizes_are_short() -> None:
    assert [duration(s) for s in (None, 0, 7.4, 754, 3723)] == ["-", "0:00", "0:07", "12:34", "1:02:03"]
    assert [size(n) for n in (0, 999, 1000, 4_400_000, 16 * 10**9)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "4.4 MB",
        "16.0 GB",
    ]
