from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from tests.conftest import SHARED_DATA
from tests.evaluate.pools import InThisProcess
from tests.lines import write_lines

from raymill.cluster.context import LocalContext
from raymill.evaluate.actors import ActorPool
from raymill.evaluate.bfcl import Question, judge, question_of, read_questions
from raymill.evaluate.bfcl_checker import OMITTED, check
from raymill.evaluate.config import BfclTask, EvaluateConfig
from raymill.evaluate.hf_model import HfModel
from raymill.evaluate.prompts import Answer, Conversation
from raymill.evaluate.tasks import check_files, run_bfcl
from raymill.evaluate.tool_calls import Call
from raymill.policies.errors import Invalid

PROPERTIES = {
    "city": {"type": "string"},
    "days": {"type": "integer"},
    "share": {"type": "float"},
    "hourly": {"type": "boolean"},
    "words": {"type": "array", "items": {"type": "string"}},
    "shares": {"type": "array", "items": {"type": "float"}},
    "place": {"type": "dict", "properties": {"street": {"type": "string"}}},
    "places": {"type": "array", "items": {"type": "dict"}},
    "unit": {"type": "any"},
}
ALLOWED = {
    "city": ["New York, NY", "NYC"],
    "days": [3],
    "share": [0.5, 2.0, ""],
    "hourly": [True, ""],
    "words": [["sun", "rain"], ""],
    "shares": [[1.0, 2.5], ""],
    "place": [{"street": ["Main St.", "Main Street"], "number": [4, ""]}, ""],
    "places": [[{"street": ["a"]}, {"street": ["b"]}], ""],
    "unit": [5, ""],
}


def row(number: int = 0, **changed: Any) -> dict[str, Any]:
    return {
        "id": f"small_{number}",
        "question": [[{"role": "user", "content": f"Weather in New York for 3 days? ({number})"}]],
        "function": [
            {
                "name": "weather.get",
                "description": "The weather.",
                "parameters": {"type": "dict", "properties": PROPERTIES, "required": ["city", "days"]},
            }
        ],
        "ground_truth": [{"weather.get": ALLOWED}],
        **changed,
    }


def written(folder: Path, rows: Sequence[Any]) -> Path:
    path = folder / "bfcl.jsonl"
    return write_lines(path, rows)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, ""),
        ({"city": "new york ny"}, ""),  # case, blanks and punctuation are nothing
        ({"city": "nyc."}, ""),
        ({"city": "Boston"}, "value"),
        ({"city": 5}, "type"),
        ({"days": 4}, "value"),
        ({"days": 3.0}, "type"),  # no whole number
        ({"days": True}, "type"),
        ({"days": "3"}, "type"),
        ({"share": 0.5}, ""),
        ({"share": 2}, ""),  # a whole number stands for a float
        ({"share": 0.25}, "value"),
        ({"hourly": True}, ""),
        ({"hourly": 1}, "type"),
        ({"words": ["Sun", "RAIN "]}, ""),
        ({"words": ["rain", "sun"]}, "value"),  # order counts
        ({"words": ["sun"]}, "value"),
        ({"words": [1, 2]}, "value"),  # with "" among the allowed values elements may be of any type
        ({"shares": [1.0, 2.5]}, ""),
        ({"place": {"street": "main street"}}, ""),
        ({"place": {"street": "Main St", "number": 4}}, ""),
        ({"place": {"street": "Main St", "number": 5}}, "value"),
        ({"place": {"number": 4}}, "value"),
        ({"place": {"street": "Main St", "city": "x"}}, "value"),
        ({"places": [{"street": "A"}, {"street": "B"}]}, ""),
        ({"places": [{"street": "B"}, {"street": "A"}]}, "value"),
        ({"places": [{"street": "A"}]}, "value"),
        ({"unit": 5}, ""),  # of the type of the allowed values, where that is another than described
        ({"unit": "5"}, "value"),
        ({"country": "US"}, "unexpected"),
        ({"city": None}, "type"),
    ],
)
def test_values_are_compared_as_bfcl_does(changed: dict[str, Any], reason: str) -> None:
    call = Call("weather.get", {"city": "NYC", "days": 3, **changed})
    assert check(call, question_of(row(), 0).wanted).reason == reason


def test_a_list_of_whole_numbers_is_no_list_of_floats() -> None:
    truth = [{"weather.get": {**ALLOWED, "shares": [[1.0, 2.0]]}}]
    wanted = question_of(row(ground_truth=truth), 0).wanted
    call = Call("weather.get", {"city": "NYC", "days": 3, "shares": [1, 2]})
    assert check(call, wanted).reason == "type"


