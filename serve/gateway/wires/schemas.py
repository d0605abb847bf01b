"""JSON schemas, cut to what Anthropic and Gemini take.

What a provider refuses is not lost: constraints go to the description, where the model reads them, as the
providers' own packages do. Sources: Anthropic, structured outputs (and `transform_schema` of the
`anthropic` package); Gemini API, `responseJsonSchema` and `parametersJsonSchema`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from raymill.policies.errors import Invalid
from raymill.serve.gateway.wires.errors import Untranslatable
from raymill.serve.gateway.wires.shape import Json, told

MAX_DEPTH = 100
MAX_REMEMBERED_BYTES = 16 << 10
REMEMBERED = 512
"""Schemas kept as they came out: an agent sends the same tools with every request."""

UNSAID = frozenset(
    {"$schema", "$comment", "$id", "examples", "deprecated", "readOnly", "writeOnly", "strict"}
)
"""Constrain nothing, so they are not even told."""

EACH = {"$defs": "$defs", "definitions": "definitions", "properties": "properties"}
"""Keywords whose values are schemas by name, and how the target names them."""

ALL = {"anyOf": "anyOf", "oneOf": "anyOf", "allOf": "allOf"}
"""Keywords whose values are lists of schemas."""


class Dialect(NamedTuple):
    """What of JSON schema a provider takes."""

    keeps: frozenset[str]
    """Keywords taken as they are."""

    formats: tuple[str, ...]
    each: dict[str, str]
    all: dict[str, str]


ANTHROPIC = Dialect(
    keeps=frozenset({"type", "enum", "const", "title", "description", "required", "$ref"}),
    formats=(*("date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"),),
    each=EACH,
    all=ALL,
)
GEMINI = Dialect(
    keeps=frozenset(
        {
            *("$anchor", "type", "title", "description", "enum", "required", "propertyOrdering"),
            *("minItems", "maxItems", "minimum", "maximum", "additionalProperties"),
        }
    ),
    formats=("date-time", "date", "time", "duration", "int32", "int64", "float", "double"),
    each=EACH | {"definitions": "$defs"},
    all=ALL | {"prefixItems": "prefixItems"},
)

Transform = Callable[[Json], Json | None]


def _remembered(transform: Transform) -> Transform:
    """The same schema is worked on once. What comes back is shared: nobody changes it."""

    @functools.lru_cache(maxsize=REMEMBERED)
    def by_bytes(encoded: bytes) -> Json | None:
        return transform(msgspec.json.decode(encoded))

    @functools.wraps(transform)
    def remembered(schema: Json) -> Json | None:
        encoded = msgspec.json.encode(schema)
        return by_bytes(encoded) if len(encoded) <= MAX_REMEMBERED_BYTES else transform(schema)

    return remembered


class _Map(Exception):
    """An object whose names are free, which Anthropic's structured outputs do not have."""


@_remembered
def anthropic_schema(schema: Json) -> Json | None:
    """For `output_config.format` and strict tools of the Anthropic Messages API.

    Returns:
        None when the schema has objects with free names, or a place for just anything: Anthropic wants
        every object closed.
    """
    try:
        return _anthropic(schema, 0)
    except _Map:
        return None


def _anthropic(schema: Any, depth: int) -> Json:
    node = _node(schema, depth)
    if "patternProperties" in node:
        raise _Map
    out, left = _cut(node, ANTHROPIC, depth, _anthropic)
    if "$ref" in out:
        return {name: value for name, value in out.items() if name in {"$ref", "$defs", "definitions"}}
    if left.get("minItems") in (0, 1):
        out["minItems"] = left.pop("minItems")
    more = left.pop("additionalProperties", None)
    kind = out.get("type")
    if kind == "object" or (isinstance(kind, list) and "object" in kind) or "properties" in out:
        if isinstance(more, dict) or (not out.get("properties") and more is not False):
            raise _Map
        out["additionalProperties"] = False
    elif not out.keys() & {"type", "enum", "const", "anyOf", "allOf"}:
        raise _Map
    return _described(out, left)


