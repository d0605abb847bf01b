"""A chat request, said to a target that speaks the Anthropic Messages API.

Sources: OpenAI API reference (Chat Completions, create), Anthropic Messages API (create a message;
structured outputs; adaptive thinking).

Said differently: system and developer messages become `system`, wherever they stood; tool messages become
tool_result blocks of a user turn; turns of one role in a row are joined; `temperature` above 1 is 1, the
most there is; `reasoning_effort` is `output_config.effort` with adaptive thinking; a JSON schema is
`output_config.format`, or, where it has objects with free names, the input of a tool that must be called
(JSON_TOOL), which anthropic_answer hands back as content.

Dropped, for nothing that the model says hangs on it: `seed` (a best effort on either side), `store`,
`metadata`, `service_tier`, `stream_options`, `prediction`, `prompt_cache_key` and other caching hints,
`name` of a participant, `detail` of an image, and fields that OpenAI does not define.
"""

from __future__ import annotations

from typing import Any

from raymill.policies.errors import Invalid
from raymill.serve.gateway.wires.anthropic_blocks import Turns, turns_of_chat
from raymill.serve.gateway.wires.errors import Untranslatable
from raymill.serve.gateway.wires.schemas import anthropic_schema
from raymill.serve.gateway.wires.shape import (
    Json,
    a_number,
    a_text,
    an_object,
    refuse_openai_only,
    stops,
    told,
)
from raymill.serve.gateway.wires.tools import Function, Tools, tools_of_chat

JSON_TOOL = "raymill_json_answer"
"""The tool whose input is the answer, when JSON is asked for that structured outputs cannot promise."""

EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}
ANY_OBJECT: Json = {"type": "object", "additionalProperties": True}


def messages_of_chat(body: Json, default_max_tokens: int) -> Json:
    """The body for `POST /v1/messages`.

    Args:
        body: For `POST /v1/chat/completions`.
        default_max_tokens: The Messages API wants a limit; taken when the request sets none.

    Raises:
        Untranslatable: something that Anthropic cannot be told, by name.
        Invalid: the request is malformed.
    """
    refuse_openai_only(body, "Anthropic")
    turns = turns_of_chat(body.get("messages"))
    out: Json = {
        "model": body.get("model"),
        "max_tokens": body.get("max_completion_tokens") or body.get("max_tokens") or default_max_tokens,
        "messages": turns.turns,
    }
    _add_system(out, turns)
    tools = tools_of_chat(body)
    if tools is not None:
        out["tools"] = [_tool(function) for function in tools.functions]
        out["tool_choice"] = _tool_choice(tools)
    _add_format(out, body.get("response_format"), tools)
    _add_reasoning(out, body)
    _add_sampling(out, body)
    user = body.get("safety_identifier") or body.get("user")
    if user is not None:
        out["metadata"] = {"user_id": a_text(user, "user")}
    if body.get("stream"):
        out["stream"] = True
    return out


def _add_system(out: Json, turns: Turns) -> None:
    blocks = turns.system
    if len(blocks) == 1 and len(blocks[0]) == 2:
        out["system"] = blocks[0]["text"]
    elif blocks:
        out["system"] = blocks


def _tool(function: Function) -> Json:
    tool: Json = {"name": function.name, "input_schema": function.parameters}
    if function.description:
        tool["description"] = function.description
    if function.strict:
        schema = anthropic_schema(function.parameters)
        if schema is None:
            raise Untranslatable(
                f"tool {told(function.name)} is strict and has objects with free names, which Anthropic cannot hold "
                "to: name the properties, or leave strict out",
                param="tools",
            )
        tool |= {"input_schema": schema, "strict": True}
    if function.cache_control is not None:
        tool["cache_control"] = function.cache_control
    return tool


def _tool_choice(tools: Tools) -> Json:
    if tools.choice == "none":
        return {"type": "none"}
    if tools.choice == "named":
        choice: Json = {"type": "tool", "name": tools.name}
    else:
        choice = {"type": "any" if tools.choice == "required" else "auto"}
    if not tools.parallel:
        choice["disable_parallel_tool_use"] = True
    return choice


def _add_format(out: Json, value: Any, tools: Tools | None) -> None:
    """JSON answers. A model that has to call the client's own functions gives none, so nothing is asked."""
    if value is None or (tools is not None and tools.forced):
        return
    wanted = an_object(value, "response_format")
    kind = wanted.get("type")
    if kind == "text":
        return
    description, schema = None, ANY_OBJECT
    if kind == "json_schema":
        named = an_object(wanted.get("json_schema"), "response_format.json_schema")
        description = named.get("description")
        schema = an_object(named.get("schema", ANY_OBJECT), "response_format.json_schema.schema")
        closed = anthropic_schema(schema)
        if closed is not None:
            out["output_config"] = {"format": {"type": "json_schema", "schema": closed}}
            return
        if schema.get("type", "object") != "object":
            raise Untranslatable(
                "response_format has a schema that is no object and has free names: make it an object",
                param="response_format",
            )
    elif kind != "json_object":
        raise Untranslatable(f"response_format of type {told(kind)} is unknown", param="response_format")
    tool = {
        "name": JSON_TOOL,
        "description": description or "Gives the final answer: the input is the answer, as a JSON object.",
        "input_schema": {"type": "object", **schema},
    }
    out["tools"] = [*out.get("tools", []), tool]
    if tools is None or tools.choice == "none":
        out["tool_choice"] = {"type": "tool", "name": JSON_TOOL, "disable_parallel_tool_use": True}
    else:
        # The model may still call the client's functions; what it may not do is answer in free text.
        out["tool_choice"] = {**out["tool_choice"], "type": "any"}


def _add_reasoning(out: Json, body: Json) -> None:
    thinking = body.get("thinking")
    if thinking is not None:
        # Anthropic's own OpenAI endpoint takes this field too.
        out["thinking"] = an_object(thinking, "thinking")
    effort = body.get("reasoning_effort")
    if effort is None:
        return
    if effort == "none":
        out.setdefault("thinking", {"type": "disabled"})
        return
    if not isinstance(effort, str) or effort not in EFFORTS:
        raise Invalid(
            f"reasoning_effort is {told(effort)}: use none, {', '.join(EFFORTS)}", param="reasoning_effort"
        )
    out["output_config"] = {**out.get("output_config", {}), "effort": EFFORTS[effort]}
    # Anthropic refuses thinking together with a tool that has to be called.
    forced = out.get("tool_choice", {}).get("type") in {"any", "tool"}
    if effort != "minimal" and not forced:
        out.setdefault("thinking", {"type": "adaptive"})


def _add_sampling(out: Json, body: Json) -> None:
    # 1 is the default on both sides, and newer models refuse these fields whatever they hold.
    temperature = body.get("temperature")
    if temperature is not None and a_number(temperature, "temperature") < 1:
        out["temperature"] = temperature
    top_p = body.get("top_p")
    if top_p is not None and a_number(top_p, "top_p") < 1:
        out["top_p"] = top_p
    if body.get("top_k") is not None:
        out["top_k"] = body["top_k"]
    sequences = stops(body.get("stop"))
    for text in sequences:
        if not text.strip():
            raise Untranslatable(
                f"stop {told(text)} is only white space, which Anthropic refuses: use another", param="stop"
            )
    if sequences:
        out["stop_sequences"] = sequences
