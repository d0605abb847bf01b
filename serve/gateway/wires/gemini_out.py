"""A chat request, said to a target that speaks Google's Generative Language API (Gemini).

Sources: OpenAI API reference (Chat Completions, create), Gemini API reference (generateContent,
streamGenerateContent?alt=sse, thinking, thought signatures, file input methods). The model's name is part
of the address there, not of the body, and so is whether to stream.

Said differently: system and developer messages become `systemInstruction`, wherever they stood; tool
results find the name of their function by the call's id; JSON schemas go to `responseJsonSchema` and
`parametersJsonSchema`, cut to the keywords that Gemini takes (schemas.py); `reasoning_effort` becomes a
thinking level, or a budget for Gemini 2.5. A call's thought signature comes back where clients keep
`extra_content`, as Google's own OpenAI endpoint has it; without it Gemini is told to do without.

Dropped, for nothing that the model says hangs on it: `store`, `metadata`, `user`, `service_tier`,
`stream_options`, `prediction`, caching hints, `strict` of a function, `name` of a participant, `detail` of
an image, and fields that OpenAI does not define. Refused: `parallel_tool_calls: false`, log probabilities.
"""

from __future__ import annotations

import re
from typing import Any

from raymill.policies.errors import Invalid
from raymill.serve.gateway.wires.errors import Untranslatable
from raymill.serve.gateway.wires.gemini_parts import contents_of_chat
from raymill.serve.gateway.wires.schemas import gemini_schema
from raymill.serve.gateway.wires.shape import Json, a_number, an_object, refuse_openai_only, stops, told
from raymill.serve.gateway.wires.tools import EMPTY_SCHEMA, Function, Tools, tools_of_chat

SPOKEN = frozenset({"n", "presence_penalty", "frequency_penalty"})
NUMBERS = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "seed": "seed",
    "n": "candidateCount",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
LEVELS = {
    "none": "minimal",
    "minimal": "minimal",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
BUDGETS = {
    "none": 0,
    "minimal": 1024,
    "low": 1024,
    "medium": 8192,
    "high": 24576,
    "xhigh": 24576,
    "max": 24576,
}
"""Thinking tokens, as Google's OpenAI endpoint sets them for Gemini 2.5, which knows no levels."""

OLDER = re.compile(r"gemini-(1|2)\b")


def gemini_of_chat(body: Json) -> Json:
    """The body for `models/{model}:generateContent` or `:streamGenerateContent?alt=sse`.

    Args:
        body: For `POST /v1/chat/completions`; `model` as Gemini calls it.

    Raises:
        Untranslatable: something that Gemini cannot be told, by name.
        Invalid: the request is malformed.
    """
    refuse_openai_only(body, "Gemini", SPOKEN)
    model = str(body.get("model"))
    older = OLDER.search(model) is not None
    contents, system = contents_of_chat(body.get("messages"), signed=not older)
    out: Json = {"contents": contents}
    if system:
        out["systemInstruction"] = {"parts": system}
    tools = tools_of_chat(body)
    if tools is not None:
        if not tools.parallel:
            raise Untranslatable(
                "parallel_tool_calls false cannot be said to Gemini: leave it out, or use another target",
                param="parallel_tool_calls",
            )
        out["tools"] = [{"functionDeclarations": [_declaration(one) for one in tools.functions]}]
        out["toolConfig"] = {"functionCallingConfig": _calling(tools)}
    config = _generation_config(body)
    effort = body.get("reasoning_effort")
    if effort is not None:
        config["thinkingConfig"] = _thinking(effort, older=older)
    if config:
        out["generationConfig"] = config
    return out


def _declaration(function: Function) -> Json:
    declaration: Json = {"name": function.name}
    if function.description:
        declaration["description"] = function.description
    if function.parameters != EMPTY_SCHEMA:
        declaration["parametersJsonSchema"] = gemini_schema(function.parameters)
    return declaration


def _calling(tools: Tools) -> Json:
    if tools.choice == "named":
        return {"mode": "ANY", "allowedFunctionNames": [tools.name]}
    return {"mode": {"auto": "AUTO", "none": "NONE", "required": "ANY"}[tools.choice]}


def _generation_config(body: Json) -> Json:
    config: Json = {
        theirs: a_number(body[ours], ours) for ours, theirs in NUMBERS.items() if body.get(ours) is not None
    }
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if limit is not None:
        config["maxOutputTokens"] = limit
    sequences = stops(body.get("stop"))
    if sequences:
        config["stopSequences"] = sequences
    if body.get("response_format") is not None:
        config |= _format(an_object(body["response_format"], "response_format"))
    return config


def _format(wanted: Json) -> Json:
    kind = wanted.get("type")
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"responseMimeType": "application/json"}
    if kind == "json_schema":
        named = an_object(wanted.get("json_schema"), "response_format.json_schema")
        if named.get("schema") is None:
            return {"responseMimeType": "application/json"}
        schema = an_object(named["schema"], "response_format.json_schema.schema")
        return {"responseMimeType": "application/json", "responseJsonSchema": gemini_schema(schema)}
    raise Untranslatable(f"response_format of type {told(kind)} is unknown", param="response_format")


def _thinking(effort: Any, *, older: bool) -> Json:
    if not isinstance(effort, str) or effort not in LEVELS:
        raise Invalid(
            f"reasoning_effort is {told(effort)}: use {', '.join(LEVELS)}", param="reasoning_effort"
        )
    return {"thinkingBudget": BUDGETS[effort]} if older else {"thinkingLevel": LEVELS[effort]}
