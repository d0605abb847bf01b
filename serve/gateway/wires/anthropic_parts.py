"""Turns and content blocks of the Anthropic Messages API as chat messages.

Sources: Anthropic Messages API (MessageParam, ContentBlockParam), OpenAI API reference (Chat Completions,
messages).
"""

from __future__ import annotations

from typing import Any

import msgspec

from raymill.policies.errors import Invalid
from raymill.serve.gateway.wires.chunks import tool_call
from raymill.serve.gateway.wires.errors import Untranslatable
from raymill.serve.gateway.wires.shape import Json, a_text, an_object, objects, plain_text, told

THINKING = ("thinking", "redacted_thinking")


def messages_of_turns(turns: Any) -> list[Json]:
    """All messages of a Messages request.

    Raises:
        Untranslatable: a block that a chat message cannot hold; or the last turn is the assistant's.
        Invalid: malformed, or there are none.
    """
    messages: list[Json] = []
    for where, turn in objects(turns, "messages"):
        role = turn.get("role")
        content = turn.get("content")
        place = f"{where}.content"
        if role == "user":
            messages.extend(
                [{"role": "user", "content": content}] if isinstance(content, str) else _user(content, place)
            )
        elif role == "assistant":
            messages.append(_assistant(content, place))
        elif role == "system":
            messages.append({"role": "system", "content": plain_text(content, place)})
        else:
            raise Invalid(f"{where}.role is {told(role)}: use user or assistant", param=f"{where}.role")
    if not messages:
        raise Invalid("messages is empty: send at least one message", param="messages")
    if messages[-1]["role"] == "assistant":
        raise Untranslatable(
            "the last message is the assistant's, and this target cannot go on writing it: end with a user "
            "message, or use a target of the Anthropic wire",
            param="messages",
        )
    return messages


def _assistant(content: Any, where: str) -> Json:
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    texts: list[str] = []
    calls: list[Json] = []
    for place, block in objects(content, where):
        kind = block.get("type")
        if kind == "text":
            texts.append(a_text(block.get("text"), f"{place}.text"))
        elif kind == "tool_use":
            arguments = msgspec.json.encode(an_object(block.get("input"), f"{place}.input")).decode()
            call_id = a_text(block.get("id"), f"{place}.id")
            calls.append(tool_call(call_id, a_text(block.get("name"), f"{place}.name"), arguments))
        elif kind not in THINKING:
            raise _foreign(kind, place)
    message: Json = {"role": "assistant", "content": "".join(texts)}
    if calls:
        message["content"] = message["content"] or None
        message["tool_calls"] = calls
    return message


def _user(content: Any, where: str) -> list[Json]:
    """Tool messages first, as both wires want the results right behind the calls."""
    results: list[Json] = []
    parts: list[Json] = []
    for place, block in objects(content, where):
        if block.get("type") == "tool_result":
            message, images = _result(block, place)
            results.append(message)
            parts.extend(images)
        else:
            parts.extend(_parts(block, place))
    if not parts:
        return results
    if len(parts) == 1 and parts[0]["type"] == "text":
        return [*results, {"role": "user", "content": parts[0]["text"]}]
    return [*results, {"role": "user", "content": parts}]


def _result(block: Json, where: str) -> tuple[Json, list[Json]]:
    """A tool message, and what of its content only a user message can hold."""
    call_id = a_text(block.get("tool_use_id"), f"{where}.tool_use_id")
    content = block.get("content")
    parts: list[Json] = []
    if isinstance(content, str):
        parts = [{"type": "text", "text": content}]
    elif content is not None:
        for place, one in objects(content, f"{where}.content"):
            parts.extend(_parts(one, place))
    text = "\n".join(part["text"] for part in parts if part["type"] == "text")
    if block.get("is_error"):
        text = f"Error: {text}"
    others = [part for part in parts if part["type"] != "text"]
    if others:
        others.insert(0, {"type": "text", "text": f"From the result of tool call {call_id}:"})
    return {"role": "tool", "tool_call_id": call_id, "content": text}, others


def _parts(block: Json, where: str) -> list[Json]:
    kind = block.get("type")
    if kind == "text":
        return [{"type": "text", "text": a_text(block.get("text"), f"{where}.text")}]
    if kind == "image":
        return [
            {"type": "image_url", "image_url": {"url": _image_url(block.get("source"), f"{where}.source")}}
        ]
    if kind == "document":
        return _document(block, where)
    if kind == "search_result":
        head = f"{block.get('title', '')} ({block.get('source', '')})\n"
        return [{"type": "text", "text": head + plain_text(block.get("content"), f"{where}.content")}]
    raise _foreign(kind, where)


def _image_url(value: Any, where: str) -> str:
    source = an_object(value, where)
    if source.get("type") == "base64":
        media_type = a_text(source.get("media_type"), f"{where}.media_type")
        return f"data:{media_type};base64,{a_text(source.get('data'), f'{where}.data')}"
    if source.get("type") == "url":
        return a_text(source.get("url"), f"{where}.url")
    raise Untranslatable(
        f"{where} is of type {told(source.get('type'))}, which only Anthropic can read: send base64 or a url",
        param=where,
    )


def _document(block: Json, where: str) -> list[Json]:
    citations = block.get("citations")
    if isinstance(citations, dict) and citations.get("enabled"):
        raise Untranslatable(
            f"{where}.citations can be had from Anthropic alone: leave them out", param=f"{where}.citations"
        )
    title = "" if block.get("title") is None else a_text(block["title"], f"{where}.title")
    heads = [text for text in (title, block.get("context")) if isinstance(text, str) and text]
    head: list[Json] = [{"type": "text", "text": text} for text in heads]
    place = f"{where}.source"
    source = an_object(block.get("source"), place)
    kind = source.get("type")
    if kind == "base64":
        data = f"data:{a_text(source.get('media_type'), place)};base64,{a_text(source.get('data'), place)}"
        file = {"filename": title or "document.pdf", "file_data": data}
        return [*head, {"type": "file", "file": file}]
    if kind == "text":
        return [*head, {"type": "text", "text": a_text(source.get("data"), f"{place}.data")}]
    if kind == "content":
        content = source.get("content")
        if isinstance(content, str):
            return [*head, {"type": "text", "text": content}]
        return head + [
            part for spot, one in objects(content, f"{place}.content") for part in _parts(one, spot)
        ]
    raise Untranslatable(
        f"{place} is of type {told(kind)}, which only Anthropic can read: send it as base64 or text",
        param=place,
    )


def _foreign(kind: Any, where: str) -> Untranslatable:
    return Untranslatable(
        f"{where} is of type {told(kind)}, which a chat message cannot hold: leave it out, or use a target "
        "of the Anthropic wire",
        param=where,
    )