@_remembered
def gemini_schema(schema: Json) -> Json | None:
    """For `parametersJsonSchema` and `responseJsonSchema` of the Gemini API. Never None.

    Raises:
        Untranslatable: an allOf joins references, which cannot be written as one object.
    """
    return _gemini(schema, 0)


def _gemini(schema: Any, depth: int) -> Json:
    node = _node(schema, depth)
    while isinstance(node.get("allOf"), list):
        node = _joined(node)
    out, left = _cut(node, GEMINI, depth, _gemini)
    if "$ref" in left:
        # Beside a reference Gemini takes only what begins with a dollar.
        reference = str(left["$ref"]).replace("#/definitions/", "#/$defs/")
        return {"$ref": reference, **({"$defs": out["$defs"]} if "$defs" in out else {})}
    if "const" in left:
        out["enum"] = [left.pop("const")]
    if isinstance(out.get("additionalProperties"), dict):
        out["additionalProperties"] = _gemini(out["additionalProperties"], depth + 1)
    return _described(out, left)


def _joined(node: Json) -> Json:
    """`allOf` written as one object."""
    out = {name: value for name, value in node.items() if name != "allOf"}
    parts = [part for part in node["allOf"] if isinstance(part, dict)]
    if len(parts) > 1 and any("$ref" in part or "allOf" in part for part in parts):
        raise Untranslatable("a schema joins references by allOf: write their properties out", param="schema")
    for part in parts:
        for name, value in part.items():
            before = out.setdefault(name, value)
            if before is value:
                continue
            if name == "properties" and isinstance(value, dict) and isinstance(before, dict):
                out[name] = {**before, **value}
            elif name == "required" and isinstance(value, list) and isinstance(before, list):
                out[name] = [*before, *value]
    return out


def is_strict(schema: Any, depth: int = 0) -> bool:
    """Whether OpenAI's strict mode takes it: every object closed, every property required."""
    if isinstance(schema, list):
        return all(is_strict(one, depth + 1) for one in schema)
    if not isinstance(schema, dict):
        return True
    if depth > MAX_DEPTH:
        return False
    properties = schema.get("properties")
    if schema.get("type") == "object" or isinstance(properties, dict):
        required = schema.get("required")
        names = set(properties) if isinstance(properties, dict) else set()
        if schema.get("additionalProperties") is not False or not isinstance(required, list):
            return False
        if names - {one for one in required if isinstance(one, str)}:
            return False
    return all(is_strict(value, depth + 1) for name, value in schema.items() if name not in {"enum", "const"})


def _node(schema: Any, depth: int) -> Json:
    if depth > MAX_DEPTH:
        raise Untranslatable(f"a schema nests deeper than {MAX_DEPTH}: make it flatter", param="schema")
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise Invalid(f"a schema holds {told(schema)} where a schema belongs: send an object", param="schema")
    return schema


def _cut(
    node: Json, dialect: Dialect, depth: int, transform: Callable[[Any, int], Json]
) -> tuple[Json, Json]:
    """What the provider takes of a schema, the schemas inside it transformed, and what is left."""
    out: Json = {}
    left: Json = {}
    for name, value in node.items():
        if name in dialect.each:
            named = _node(value, depth)
            out[dialect.each[name]] = {key: transform(one, depth + 1) for key, one in named.items()}
        elif name in dialect.all:
            if not isinstance(value, list):
                raise Invalid(f"a schema's {name} is {told(value)}: send a list", param="schema")
            out[dialect.all[name]] = [transform(one, depth + 1) for one in value]
        elif name == "items" and value is not False:
            out[name] = transform(value, depth + 1)
        elif name in dialect.keeps or (name == "format" and value in dialect.formats):
            out[name] = value
        elif name not in UNSAID:
            left[name] = value
    return out, left


def _described(out: Json, left: Json) -> Json:
    """What could not be kept, told to the model."""
    if not left:
        return out
    told_of = ", ".join(f"{name}: {msgspec.json.encode(value).decode()}" for name, value in left.items())
    before = out.get("description")
    out["description"] = f"{before}\n\n{{{told_of}}}" if before else f"{{{told_of}}}"
    return out
