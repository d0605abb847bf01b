"""JSON schemas cut to what providers take."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from anthropic.lib._parse._transform import transform_schema
from pydantic import BaseModel, Field

from raymill.policies.errors import Invalid
from raymill.serve.gateway.wires.errors import Untranslatable
from raymill.serve.gateway.wires.schemas import MAX_DEPTH, anthropic_schema, gemini_schema, is_strict

Json = dict[str, Any]


class Leg(BaseModel):
    city: str = Field(min_length=2, description="Where to.")
    days: int = Field(ge=1, le=30)


class Trip(BaseModel):
    """A journey."""

    legs: list[Leg] = Field(min_length=1)
    note: str | None = None
    first: Leg | int


def nested(depth: int) -> Json:
    schema: Json = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def test_anthropic_gets_what_its_own_package_would_send() -> None:
    ours, theirs = anthropic_schema(Trip.model_json_schema()), transform_schema(Trip.model_json_schema())
    assert ours is not None
    assert ours["$defs"]["Leg"]["required"] == theirs["$defs"]["Leg"]["required"]
    leg, their_leg = ours["$defs"]["Leg"]["properties"], theirs["$defs"]["Leg"]["properties"]
    assert (
        leg["city"]
        == their_leg["city"]
        == {
            "type": "string",
            "title": "City",
            "description": "Where to.\n\n{minLength: 2}",
        }
    )
    assert leg["days"]["description"] == "{maximum: 30, minimum: 1}"
    assert ours["properties"]["legs"] == theirs["properties"]["legs"]
    assert ours["additionalProperties"] is theirs["additionalProperties"] is False


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"type": "object", "properties": {"a": {"type": "object", "additionalProperties": True}}},
        {"type": ["object", "null"]},
        {"type": "object", "properties": {"a": {}}},
        {"type": "object", "properties": {"a": True}},
        {"type": "array", "items": {"patternProperties": {"^a": {}}}},
        {},
    ],
)
def test_free_names_are_nothing_that_anthropic_can_hold_to(schema: Json) -> None:
    assert anthropic_schema(schema) is None


@pytest.mark.parametrize(
    ("schema", "cut"),
    [
        ({"type": "array", "items": {"type": "string"}, "minItems": 1}, None),
        (
            {"type": "array", "items": {"type": "string"}, "minItems": 3},
            {"type": "array", "items": {"type": "string"}, "description": "{minItems: 3}"},
        ),
        ({"type": "string", "format": "uuid"}, None),
        ({"type": "string", "format": "color"}, {"type": "string", "description": '{format: "color"}'}),
        ({"oneOf": [{"type": "string"}, {"const": 5}]}, {"anyOf": [{"type": "string"}, {"const": 5}]}),
        ({"type": ["string", "null"]}, None),
        ({"$schema": "x", "type": "string", "examples": ["a"]}, {"type": "string"}),
        ({"$ref": "#/$defs/A", "description": "x"}, {"$ref": "#/$defs/A"}),
    ],
)
def test_anthropic_cuts(schema: Json, cut: Json | None) -> None:
    assert anthropic_schema(schema) == (schema if cut is None else cut)


@pytest.mark.parametrize(
    ("schema", "cut"),
    [
        ({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}, None),
        ({"type": "object", "additionalProperties": {"type": "integer", "maximum": 3}}, None),
        ({"type": "string", "pattern": "^a"}, {"type": "string", "description": '{pattern: "^a"}'}),
        ({"type": "string", "format": "date-time"}, None),
        ({"type": "string", "format": "email"}, {"type": "string", "description": '{format: "email"}'}),
        ({"const": "a"}, {"enum": ["a"]}),
        ({"oneOf": [{"type": "string"}]}, {"anyOf": [{"type": "string"}]}),
        (
            {"allOf": [{"$ref": "#/definitions/A"}], "definitions": {"A": {"type": "string"}}},
            {"$ref": "#/$defs/A", "$defs": {"A": {"type": "string"}}},
        ),
        (
            {
                "allOf": [
                    {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
                    {"properties": {"b": {"type": "string"}}, "required": ["b"]},
                ]
            },
            {
                "type": "object",
                "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                "required": ["a", "b"],
            },
        ),
        ({"$schema": "x", "$comment": "y", "type": "string"}, {"type": "string"}),
        ({"type": "array", "prefixItems": [{"type": "string"}], "maxItems": 2}, None),
    ],
)
def test_gemini_cuts(schema: Json, cut: Json | None) -> None:
    before = copy.deepcopy(schema)
    assert gemini_schema(schema) == (schema if cut is None else cut)
    assert schema == before


def test_names_of_properties_are_never_taken_for_keywords() -> None:
    schema = {"type": "object", "properties": {"pattern": {"type": "string"}, "$schema": {"type": "string"}}}
    assert gemini_schema(schema) == schema
    assert anthropic_schema(schema) == schema | {"additionalProperties": False}


def test_joined_references_are_refused() -> None:
    with pytest.raises(Untranslatable, match="allOf"):
        gemini_schema({"allOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}]})


@pytest.mark.parametrize("transform", [anthropic_schema, gemini_schema])
def test_schemas_that_nest_too_deep_are_refused(transform: Any) -> None:
    assert transform(nested(MAX_DEPTH)) == nested(MAX_DEPTH)
    with pytest.raises(Untranslatable, match="nests deeper than 100"):
        transform(nested(MAX_DEPTH + 1))


@pytest.mark.parametrize("transform", [anthropic_schema, gemini_schema])
@pytest.mark.parametrize("odd", [{"properties": 5}, {"items": [5]}, {"anyOf": {}}, {"$defs": {"a": "b"}}])
def test_what_is_no_schema_is_refused(transform: Any, odd: Json) -> None:
    with pytest.raises(Invalid, match="a schema"):
        transform(odd)


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        ({"type": "string"}, True),
        ({"type": "object", "properties": {}, "required": [], "additionalProperties": False}, True),
        ({"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False}, True),
        ({"type": "object", "properties": {"a": {}}, "required": [], "additionalProperties": False}, False),
        ({"type": "object", "properties": {"a": {}}, "required": ["a"]}, False),
        ({"type": "array", "items": {"type": "object"}}, False),
        ({"enum": [{"type": "object"}]}, True),
    ],
)
def test_what_openais_strict_mode_takes(schema: Json, strict: bool) -> None:
    assert is_strict(schema) is strict
