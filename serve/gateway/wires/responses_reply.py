"""Chat answers, said to a client that speaks the OpenAI Responses API: whole answers, and what streams share.

Source: OpenAI API reference (Responses, the response object).

    finish_reason          status
    stop, tool_calls       completed
    length                 incomplete, reason max_output_tokens
    content_filter         incomplete, reason content_filter

Only the first choice is read; a Responses request cannot ask for more. Reasoning that the server hands out
beside the answer is dropped: its items are for the model that wrote them.
"""

from __future__ import annotations

from typing import Any

from raymill.serve.gateway.wires.errors import reads_answer
from raymill.serve.gateway.wires.shape import Json
from raymill.serve.gateway.wires.usage import tokens_of

INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
ECHOED: Json = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": {"effort": None, "summary": None},
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""Fields of the request that the response gives back, with what stands there when it left them out."""


@reads_answer
def response_of_answer(answer: Json, body: Json) -> Json:
    """A chat completion as a Response ({"id", "object", "status", "output": [items], "usage", …}).

    Args:
        body: The Responses request, parts of which the response gives back.

    Raises:
        BadAnswer: it is no chat completion.
    """
    choice = answer["choices"][0]
    message = choice["message"]
    answer_id = answer.get("id") or ""
    response = envelope(answer_id, answer["created"], body)
    parts = []
    if message.get("content"):
        logprobs = (choice.get("logprobs") or {}).get("content")
        parts.append(output_text(message["content"], logprobs))
    if message.get("refusal"):
        parts.append({"type": "refusal", "refusal": message["refusal"]})
    calls = message.get("tool_calls") or []
    if not parts and not calls:
        parts.append(output_text("", None))
    reason = INCOMPLETE.get(choice["finish_reason"])
    output = [message_item(answer_id, 0, parts, "completed")] if parts else []
    for call in calls:
        function = call["function"]
        item_id = f"fc_{answer_id}_{len(output)}"
        arguments = function.get("arguments") or "{}"
        output.append(call_item(item_id, call["id"], function["name"], arguments, "completed"))
    if reason:
        output[-1]["status"] = "incomplete"
    return finished(response, output, answer.get("usage"), reason)


def envelope(answer_id: str, created: int, body: Json) -> Json:
    """A response in progress, with nothing said yet."""
    response: Json = {
        "id": f"resp_{answer_id}",
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": body.get("model"),
        "output": [],
        "previous_response_id": None,
        "store": False,
        "usage": None,
    }
    for name, default in ECHOED.items():
        value = body.get(name)
        response[name] = default if value is None else value
    return response


def finished(response: Json, output: list[Json], usage: Json | None, reason: str | None) -> Json:
    """The response as it ends.

    Args:
        reason: Why it is incomplete; None when it is complete.
    """
    end = {
        "status": "incomplete" if reason else "completed",
        "output": output,
        "usage": _usage(usage),
        "incomplete_details": {"reason": reason} if reason else None,
    }
    if not reason:
        end["completed_at"] = response["created_at"]
    return response | end


def output_text(text: str, logprobs: list[Json] | None) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs or []}


def message_item(answer_id: str, index: int, content: list[Json], status: str) -> Json:
    return {
        "id": f"msg_{answer_id}_{index}",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": content,
    }


def call_item(item_id: str, call_id: str, name: str, arguments: str, status: str) -> Json:
    return {
        "id": item_id,
        "type": "function_call",
        "status": status,
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }


def _usage(usage: Json | None) -> Json | None:
    tokens = tokens_of(usage) if usage else None
    if usage is None or tokens is None:
        return None
    return {
        "input_tokens": tokens.prompt,
        "input_tokens_details": {
            "cached_tokens": tokens.cached,
            "cache_write_tokens": _detail(usage, "prompt_tokens_details", "cache_write_tokens"),
        },
        "output_tokens": tokens.completion,
        "output_tokens_details": {
            "reasoning_tokens": _detail(usage, "completion_tokens_details", "reasoning_tokens")
        },
        "total_tokens": tokens.prompt + tokens.completion,
    }


def _detail(usage: Json, details: str, name: str) -> int:
    holder: Any = usage.get(details) or {}
    value = holder.get(name)
    return value if isinstance(value, int) else 0
