from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq
import pytest
from tests.evaluate.pools import InThisProcess

from raymill.cluster.context import LocalContext
from raymill.evaluate import jobs
from raymill.evaluate.actors import ActorPool
from raymill.evaluate.config import HELDOUT, HELDOUT_F1, EvaluateConfig, JsonSchemaTask
from raymill.evaluate.json_schema import JsonSchema, read_schema
from raymill.evaluate.measures import judge_of, metrics_of
from raymill.evaluate.prompts import Answer, Conversation, Row
from raymill.evaluate.tasks import check_files, run_heldout
from raymill.evaluate.token_f1 import normalised, token_f1
from raymill.policies.errors import Invalid, NotFound
from raymill.registry.artifacts import sha256_file

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"intent": {"enum": ["refund", "repair"]}, "urgency": {"type": "integer", "minimum": 1}},
    "required": ["intent"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("answer", "reference", "f1", "precision", "recall"),
    [
        ("The Eiffel Tower!", "eiffel tower", 1, 1, 1),
        ("in Paris, France", "Paris", 1 / 2, 1 / 3, 1),  # 2 * 1/3 * 1 / (1/3 + 1)
        ("red red blue", "red blue blue", 2 / 3, 2 / 3, 2 / 3),  # one red and one blue are shared
        ("cat", "dog", 0, 0, 0),
        ("", "the", 1, 1, 1),  # an article alone is nothing
        ("", "dog", 0, 0, 0),
        ("a-b c", "ab c", 1, 1, 1),  # what stands between punctuation is one word
        ("thermal", "mal", 0, 0, 0),  # articles are whole words only
    ],
)
def test_words_that_are_shared_make_f1(
    answer: str, reference: str, f1: float, precision: float, recall: float
) -> None:
    assert token_f1(answer, reference) == pytest.approx((f1, precision, recall))


def test_words_are_normalised_as_squad_does() -> None:
    assert normalised("An  apple,\ta DAY… (the)") == ["apple", "day…"]


@pytest.mark.parametrize(
    ("answer", "reason", "detail"),
    [
        ('{"intent": "refund", "urgency": 2}', "", ""),
        (' {"intent": "repair"}\n', "", ""),
        ('{"intent": "refund", "urgency": 0}', "invalid", "$.urgency: 0 is less than the minimum of 1"),
        ('{"urgency": 2}', "invalid", "$: 'intent' is a required property"),
        ('{"intent": "refund", "x": 1}', "invalid", "$: Additional properties are not allowed"),
        ("refund", "no_json", "Expecting value"),
        ('```json\n{"intent": "refund"}\n```', "no_json", "Expecting value"),
        ('{"intent": "refund"} I hope this helps', "no_json", "Extra data"),
        ('{"intent": NaN}', "no_json", "NaN is no JSON number"),
        ("[" * 100_000, "no_json", ""),
        ("", "no_json", "Expecting value"),
    ],
)
def test_an_answer_is_valid_when_it_is_json_of_the_schema_and_nothing_else(
    answer: str, reason: str, detail: str
) -> None:
    verdict = JsonSchema(SCHEMA, "s.json").judge(answer)
    assert verdict.reason == reason
    assert verdict.detail.startswith(detail)
    assert len(verdict.detail) <= 300


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "s.json is no JSON: "),
        ("[]", "s.json holds no JSON Schema: give an object"),
        ("{}", "s.json holds no JSON Schema: give an object"),
        ('{"type": "dict"}', r"s.json is no JSON Schema: at \$.type: 'dict' is not valid"),
        ('{"properties": []}', r"s.json is no JSON Schema: at \$.properties: "),
        ("\xff", "s.json is no JSON: "),
    ],
)
def test_what_is_no_schema_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "s.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(Invalid, match=f"^{message}"):
        read_schema(JsonSchemaTask(json_schema=str(path)))


def test_a_schema_that_is_missing_changed_or_elsewhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    with pytest.raises(NotFound, match="there is no file"):
        read_schema(JsonSchemaTask(json_schema=str(path)))
    path.write_text(json.dumps(SCHEMA))
    same = JsonSchemaTask(json_schema=str(path), sha256=sha256_file(path))
    assert read_schema(same).digest == read_schema(JsonSchemaTask(json_schema=SCHEMA)).digest
    with pytest.raises(Invalid, match=r"the task says 000000000000…: it has changed"):
        read_schema(same.model_copy(update={"sha256": "0" * 64}))
    elsewhere = JsonSchema({"$ref": "https://example.com/s.json"}, "s.json")
    with pytest.raises(
        Invalid, match=r"s.json refers to 'https://example.com/s.json', which does not lie in it"
    ):
        elsewhere.judge("1")