def test_another_name_a_missing_and_a_left_out_argument_are_told_apart() -> None:
    wanted = question_of(row(), 0).wanted
    assert check(Call("weather_get", {"city": "NYC", "days": 3}), wanted).reason == "name"
    assert check(Call("weather.get", {"city": "NYC"}), wanted) == ("missing", "days is required and missing")
    asked = question_of(row(ground_truth=[{"weather.get": {**ALLOWED, "unit": ["C"]}}]), 0).wanted
    assert check(Call("weather.get", {"city": "NYC", "days": 3}), asked).reason == "left_out"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ('<tool_call>{"name": "weather.get", "arguments": {"city": "NYC", "days": 3}}</tool_call>', ""),
        ("It will rain.", "no_call"),
        ('<tool_call>{"name": "weather.get"', "unreadable"),
        ("[weather.get(city='NYC', days=3), weather.get(city='NYC', days=3)]", "count"),
    ],
)
def test_an_answer_is_judged_by_its_one_call(answer: str, reason: str) -> None:
    assert judge(question_of(row(), 0), answer).reason == reason


def test_functions_are_told_in_the_words_of_json_schema() -> None:
    ((tool,),) = [question_of(row(), 0).row.tools]
    parameters = tool["function"]["parameters"]
    assert (tool["type"], tool["function"]["name"], parameters["type"]) == (
        "function",
        "weather.get",
        "object",
    )
    types = {key: each["type"] for key, each in parameters["properties"].items()}
    assert types["share"] == "number"
    assert types["place"] == "object"
    assert types["unit"] == "string"
    assert parameters["properties"]["places"]["items"] == {"type": "object"}


def described(**changed: Any) -> list[dict[str, Any]]:
    """`function` of a row with other parameters."""
    return [{"name": "weather.get", "parameters": {"type": "dict", **changed}}]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([1], "it is no object"),
        (row(id=5), "id is no text"),
        (row(question="hi"), "question is no list"),
        (row(question=[[], []]), "it asks in 2 turns, and one is measured"),
        (row(question=[[]]), "question holds no list of messages"),
        (row(question=[[{"role": "user"}]]), "a message of question has no role and content"),
        (row(ground_truth=[]), "ground_truth is not one call"),
        (row(ground_truth=[{"f": {}, "g": {}}]), "ground_truth is not one call"),
        (row(ground_truth=[{"f": {}}]), "ground_truth calls 'f', which function does not describe"),
        (row(function=[1]), "function holds what is no description"),
        (row(function=[{"name": "weather.get"}]), "weather.get has no parameters"),
        (row(function=described(properties=[])), "weather.get has no parameters"),
        (row(function=described(properties={"city": {"type": "text"}})), "the type of city is 'text'"),
        (row(function=described(properties={"city": 3})), "the type of city is None"),
        (
            row(function=described(properties={"city": {"type": "array", "items": {"type": "x"}}})),
            "the items of city have the type 'x'",
        ),
        (
            row(function=described(properties=PROPERTIES, required="city")),
            "required of weather.get is no list",
        ),
        (row(ground_truth=[{"weather.get": []}]), "ground_truth of weather.get is no object"),
        (
            row(ground_truth=[{"weather.get": {"sky": [1]}}]),
            "ground_truth gives 'sky', which weather.get does not",
        ),
        (row(ground_truth=[{"weather.get": {"city": "NYC"}}]), "ground_truth of city is no list of values"),
        (row(ground_truth=[{"weather.get": {"city": []}}]), "ground_truth of city is no list of values"),
        (
            row(ground_truth=[{"weather.get": {"words": [["a"], 3]}}]),
            "ground_truth of words mixes lists with",
        ),
        (
            row(ground_truth=[{"weather.get": {"place": [{"street": "a"}]}}]),
            "ground_truth of place has a key with",
        ),
        (
            row(ground_truth=[{"weather.get": {"places": [[{"street": "a"}]]}}]),
            "ground_truth of places has a key",
        ),
        (
            row(ground_truth=[{"weather.get": {"city": ["NYC"]}}]),
            "days is required, and ground_truth has no value",
        ),
    ],
)
def test_a_bad_row_is_named_by_its_number(tmp_path: Path, bad: Any, message: str) -> None:
    path = written(tmp_path, [row(), bad])
    with pytest.raises(
        Invalid, match=rf"^bfcl\.jsonl, row 2: {message}.*: give a file in the layout of BFCL"
    ):
        check_files((BfclTask(bfcl=str(path)),))


def test_a_file_without_questions_or_with_one_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"bfcl\.jsonl has small_0 twice: keep one of them"):
        read_questions(BfclTask(bfcl=str(written(tmp_path, [row(), row()]))))
    with pytest.raises(Invalid, match=r"bfcl\.jsonl holds no question"):
        read_questions(BfclTask(bfcl=str(written(tmp_path, []))))


