"""Does an answer hold JSON of a given form, and nothing else? Judged by a JSON Schema of the caller's.

The draft is the one that the schema's `$schema` names, else 2020-12. Nothing is fetched: what a schema refers to lies in
it. `format` is a remark, as the standard has it, and judges nothing.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

from jsonschema import Draft202012Validator, SchemaError
from jsonschema.exceptions import best_match
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from raymill.evaluate.config import JsonSchemaTask
from raymill.policies.errors import Invalid, NotFound
from raymill.registry.artifacts import canonical_json

DETAIL_CHARACTERS = 300


class Verdict(NamedTuple):
    reason: Literal["", "no_json", "invalid"]
    """Empty: the answer is what the schema asks for."""

    detail: str
    """What is wrong with it, and where."""


class JsonSchema:
    """A schema that answers are held against."""

    def __init__(self, schema: dict[str, Any], where: str) -> None:
        """
        Raises:
            Invalid: it is no JSON Schema; the message begins with `where`.
        """
        kind = validator_for(schema, default=Draft202012Validator)
        try:
            kind.check_schema(schema)
        except SchemaError as error:
            raise Invalid(
                f"{where} is no JSON Schema: at {error.json_path}: {first(error.message)}"
            ) from error
        except RecursionError as error:
            raise Invalid(f"{where} is nested too deeply: give a flatter schema") from error
        self.where = where
        self.validator = kind(schema, registry=Registry())
        self.digest = hashlib.sha256(canonical_json(schema)).hexdigest()

    def judge(self, answer: str) -> Verdict:
        """Of white space around the JSON nothing is said; of anything else around it, that it is no JSON.

        Raises:
            Invalid: the schema refers to something that does not lie in it.
        """
        try:
            value = json.loads(answer, parse_constant=refuse_constant)
        except RecursionError:
            return Verdict("no_json", "it is nested too deeply")
        except ValueError as error:
            return Verdict("no_json", first(str(error)))
        try:
            wrong = best_match(self.validator.iter_errors(value))
        except RecursionError:
            return Verdict("invalid", "it is nested too deeply")
        except Unresolvable as error:
            raise Invalid(
                f"{self.where} refers to {error.ref!r}, which does not lie in it: put it under $defs"
            ) from error
        if wrong is None:
            return Verdict("", "")
        return Verdict("invalid", first(f"{wrong.json_path}: {wrong.message}"))


def read_schema(task: JsonSchemaTask) -> JsonSchema:
    """The schema of a task, from its file or from the recipe.

    Raises:
        NotFound: there is no such file.
        Invalid: it is another file than `sha256` says, no JSON, or no JSON Schema.
    """
    if not isinstance(task.json_schema, str):
        return JsonSchema(task.json_schema, f"the schema of {task.name}")
    path = Path(task.json_schema)
    if not path.is_file():
        raise NotFound(f"there is no file {path}: give one with a JSON Schema")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if task.sha256 is not None and found != task.sha256:
        raise Invalid(
            f"{path.name} has sha256 {found[:12]}…, the task says {task.sha256[:12]}…: it has changed"
        )
    try:
        schema = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{path.name} is no JSON: {first(str(error))}") from error
    if not isinstance(schema, dict) or not schema:
        raise Invalid(f"{path.name} holds no JSON Schema: give an object with keywords such as type")
    return JsonSchema(schema, path.name)


def refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def first(text: str) -> str:
    """The beginning of a message, which may hold the whole answer."""
    return text if len(text) <= DETAIL_CHARACTERS else text[: DETAIL_CHARACTERS - 1] + "…"
