"""Turns what pydantic says about a recipe or a request into one line: the key, what it must be, what it is.

`train.lora.r: must be at least 1, got 0`. Knows the models only through their fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, NamedTuple, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from raymill.policies.errors import Invalid

Model = TypeVar("Model", bound=BaseModel)

Path = tuple[str | int, ...]

MISFIT = "misfit"
"""Type of an error that names its key itself, in `param`."""

MUST_BE = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "multiple_of": "a multiple of {multiple_of}",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "string_pattern_mismatch": "text that matches {pattern}",
    "string_too_short": "text of at least {min_length} characters",
    "string_too_long": "text of at most {max_length} characters",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "int_from_float": "a whole number",
    "finite_number": "a finite number",
}
"""Error type -> what the value must be, filled from the error's context."""

KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "model": "a section of keys",
    "dict": "a section of keys",
    "tuple": "a list",
    "list": "a list",
}
"""First word of the types `int_type`, `int_parsing`… -> what the value must be."""


class Problem(NamedTuple):
    """The first thing that is wrong, and where."""

    message: str
    param: str | None


def checked(model: type[Model], data: dict[str, Any]) -> Model:
    """`data` as a `model`.

    Raises:
        Invalid: the first thing that is wrong, in one line; `param` says where.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problem = explain(error, model, data)
        raise Invalid(problem.message, param=problem.param) from None


def explain(error: ValidationError, root: type[BaseModel], data: object) -> Problem:
    """One line about `error`, which arose when `data` was read as `root`."""
    found = [(_path(detail, data), detail) for detail in error.errors(include_url=False)]
    # Of the alternatives of a union only the one that got furthest is worth telling of.
    told = [one for one in found if not any(_is_inside(other, one[0]) for other, _ in found)]
    # A misspelt key also leaves the right one missing; the spelling is what to mend.
    told.sort(key=lambda one: one[1]["type"] != "extra_forbidden")
    path, detail = told[0]
    param = detail["ctx"]["param"] if detail["type"] == MISFIT else dotted(path) or None
    text = _say(detail, path, root)
    more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
    return Problem(f"{param}: {text}{more}" if param else f"{text}{more}", param)


def dotted(path: Path) -> str:
    """`evaluate.tasks[0].limit`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _path(detail: ErrorDetails, data: object) -> Path:
    """The error's place in `data`, without the names of union members that pydantic puts in between."""
    path: list[str | int] = []
    here: Any = data
    for number, part in enumerate(detail["loc"]):
        last = number == len(detail["loc"]) - 1
        if isinstance(here, dict):
            held = part in here
        else:
            held = isinstance(here, list | tuple) and isinstance(part, int) and part < len(here)
        if held:
            here = here[part]
        elif not (last and detail["type"] == "missing"):
            continue
        path.append(part)
    return tuple(path)


def _is_inside(path: Path, outer: Path) -> bool:
    return len(path) > len(outer) and path[: len(outer)] == outer and outer != ()


def _say(detail: ErrorDetails, path: Path, root: type[BaseModel]) -> str:
    kind, context, value = detail["type"], detail.get("ctx", {}), detail.get("input")
    if kind == MISFIT:
        return detail["msg"]
    match kind:
        case "missing":
            return "is missing: add it"
        case "extra_forbidden":
            return _unknown_key(str(path[-1]), section_at(root, path[:-1], detail["loc"]))
        case "value_error" | "assertion_error":
            return str(context.get("error", detail["msg"]))
    must = MUST_BE[kind].format(**context) if kind in MUST_BE else KINDS.get(kind.split("_")[0])
    if must is None:
        return f"{detail['msg'][:1].lower()}{detail['msg'][1:]}, got {_shown(value)}"
    return f"must be {must}, got {_shown(value)}"


def _unknown_key(key: str, section: type[BaseModel] | None) -> str:
    known = list(section.model_fields) if section else []
    if close := get_close_matches(key, known, n=1):
        return f"unknown key; did you mean {close[0]}?"
    return f"unknown key; the keys here are {', '.join(known)}" if known else "unknown key: remove it"


def _shown(value: object) -> str:
    """The value as the recipe has it, shortened."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case dict():
            return "a section of keys"
        case list() | tuple():
            return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def section_at(root: type[BaseModel], path: Path, names: Path = ()) -> type[BaseModel] | None:
    """The model whose keys stand at `path`; None when it holds no fixed keys.

    Args:
        names: where several may stand there, the classes of those that were read.
    """
    candidates = [root]
    for part in path:
        if isinstance(part, int):
            continue  # the items of a list are models that its annotation already names
        fields = [model.model_fields[part] for model in candidates if part in model.model_fields]
        if fields:
            candidates = [model for field in fields for model in _models(field.annotation)]
        # A part that is no field is the key of a mapping, whose values are the candidates already.
    meant = [model for model in candidates if model.__name__ in names]
    return next(iter(meant + candidates), None)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every model inside an annotation such as `tuple[A | B, ...] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for inner in get_args(annotation):
        yield from _models(inner)