class Caller:
    """Calls right, but for the question with the number 1; tells the functions unless it is `deaf`."""

    def __init__(self, deaf: bool = False) -> None:
        self.deaf = deaf
        self.asked: list[str] = []

    def generate(
        self,
        conversations: list[Conversation],
        max_new_tokens: int,
        tools: Sequence[Sequence[dict[str, Any]]],
    ) -> list[Answer]:
        assert max_new_tokens == 64
        questions = [str(each[-1]["content"]) for each in conversations]
        self.asked += questions
        prompts = ["" if self.deaf else json.dumps(of) for of in tools]
        texts = [f"[weather.get(city='NYC', days={3 + ('(1)' in question)})]" for question in questions]
        return [
            Answer(prompt=prompt, text=text, prompt_tokens=1, tokens=[1], finished=True)
            for prompt, text in zip(prompts, texts, strict=True)
        ]


def test_calls_are_judged_and_kept_and_the_next_attempt_asks_for_the_rest(tmp_path: Path) -> None:
    task = BfclTask(bfcl=str(written(tmp_path, [row(n) for n in range(4)])), max_new_tokens=64, limit=3)
    context = LocalContext(tmp_path, name="tiny")
    model = Caller()
    result = run_bfcl(context, cast(ActorPool, InThisProcess(model)), task, EvaluateConfig(batch=2))
    assert result.metrics == {"bfcl": pytest.approx(2 / 3)}
    assert result.details == {"bfcl": {"accuracy": pytest.approx(2 / 3), "called": 1.0}}
    records = result.records["bfcl"]
    assert [(each["id"], each["score"], each["reason"]) for each in records] == [
        ("small_0", 1.0, ""),
        ("small_1", 0.0, "value"),
        ("small_2", 1.0, ""),
    ]
    assert records[1]["detail"] == "days is 4, right is any of [3]"
    assert len({each["doc_hash"] for each in records}) == 3
    log = context.work_dir / "samples" / "answers" / "bfcl-bfcl.jsonl"
    log.write_text(log.read_text().splitlines(keepends=True)[0] + '{"index": 1,')  # killed here
    again = Caller()
    assert run_bfcl(context, cast(ActorPool, InThisProcess(again)), task, EvaluateConfig(batch=2)) == result
    assert len(again.asked) == 2


def test_a_template_that_leaves_tools_out_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    task = BfclTask(bfcl=str(written(tmp_path, [row()])), max_new_tokens=64)
    context = LocalContext(tmp_path, name="tiny")
    with pytest.raises(
        Invalid, match="the chat template of tiny leaves tools out: measure bfcl on a model whose"
    ):
        run_bfcl(context, cast(ActorPool, InThisProcess(Caller(deaf=True))), task, EvaluateConfig())
    assert not (context.work_dir / "samples" / "answers" / "bfcl-bfcl.jsonl").exists()


def test_a_model_is_asked_through_its_own_template(tiny_model: Path, tmp_path: Path) -> None:
    few = {
        "name": "f",
        "parameters": {"type": "dict", "properties": {"x": {"type": "float"}}, "required": ["x"]},
    }
    task = BfclTask(
        bfcl=str(written(tmp_path, [row(function=[few], ground_truth=[{"f": {"x": [1.0]}}])])),
        max_new_tokens=8,
    )
    pool = cast(ActorPool, InThisProcess(HfModel(str(tiny_model))))
    (record,) = run_bfcl(LocalContext(tmp_path, name="tiny"), pool, task, EvaluateConfig()).records["bfcl"]
    assert '"name": "f"' in record["prompt"]
    assert '"type": "number"' in record["prompt"]
    assert record["prompt"].endswith("<|assistant|>")
    assert record["score"] == 0.0
    assert record["reason"]


def plain(value: Any) -> Any:
    """A value that is right, from the allowed ones as ground_truth writes them."""
    if isinstance(value, dict):
        return {key: plain(each[0]) for key, each in value.items() if each[0] != OMITTED}
    return [plain(each) for each in value] if isinstance(value, list) else value


def right_call(question: Question) -> str:
    allowed = {
        key: next((each for each in values if each != OMITTED), None)
        for key, values in question.wanted.allowed.items()
    }
    arguments = {key: plain(value) for key, value in allowed.items() if value is not None}
    return f"<tool_call>\n{json.dumps({'name': question.wanted.name, 'arguments': arguments})}\n</tool_call>"


@pytest.mark.real_data
def test_the_public_file_is_read_and_its_right_calls_are_right() -> None:
    questions = read_questions(BfclTask(bfcl=str(SHARED_DATA / "benchmarks" / "bfcl_simple.jsonl")))
    assert len(questions) == 200
    verdicts = [judge(question, right_call(question)) for question in questions]
    assert [verdict for verdict in verdicts if verdict.reason] == []
