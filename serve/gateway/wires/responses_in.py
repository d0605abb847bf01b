"""What a client asks on the OpenAI Responses API, as a chat request.

Source: OpenAI API reference (Responses, create; Chat Completions, create).

Said differently: `instructions` become the first system message; function_call items in a row join the
assistant message before them; function_call_output items become tool messages, whose images and files
move to a user message behind them, since chat takes only text there; `text.format` becomes
`response_format`, `reasoning.effort` `reasoning_effort`, `max_output_tokens` `max_tokens`.

The gateway keeps no conversation: `previous_response_id`, `conversation`, item references, `prompt` and
`background` are refused, and `store` is taken and ignored, whatever it holds: nothing is ever stored.
Refused too: tools that OpenAI runs, custom tools, and files by id or address.

Dropped, for nothing that the model says hangs on it: reasoning items (only the model that wrote them can
read them), `reasoning.summary`, `include` but for log probabilities, `truncation`, `max_tool_calls`,
`context_management`, `metadata` (given back in the response), `service_tier`, `stream_options`, caching
hints, `phase` of a message, and fields that OpenAI does not define.
"""

from __future__ import annotations

from typing import Any

from raymill.policies.errors import Invalid
from raymill.serve.gateway.wires.errors import Untranslatable
from raymill.serve.gateway.wires.responses_items import messages_of_items
from raymill.serve.gateway.wires.shape import Json, a_list, a_text, an_object, objects, told

KEEPS_STATE = {
    "previous_response_id": "the gateway keeps no conversation: send all earlier items in input",
    "conversation": "the gateway keeps no conversation: send all earlier items in input",
    "prompt": "the gateway keeps no prompts of OpenAI: send the text, or use a preset as the model",
    "background": "the gateway answers at once: leave it out",
}
AS_THEY_ARE = ("temperature", "top_p", "top_k", "user", "safety_identifier", "moderation")
LOGPROBS = "message.output_text.logprobs"


def chat_of_responses(body: Json) -> Json:
    """The chat request for the body of `POST /v1/responses`. Its stream, if any, tells the usage.

    Raises:
        Untranslatable: something that a chat request cannot say, by name and with the cure.
        Invalid: the request is malformed.
    """
    for name, reason in KEEPS_STATE.items():
        if body.get(name):
            raise Untranslatable(f"{name} is not possible, {reason}", param=name)
    messages: list[Json] = []
    if body.get("instructions"):
        messages.append({"role": "system", "content": a_text(body["instructions"], "instructions")})
    messages += messages_of_items(body.get("input"))
    chat: Json = {"model": body.get("model"), "messages": messages}
    for name in AS_THEY_ARE:
        if body.get(name) is not None:
            chat[name] = body[name]
    if body.get("max_output_tokens") is not None:
        chat["max_tokens"] = body["max_output_tokens"]
    if body.get("reasoning") is not None:
        effort = an_object(body["reasoning"], "reasoning").get("effort")
        if effort is not None:
            chat["reasoning_effort"] = a_text(effort, "reasoning.effort")
    _add_tools(chat, body)
    _add_text(chat, body.get("text"))
    if LOGPROBS in (a_list(body["include"], "include") if body.get("include") else ()):
        chat["logprobs"] = True
        if body.get("top_logprobs"):
            chat["top_logprobs"] = body["top_logprobs"]
    if body.get("stream"):
        chat["stream"] = True
        chat["stream_options"] = {"include_usage": True}
    return chat


def _add_tools(chat: Json, body: Json) -> None:
    if body.get("tools"):
        chat["tools"] = [_tool(tool, where) for where, tool in objects(body["tools"], "tools")]
        if body.get("parallel_tool_calls") is not None:
            chat["parallel_tool_calls"] = body["parallel_tool_calls"]
    choice = body.get("tool_choice")
    if choice is not None and body.get("tools"):
        chat["tool_choice"] = choice if isinstance(choice, str) else _choice(an_object(choice, "tool_choice"))


def _tool(tool: Json, where: str) -> Json:
    kind = tool.get("type")
    if kind != "function":
        name = tool.get("name") or tool.get("server_label")
        called = f" {told(name)}" if name else ""
        raise Untranslatable(
            f"{where}{called} is of type {told(kind)}, which a chat request cannot carry: leave it out, give "
            "it as a tool of type function, or use a target that speaks the Responses wire",
            param=where,
        )
    function: Json = {"name": a_text(tool.get("name"), f"{where}.name")}
    if tool.get("description") is not None:
        function["description"] = a_text(tool["description"], f"{where}.description")
    if tool.get("parameters") is not None:
        function["parameters"] = an_object(tool["parameters"], f"{where}.parameters")
    if tool.get("strict") is not None:
        function["strict"] = bool(tool["strict"])
    return {"type": "function", "function": function}


def _choice(choice: Json) -> Json:
    kind = choice.get("type")
    if kind == "function":
        return _named(choice, "tool_choice")
    if kind == "allowed_tools":
        tools = [_named(tool, where) for where, tool in objects(choice.get("tools"), "tool_choice.tools")]
        return {"type": kind, "allowed_tools": {"mode": choice.get("mode", "auto"), "tools": tools}}
    raise Untranslatable(
        f"tool_choice of type {told(kind)} has no counterpart in chat: use auto, none, required or a function",
        param="tool_choice",
    )


def _named(tool: Json, where: str) -> Json:
    if tool.get("type") != "function":
        raise Untranslatable(
            f"{where} is of type {told(tool.get('type'))}: only functions can be chosen", param=where
        )
    return {"type": "function", "function": {"name": a_text(tool.get("name"), f"{where}.name")}}


def _add_text(chat: Json, value: Any) -> None:
    if value is None:
        return
    text = an_object(value, "text")
    if text.get("verbosity") is not None:
        chat["verbosity"] = text["verbosity"]
    if text.get("format") is None:
        return
    wanted = an_object(text["format"], "text.format")
    kind = wanted.get("type")
    if kind == "json_schema":
        named = {name: one for name, one in wanted.items() if name != "type" and one is not None}
        chat["response_format"] = {"type": kind, "json_schema": named}
    elif kind == "json_object":
        chat["response_format"] = {"type": kind}
    elif kind != "text":
        raise Invalid(
            f"text.format.type is {told(kind)}: use text, json_schema or json_object", param="text.format"
        )
