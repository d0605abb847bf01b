"""Function calling as the Berkeley leaderboard asks it: a question, functions, and the one call that is right.

Reads the public layout of its categories `simple` and `multiple` with the answers in the same rows: `id`, `question` (a list with
one conversation), `function` (descriptions) and `ground_truth` (one call; for each argument the values that are right). The
functions go through the model's chat template as tools. Knows nothing of models.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raymill.evaluate.bfcl_checker import OMITTED, TYPES, Parameter, Verdict, Wanted, check
from raymill.evaluate.config import BfclTask
from raymill.evaluate.prompts import Row
from raymill.evaluate.row_files import check_file, rows_of
from raymill.evaluate.samples import Record
from raymill.evaluate.tool_calls import Unreadable, read_calls
from raymill.policies.errors import Invalid

LAYOUT = "a file in the layout of BFCL's category simple"

JSON_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
"""How JSON Schema, which tools are told in, calls types that BFCL calls otherwise. As BFCL itself tells them."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One row: what is asked, as every held-out row is, and the call that is right."""

    id: str
    row: Row
    wanted: Wanted


def read_questions(task: BfclTask) -> list[Question]:
    """The first `limit` questions of a task's file.

    Raises:
        NotFound: there is no such file.
        Invalid: it is another file than `sha256` says, or a row is not in the layout; the message has its number.
    """
    path = Path(task.bfcl)
    check_file(path, task.sha256, LAYOUT)
    questions: list[Question] = []
    for number, row in enumerate(rows_of(path)):
        if task.limit is not None and number >= task.limit:
            break
        where = f"{path.name}, row {number + 1}"
        try:
            questions.append(question_of(row, number))
        except Invalid as error:
            raise Invalid(f"{where}: {error}: give {LAYOUT}") from error
    if not questions:
        raise Invalid(f"{path.name} holds no question: give {LAYOUT}")
    ids = [question.id for question in questions]
    if twice := {each for each in ids if ids.count(each) > 1}:
        raise Invalid(f"{path.name} has {min(twice)} twice: keep one of them")
    return questions


def question_of(row: Any, index: int) -> Question:
    """Raises Invalid: what is missing or wrong, without the place."""
    need(isinstance(row, dict), "it is no object")
    for key, kind in (("id", str), ("question", list), ("function", list), ("ground_truth", list)):
        need(isinstance(row.get(key), kind), f"{key} is no {'text' if kind is str else 'list'}")
    need(len(row["question"]) == 1, f"it asks in {len(row['question'])} turns, and one is measured")
    (messages,) = row["question"]
    need(isinstance(messages, list) and bool(messages), "question holds no list of messages")
    for message in messages:
        texts = isinstance(message, dict) and all(
            isinstance(message.get(k), str) for k in ("role", "content")
        )
        need(texts, "a message of question has no role and content")
    truth = row["ground_truth"]
    need(
        len(truth) == 1 and isinstance(truth[0], dict) and len(truth[0]) == 1, "ground_truth is not one call"
    )
    ((name, allowed),) = truth[0].items()
    functions = {str(each.get("name")): each for each in row["function"] if isinstance(each, dict)}
    need(len(functions) == len(row["function"]), "function holds what is no description, or a name twice")
    need(name in functions, f"ground_truth calls {name!r}, which function does not describe")
    return Question(
        id=row["id"],
        row=Row(
            index=index,
            messages=messages,
            reference=json.dumps(truth[0], ensure_ascii=False),
            tools=tuple(map(tool_of, functions.values())),
        ),
        wanted=wanted_of(name, functions[name], allowed),
    )


