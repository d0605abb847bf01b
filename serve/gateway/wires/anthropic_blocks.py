"""Chat messages as the turns and content blocks of the Anthropic Messages API.

Sources: OpenAI API reference (Chat Completions, messages), Anthropic Messages API (MessageParam,
ContentBlockParam). Blocks without text are left out, since Anthropic refuses them.
"""

from __future__ import annotations

import re
from typing import Any

from raymill.policies.errors import Invalid
from raymill.serve.gateway.wires.errors import Untranslatable
from raymill.serve.gateway.wires.shape import Json, a_text, an_object, data_url, objects, told
from raymill.serve.gateway.wires.tools import calls_of

IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
NOT_IN_IDS = re.compile(r"[^a-zA-Z0-9_-]")


class Turns:
    """Collects turns; those of one role in a row become one."""

    def __init__(self) -> None:
        self.system: list[Json] = []
        self.turns: list[Json] = []

    def add(self, role: str, blocks: list[Json]) -> None:
        if not blocks:
            return
        if self.turns and self.turns[-1]["role"] == role:
            self.turns[-1]["content"].extend(blocks)
        else:
            self.turns.append({"role": role, "content": blocks})


def turns_of_chat(messages: Any) -> Turns:
    """All messages of a chat request.

    Raises:
        Untranslatable: content that Anthropic does not take.
        Invalid: malformed, or no turn is left.
    """
    turns = Turns()
    for where, message in objects(messages, "messages"):
        role = message.get("role")
        if role in ("system", "developer"):
            turns.system.extend(_text_blocks(message, where))
        elif role == "user":
            turns.add("user", blocks_of(message.get("content"), f"{where}.content"))
        elif role == "assistant":
            turns.add("assistant", _assistant(message, where))
        elif role == "tool":
            call_id = a_text(message.get("tool_call_id"), f"{where}.tool_call_id")
            turns.add("user", [_result(call_id, message, where)])
        elif role == "function":
            turns.add("user", [_result(a_text(message.get("name"), f"{where}.name"), message, where)])
        else:
            raise Invalid(
                f"{where}.role is {told(role)}: use system, developer, user, assistant or tool",
                param=f"{where}.role",
            )
    if not turns.turns:
        raise Invalid("messages hold no turn with content: add a user message", param="messages")
    return turns


def safe_id(call_id: str) -> str:
    """Anthropic takes letters, digits, _ and - alone; other providers' ids hold more."""
    return NOT_IN_IDS.sub("_", call_id)


def _text_blocks(message: Json, where: str) -> list[Json]:
    blocks = blocks_of(message.get("content"), f"{where}.content")
    for block in blocks:
        if block["type"] != "text":
            raise Untranslatable(
                f"{where} of role {message['role']} holds {block['type']}: only text can stand there",
                param=f"{where}.content",
            )
    return blocks


def _assistant(message: Json, where: str) -> list[Json]:
    if message.get("audio") is not None:
        raise Untranslatable(f"{where}.audio is kept by OpenAI alone: send its text", param=f"{where}.audio")
    blocks: list[Json] = []
    if message.get("thinking_blocks"):
        # As anthropic_answer gave them: Anthropic wants them back unchanged.
        for _, block in objects(message["thinking_blocks"], f"{where}.thinking_blocks"):
            blocks.append({name: value for name, value in block.items() if name != "index"})
    blocks += blocks_of(message.get("content"), f"{where}.content")
    if message.get("refusal"):
        blocks.append({"type": "text", "text": a_text(message["refusal"], f"{where}.refusal")})
    for call in calls_of(message, where):
        blocks.append(
            {"type": "tool_use", "id": safe_id(call.id), "name": call.name, "input": call.arguments}
        )
    return blocks


def _result(call_id: str, message: Json, where: str) -> Json:
    result: Json = {"type": "tool_result", "tool_use_id": safe_id(call_id)}
    content = message.get("content")
    if isinstance(content, str):
        result["content"] = content
    else:
        result["content"] = blocks_of(content, f"{where}.content")
    return result


def blocks_of(content: Any, where: str) -> list[Json]:
    """Content of a chat message, a text or parts, as blocks."""
    if content is None:
        return []
    if isinstance(content, str):
        return [] if not content or content.isspace() else [{"type": "text", "text": content}]
    blocks: list[Json] = []
    for place, part in objects(content, where):
        block = _block(part, place)
        if block is None:
            continue
        if part.get("cache_control") is not None:
            block["cache_control"] = part["cache_control"]
        blocks.append(block)
    return blocks


def _block(part: Json, where: str) -> Json | None:
    kind = part.get("type")
    if kind == "text":
        text = a_text(part.get("text"), f"{where}.text")
        return {"type": "text", "text": text} if text and not text.isspace() else None
    if kind == "refusal":
        return {"type": "text", "text": a_text(part.get("refusal"), f"{where}.refusal")}
    if kind == "image_url":
        return {"type": "image", "source": _image(part.get("image_url"), f"{where}.image_url")}
    if kind == "file":
        return _file(an_object(part.get("file"), f"{where}.file"), f"{where}.file")
    raise Untranslatable(
        f"{where} is of type {told(kind)}, which Anthropic does not take: send text, an image or a PDF",
        param=where,
    )


def _image(value: Any, where: str) -> Json:
    url = a_text(value if isinstance(value, str) else an_object(value, where).get("url"), f"{where}.url")
    inline = data_url(url, where)
    if inline is None:
        if not url.startswith(("https://", "http://")):
            raise Invalid(f"{where}.url is {told(url)}: send an https address or a data URL", param=where)
        return {"type": "url", "url": url}
    if inline.media_type not in IMAGE_TYPES:
        raise Untranslatable(
            f"{where} is {told(inline.media_type)}: Anthropic takes {', '.join(sorted(IMAGE_TYPES))}",
            param=where,
        )
    return {"type": "base64", "media_type": inline.media_type, "data": inline.base64}


def _file(file: Json, where: str) -> Json:
    if file.get("file_data") is None:
        raise Untranslatable(
            f"{where} names a file that another provider holds: send it as file_data", param=where
        )
    inline = data_url(a_text(file["file_data"], f"{where}.file_data"), f"{where}.file_data")
    if inline is None or inline.media_type != "application/pdf":
        raise Untranslatable(
            f"{where}.file_data is no PDF as data:application/pdf;base64: Anthropic takes only that",
            param=where,
        )
    source = {"type": "base64", "media_type": inline.media_type, "data": inline.base64}
    block: Json = {"type": "document", "source": source}
    if file.get("filename"):
        block["title"] = a_text(file["filename"], f"{where}.filename")
    return block