class Parrot:
    """Says the last word of what it is asked."""

    def __init__(self) -> None:
        self.asked: list[Conversation] = []

    def generate(
        self, conversations: list[Conversation], max_new_tokens: int, tools: Sequence[Any]
    ) -> list[Answer]:
        assert (max_new_tokens, len(tools)) == (16, len(conversations))
        self.asked += conversations
        words = [str(each[-1]["content"]).split()[-1] for each in conversations]
        return [
            Answer(prompt=f"<{word}>", text=word, prompt_tokens=1, tokens=[1], finished=True)
            for word in words
        ]


ROWS = [
    Row(index=number, messages=[{"role": "user", "content": f"say {said}"}], reference=wanted)
    for number, (said, wanted) in enumerate(
        [("yes", "yes"), ("no", "yes"), ('{"intent":"refund"}', "refund")]
    )
]


def test_every_measure_judges_the_same_answers_which_are_written_once(tmp_path: Path) -> None:
    schema = JsonSchemaTask(json_schema=SCHEMA, name="form")
    config = EvaluateConfig(tasks=(HELDOUT, HELDOUT_F1, schema), batch=2, max_new_tokens=16)
    context = LocalContext(tmp_path, name="tiny")
    model = Parrot()
    pool = cast(ActorPool, InThisProcess(model))
    exact, overlap, form = (
        run_heldout(context, pool, ROWS, config, task) for task in (HELDOUT, HELDOUT_F1, schema)
    )
    assert len(model.asked) == 3
    assert exact.metrics == {HELDOUT: pytest.approx(1 / 3)}
    assert overlap.details == {HELDOUT_F1: {"f1": 1 / 3, "precision": 1 / 3, "recall": 1 / 3}}
    assert form.details == {"form": {"valid": 1 / 3, "parsed": 1 / 3}}
    assert [record["reason"] for record in form.records["form"]] == ["no_json", "no_json", ""]
    hashes = [
        [record["doc_hash"] for record in of] for of in (*exact.records.values(), *form.records.values())
    ]
    assert hashes[0] == hashes[1]

    log = context.work_dir / "samples" / "answers" / "heldout.jsonl"
    log.write_text(log.read_text().splitlines(keepends=True)[0] + '{"index": 1, "pro')  # killed here
    assert run_heldout(context, pool, ROWS, config, HELDOUT_F1) == overlap
    assert len(model.asked) == 5


def test_shares_under_two_schemas_are_two_metrics() -> None:
    judges = [judge_of(JsonSchemaTask(json_schema=each))[0] for each in (SCHEMA, {"type": "string"})]
    one, other = (judge({"answer": "{}"})["metric"] for judge in judges)
    assert one.startswith("valid by schema ")
    assert one != other


def test_the_metrics_are_means_over_the_answers() -> None:
    judge, means = judge_of(HELDOUT_F1)
    records: list[dict[str, Any]] = [
        {"answer": answer, "reference": "red car"} for answer in ("red car", "red", "dog", "the car red")
    ]
    records = [{**record, **judge(record)} for record in records]
    assert metrics_of(records, means) == {
        "f1": (1 + 2 / 3 + 0 + 1) / 4,
        "precision": 3 / 4,
        "recall": 2.5 / 4,
    }


def test_a_file_that_is_wrong_is_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"there is no file .*gone\.json"):
        check_files((HELDOUT, JsonSchemaTask(json_schema=str(tmp_path / "gone.json"))))


def test_an_evaluation_publishes_the_samples_of_each_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "ActorPool", lambda *_, **__: InThisProcess(Parrot()))
    monkeypatch.setattr(jobs, "pool_size", lambda _: None)
    config = EvaluateConfig(tasks=(HELDOUT, JsonSchemaTask(json_schema=SCHEMA)), max_new_tokens=16)
    context = LocalContext(tmp_path, name="tiny", inputs={"train": {"artifact": "model"}})
    results = jobs.evaluate_model(context, config, ROWS, "train")
    folder = jobs.write_samples(context, results)
    for task, scores in ((HELDOUT, [1, 0, 0]), ("heldout_json_schema", [0, 0, 1])):
        table = pq.read_table(folder / f"{task}.parquet").to_pylist()
        assert [line["score"] for line in table] == scores