def wanted_of(name: str, function: dict[str, Any], allowed: Any) -> Wanted:
    described = function.get("parameters")
    need(
        isinstance(described, dict) and isinstance(described.get("properties"), dict),
        f"{name} has no parameters",
    )
    assert isinstance(described, dict)
    parameters = {key: parameter_of(key, each) for key, each in described["properties"].items()}
    required = described.get("required", [])
    need(isinstance(required, list), f"required of {name} is no list")
    need(isinstance(allowed, dict), f"ground_truth of {name} is no object")
    for key, values in allowed.items():
        need(key in parameters, f"ground_truth gives {key!r}, which {name} does not take")
        need(isinstance(values, list) and bool(values), f"ground_truth of {key} is no list of values")
        check_allowed(key, values, parameters[key])
    for key in required:
        need(key in allowed, f"{key} is required, and ground_truth has no value of it")
    return Wanted(name=name, parameters=parameters, required=tuple(required), allowed=allowed)


def parameter_of(name: str, value: Any) -> Parameter:
    kind = value.get("type") if isinstance(value, dict) else None
    need(
        isinstance(kind, str) and kind in TYPES,
        f"the type of {name} is {kind!r}, not any of {', '.join(TYPES)}",
    )
    items = value["items"].get("type") if isinstance(value.get("items"), dict) else None
    need(items is None or items in TYPES, f"the items of {name} have the type {items!r}")
    return Parameter(type=str(kind), items=items)


def check_allowed(name: str, values: list[Any], parameter: Parameter) -> None:
    """Lists are compared with lists, and objects have lists of values under each key."""
    kind, lists = TYPES[parameter.type], [each for each in values if isinstance(each, list)]
    if kind is list:
        need(
            len(lists) + values.count(OMITTED) == len(values),
            f"ground_truth of {name} mixes lists with others",
        )
    objects = [each for each in values if isinstance(each, dict)] if kind is dict else []
    if kind is list and parameter.items in ("dict", "object"):
        objects = [each for inner in lists for each in inner if isinstance(each, dict)]
    for each in objects:
        need(
            all(isinstance(of, list) for of in each.values()),
            f"ground_truth of {name} has a key without a list",
        )


def need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Invalid(otherwise)


def tool_of(function: dict[str, Any]) -> dict[str, Any]:
    """A description as a tool of a chat."""
    told = {key: function[key] for key in ("name", "description") if key in function}
    return {
        "type": "function",
        "function": {**told, "parameters": json_schema(function.get("parameters", {}))},
    }


def json_schema(value: Any) -> Any:
    """A description's parameters with the words of JSON Schema for types."""
    if isinstance(value, list):
        return [json_schema(each) for each in value]
    if not isinstance(value, dict):
        return value
    found = {key: json_schema(inner) for key, inner in value.items()}
    if isinstance(kind := value.get("type"), str):
        found["type"] = JSON_TYPES.get(kind, kind)
    return found


def judge(question: Question, answer: str) -> Verdict:
    """Whether `answer` makes the one call that is right."""
    try:
        calls = read_calls(answer)
    except Unreadable as error:
        return Verdict("unreadable", str(error)[:300])
    if not calls:
        return Verdict("no_call", "it calls nothing")
    if len(calls) > 1:
        return Verdict("count", f"it makes {len(calls)} calls, and one is right")
    return check(calls[0], question.wanted)


def with_verdict(question: Question, record: Record) -> Record:
    """A line of the published samples."""
    verdict = judge(question, record["answer"])
    return {
        **record,
        "id": question.id,
        "score": float(not verdict.reason),
        "reason": verdict.reason,
        "detail": verdict.detail,
    }


def metrics_of(records: Sequence[Record]) -> dict[str, float]:
    """`accuracy`, the share of right calls, and `called`, that of answers in which one call can be read."""
    called = [record["reason"] not in {"no_call", "unreadable", "count"} for record in records]
    return {
        "accuracy": sum(record["score"] for record in records) / len(records),
        "called": sum(called) / len(records),
    }


def check_told(question: Question, prompt: str, model: str) -> None:
    """
    Raises:
        Invalid: the functions are not in the prompt, so that no model could call them.
    """
    for tool in question.row.tools:
        if tool["function"]["name"] not in prompt:
            raise Invalid(
                f"the chat template of {model} leaves tools out: measure bfcl on a model whose template has them"
            )
