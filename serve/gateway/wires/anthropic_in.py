"""What a client asks on the Anthropic Messages API, as a chat request.

Sources: Anthropic Messages API (create a message, count tokens), OpenAI API reference (Chat Completions).

Said differently: `system` and system messages become system messages; tool_result blocks become tool
messages, with "Error: " before them when `is_error`, and their images move to the user message behind
them, since OpenAI takes only text there; `output_config.format` becomes `response_format`;
`output_config.effort`, or else the thinking budget, becomes `reasoning_effort`. A plain-text document
becomes text, a PDF a file.

Dropped, for nothing that the model says hangs on it: thinking blocks of earlier turns (only Anthropic can
read them), thinking that sets no budget, `cache_control`, `context_management`, `diagnostics`,
`service_tier`, `speed`, `user_profile_id`, `workspace_id`, and fields that Anthropic does not define.
Refused: tools and blocks of Anthropic's own servers, citations, `container`, `mcp_servers`,
`inference_geo`, and an answer begun by the client (prefill), which chat models start anew.
"""

from __future__ import annotations

from typing import Any

from raymill.policies.errors import Invalid
from raymill.serve.gateway.wires.anthropic_parts import messages_of_turns
from raymill.serve.gateway.wires.errors import Untranslatable
from raymill.serve.gateway.wires.schemas import is_strict
from raymill.serve.gateway.wires.shape import Json, a_number, a_text, an_object, objects, plain_text, told
from raymill.serve.gateway.wires.tools import EMPTY_SCHEMA
from raymill.serve.gateway.wires.usage import estimate_prompt_tokens

ANTHROPIC_ONLY = ("container", "mcp_servers", "inference_geo")
EFFORT_BY_BUDGET = ((4096, "low"), (16384, "medium"))
"""Thinking budgets below so many tokens are this effort; larger ones are high."""


def chat_of_messages(body: Json) -> Json:
    """The chat request for the body of `POST /v1/messages`. Its stream, if any, tells the usage.

    Raises:
        Untranslatable: something that a chat request cannot say, by name.
        Invalid: the request is malformed.
    """
    if body.get("max_tokens") is None:
        raise Invalid("max_tokens is missing: the Messages API asks for it", param="max_tokens")
    chat = _chat(body)
    chat["max_tokens"] = body["max_tokens"]
    if body.get("stream"):
        chat["stream"] = True
        chat["stream_options"] = {"include_usage": True}
    return chat


def count_of_messages(body: Json) -> Json:
    """The answer to `POST /v1/messages/count_tokens`: {"input_tokens"}, an estimate by the bytes of text.

    Raises:
        Invalid: as `chat_of_messages`.
    """
    return {"input_tokens": estimate_prompt_tokens(_chat(body))}


def wants_thinking(body: Json) -> bool:
    """Whether the client asked to see the model think, so that thinking blocks will not surprise it."""
    thinking = body.get("thinking")
    return isinstance(thinking, dict) and thinking.get("type") in ("enabled", "adaptive", "between_tools")


def _chat(body: Json) -> Json:
    for name in ANTHROPIC_ONLY:
        if body.get(name) not in (None, [], {}):
            raise Untranslatable(
                f"{name} works at Anthropic alone: leave it out, or use a target of the Anthropic wire",
                param=name,
            )
    chat: Json = {"model": body.get("model")}
    messages = messages_of_turns(body.get("messages"))
    system = _system(body.get("system"))
    chat["messages"] = [{"role": "system", "content": system}, *messages] if system else messages
    for name in ("temperature", "top_p", "top_k"):
        if body.get(name) is not None:
            chat[name] = a_number(body[name], name)
    if body.get("stop_sequences"):
        chat["stop"] = body["stop_sequences"]
    metadata = body.get("metadata")
    if metadata is not None and an_object(metadata, "metadata").get("user_id") is not None:
        chat["user"] = a_text(metadata["user_id"], "metadata.user_id")
    _add_tools(chat, body)
    _add_output(chat, body)
    return chat


def _system(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    texts = [
        plain_text([block], f"system[{number}]") for number, (_, block) in enumerate(objects(value, "system"))
    ]
    return "\n\n".join(text for text in texts if text)


def _add_tools(chat: Json, body: Json) -> None:
    if body.get("tools"):
        chat["tools"] = [_tool(tool, where) for where, tool in objects(body["tools"], "tools")]
    value = body.get("tool_choice")
    if value is None:
        return
    choice = an_object(value, "tool_choice")
    kind = choice.get("type")
    if kind == "tool":
        name = a_text(choice.get("name"), "tool_choice.name")
        chat["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif kind in ("auto", "any", "none"):
        chat["tool_choice"] = "required" if kind == "any" else kind
    else:
        raise Invalid(f"tool_choice.type is {told(kind)}: use auto, any, tool or none", param="tool_choice")
    if choice.get("disable_parallel_tool_use"):
        chat["parallel_tool_calls"] = False


def _tool(tool: Json, where: str) -> Json:
    kind = tool.get("type")
    name = tool.get("name")
    if kind not in (None, "custom"):
        raise Untranslatable(
            f"{where}, {told(name)} of type {told(kind)}, is a tool that Anthropic runs: leave it out, give "
            "it as a tool with an input_schema, or use a target of the Anthropic wire",
            param=where,
        )
    schema = tool.get("input_schema")
    function: Json = {
        "name": a_text(name, f"{where}.name"),
        "parameters": EMPTY_SCHEMA if schema is None else an_object(schema, f"{where}.input_schema"),
    }
    if tool.get("description") is not None:
        function["description"] = a_text(tool["description"], f"{where}.description")
    if tool.get("strict") is not None:
        function["strict"] = bool(tool["strict"])
    return {"type": "function", "function": function}


def _add_output(chat: Json, body: Json) -> None:
    config = {} if body.get("output_config") is None else an_object(body["output_config"], "output_config")
    effort = config.get("effort")
    if effort is not None:
        chat["reasoning_effort"] = a_text(effort, "output_config.effort")
    else:
        thinking = {} if body.get("thinking") is None else an_object(body["thinking"], "thinking")
        if thinking.get("type") == "enabled":
            chat["reasoning_effort"] = _effort_of(thinking.get("budget_tokens"))
    wanted = config.get("format")
    if wanted is None:
        return
    where = "output_config.format"
    kind = an_object(wanted, where).get("type")
    if kind != "json_schema":
        raise Untranslatable(f"{where}.type is {told(kind)}: only json_schema is known", param=where)
    schema = an_object(wanted.get("schema"), f"{where}.schema")
    named = {"name": "answer", "schema": schema, "strict": is_strict(schema)}
    chat["response_format"] = {"type": "json_schema", "json_schema": named}


def _effort_of(budget_tokens: Any) -> str:
    budget = a_number(budget_tokens, "thinking.budget_tokens")
    return next((effort for limit, effort in EFFORT_BY_BUDGET if budget < limit), "high")
