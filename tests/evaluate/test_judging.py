"""Judges: both orders, ties, failures, repairs, marks, and agreement with people."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.evaluate.remote import says
from tests.lines import write_lines
from tests.serve.scripted_upstream import Script, error, scripted
from tests.serve.scripted_upstream import says as replies

from raymill.cluster.context import LocalContext
from raymill.evaluate.judge_config import Judgement
from raymill.evaluate.judge_job import run_judge
from raymill.evaluate.samples import write_parquet
from raymill.policies.errors import Invalid
from raymill.registry.artifacts import digest_files
from raymill.registry.samples import SampleFile

TASK = "heldout_exact_match"


@pytest.fixture
def upstream() -> Iterator[Script]:
    with scripted() as script:
        yield script


def kept(root: Path, side: str, count: int) -> dict[str, Any]:
    """Samples of an evaluation: the answer of side `a` to example 3 is `a3`."""
    name = f"evaluation/{side}/000000000001"
    rows = [
        {
            "variant": "train", "index": n, "doc_hash": f"d{n}", "prompt": f"question {n}", "reference": "r",
            "answer": f"{side}{n}", "score": 1.0,
        }
        for n in range(count)
    ]  # fmt: skip
    write_parquet(rows, root / "artifacts" / name / f"{TASK}.parquet")
    (file,) = digest_files(root / "artifacts" / name)
    return asdict(SampleFile(label=side, task=TASK, artifact_name=name, file=file, variant=""))


def context_for(root: Path, upstream: Script, count: int, **asked: Any) -> LocalContext:
    judged = {"a": "a@1", "b": "b@1", "judge": f"{upstream.url}/v1#j", **asked}
    config = {
        "a": kept(root, "a", count),
        "b": kept(root, "b", count + 2) if judged["b"] else None,
        "of": {"artifact": None, "target": "gateway:a", "variant": ""},
        "judgement": Judgement.model_validate(judged).model_dump(mode="json"),
        "ask": {"concurrency": 4},
        "key_env": None,
    }
    return LocalContext(root, job_id="judge", name="a", address="0" * 12, config=config)


def verdict(word: str) -> str:
    return json.dumps({"reason": f"because {word}", "verdict": word})


def prefers(upstream: Script, wanted: dict[int, str]) -> None:
    """A judge that prefers, by the example's number: `a`, `b`, `tie`; `first` (whoever that is), `garbage`, `late` (garbage,
    then a), `refused`."""

    async def act(seen: Any, writer: Any) -> None:
        turns = seen.body["messages"]
        first, number = re.findall(r"<first_answer>\n([ab])(\d+)\n", turns[1]["content"])[0]
        want = wanted[int(number)]
        if want == "refused":
            await replies(400, error("not this one"))(seen, writer)
            return
        if want == "garbage" or (want == "late" and len(turns) == 2):
            await says(lambda _: '{"verdict": "A"}')(seen, writer)
            return
        want = "a" if want == "late" else want
        word = want if want in {"tie", "first"} else "first" if want == first else "second"
        await says(lambda _: f"My verdict:\n```json\n{verdict(word)}\n```")(seen, writer)

    upstream.on("j", act)


def test_pairs_are_asked_in_both_orders_and_what_changes_with_it_is_a_tie(
    upstream: Script, tmp_path: Path
) -> None:
    wanted = dict(enumerate(["a"] * 5 + ["b", "first", "tie", "late", "garbage", "refused"]))
    prefers(upstream, wanted)
    labels = tmp_path / "labels.jsonl"
    said = [{"index": n, "label": "b" if n == 4 else "a"} for n in range(5)]
    write_lines(labels, [*said, {"doc_hash": "d5", "label": "b"}])
    context = context_for(
        tmp_path, upstream, 11, labels={"file": str(labels), "source": "two agents"}, rubric="Be kind."
    )
    result = run_judge(context).result
    told = {key: result[key] for key in ("examples", "failures", "wins", "losses", "ties")}
    assert told == {"examples": 11, "failures": 2, "wins": 6, "losses": 1, "ties": 2}
    assert result["win_rate"] == pytest.approx(7 / 9)
    assert 0 < result["low"] < result["win_rate"] < result["high"] <= 1
    assert (result["verdict"], result["p_value"]) == ("no evidence", pytest.approx(0.125))
    assert result["position_bias"] == {
        "rate": pytest.approx(1 / 9),
        "inconsistent": 1,
        "toward_first": 1,
        "toward_second": 0,
    }
    assert result["agreement"]["source"] == "two agents"
    assert (result["agreement"]["examples"], result["agreement"]["agreement"]) == (6, pytest.approx(5 / 6))
    assert result["agreement"]["kappa"] == pytest.approx((5 / 6 - 22 / 36) / (1 - 22 / 36))
    # Two for each example, one more for each order that was repaired, two more for each that never was.
    assert len(upstream.seen) == 2 * 11 + 2 * 1 + 2 * 2
    assert result["usage"]["answers"] == 26
    assert (result["usage"]["refused"], result["usage"]["prompt_tokens"]) == (2, 260)
    system, user = (turn["content"] for turn in upstream.seen[0].body["messages"])
    assert "Be kind." in system
    assert "<reference_answer>\nr\n</reference_answer>" in user
    (again,) = [
        seen.body["messages"][3]["content"]
        for seen in upstream.seen
        if len(seen.body["messages"]) == 4 and "a8" in seen.body["messages"][1]["content"]
    ][:1]
    assert "cannot be read" in again
    table = pq.read_table(tmp_path / "artifacts" / result["artifact"] / "judge.parquet").to_pylist()
    assert [row["verdict"] for row in table] == ["a"] * 5 + ["b", "tie", "tie", "a", None, None]
    assert (table[0]["reason_ab"], table[0]["reason_ba"]) == ("because first", "because second")
    assert (table[9]["score"], table[9]["tries"], "required property" in table[9]["failure"]) == (
        None,
        6,
        True,
    )
    assert table[10]["failure"] == "400: not this one; 400: not this one"
    # What was kept is not asked again, whatever killed the attempt.
    assert run_judge(context).result["win_rate"] == result["win_rate"]
    assert len(upstream.seen) == 28


def test_marks_of_a_rubric_lie_between_0_and_1_and_agree_with_people_by_their_distance(
    upstream: Script, tmp_path: Path
) -> None:
    def mark(seen: Any) -> str:
        number = int(re.findall(r"<answer>\na(\d+)\n", seen.body["messages"][1]["content"])[0])
        return json.dumps({"reason": "so", "mark": 9 if number == 7 else 1 + number % 5})

    upstream.on("j", says(mark))
    labels = tmp_path / "labels.jsonl"
    write_lines(labels, ({"index": n, "label": 1 + n % 5} for n in range(10)))
    asked = {"b": None, "kind": "rubric", "rubric": "Right.", "labels": {"file": str(labels), "source": "we"}}
    result = run_judge(context_for(tmp_path, upstream, 10, **asked)).result
    assert (result["failures"], result["score"]) == (1, pytest.approx((2 * 2.5 - 0.5) / 9))
    assert (result["agreement"]["weights"], result["agreement"]["kappa"]) == ("quadratic", 1.0)
    table = pq.read_table(tmp_path / "artifacts" / result["artifact"] / "judge.parquet").to_pylist()
    assert (table[7]["score"], table[9]["score"], table[9]["mark"]) == (None, 1.0, 5)
    assert table[0]["metric"].startswith("rubric ")
    assert table[0]["metric"].endswith(f" by {upstream.url}/v1#j")


def test_a_judge_that_is_never_understood_and_labels_of_nothing_are_refused(
    upstream: Script, tmp_path: Path
) -> None:
    prefers(upstream, {0: "garbage", 1: "garbage"})
    with pytest.raises(Invalid, match="gave no verdict on any of 2 examples"):
        run_judge(context_for(tmp_path, upstream, 2))
    labels = tmp_path / "labels.jsonl"
    asked = len(upstream.seen)
    for row, said in (
        ({"index": 0, "label": "first"}, r"labels\.jsonl, row 1 is no label: .* a, tie, b"),
        ({"index": [0], "label": "a"}, r"labels\.jsonl, row 1 is no label: give index"),
        ({"index": 2, "label": "a"}, r"no row of labels\.jsonl is of an example that is judged"),
    ):
        write_lines(labels, [row])
        with pytest.raises(Invalid, match=said):
            run_judge(context_for(tmp_path, upstream, 2, labels={"file": str(labels), "source": "we"}))
    assert len(upstream.seen) == asked  # the judge costs money
    for wrong, reason in (
        ({"a": "a@1", "judge": "j"}, "pairwise compares two: name b"),
        ({"a": "a@1", "b": "b@1", "judge": "j", "kind": "rubric"}, "leave b out"),
        ({"a": "a@1", "judge": "j", "kind": "rubric"}, "say what makes an answer good"),
    ):
        with pytest.raises(ValueError, match=reason):
            Judgement.model_validate(wrong)
