"""Input items of the OpenAI Responses API as chat messages.

Source: OpenAI API reference (Responses, input items; Chat Completions, messages).
"""

from __future__ import annotations

from typing import Any

from raymill.policies.errors import Invalid
from raymill.serve.gateway.wires.chunks import tool_call
from raymill.serve.gateway.wires.errors import Untranslatable
from raymill.serve.gateway.wires.shape import Json, a_text, an_object, objects, plain_text, told

ROLES = ("user", "assistant", "system", "developer")


def messages_of_items(value: Any) -> list[Json]:
    """The messages for `input`, a text or a list of items.

    Raises:
        Untranslatable: an item that a chat message cannot hold.
        Invalid: malformed, or there are none.
    """
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    conversation = _Conversation()
    for where, item in objects(value, "input"):
        kind = item.get("type", "message")
        if kind == "message":
            conversation.message(item, where)
        elif kind == "function_call":
            conversation.call(item, where)
        elif kind == "function_call_output":
            conversation.output(item, where)
        elif kind != "reasoning":
            raise Untranslatable(
                f"{where} is of type {told(kind)}, which a chat message cannot hold: leave it out, or use a "
                "target that speaks the Responses wire",
                param=where,
            )
    return conversation.whole()


class _Conversation:
    def __init__(self) -> None:
        self._messages: list[Json] = []
        self._from_tools: list[Json] = []
        """Images and files of tool results: they follow when all results of a turn are there."""

    def whole(self) -> list[Json]:
        self._flush()
        if not self._messages:
            raise Invalid("input holds no message: send a text or at least one message", param="input")
        return self._messages

    def message(self, item: Json, where: str) -> None:
        self._flush()
        role = item.get("role")
        if role not in ROLES:
            raise Invalid(
                f"{where}.role is {told(role)}: use user, assistant, system or developer",
                param=f"{where}.role",
            )
        content = item.get("content")
        place = f"{where}.content"
        if role == "user" and not isinstance(content, str):
            parts = [_part(part, spot) for spot, part in objects(content, place)]
            self._messages.append({"role": role, "content": parts})
        else:
            self._messages.append({"role": role, "content": plain_text(content, place)})

    def call(self, item: Json, where: str) -> None:
        self._flush()
        call = tool_call(
            a_text(item.get("call_id"), f"{where}.call_id"),
            a_text(item.get("name"), f"{where}.name"),
            a_text(item.get("arguments"), f"{where}.arguments"),
        )
        if self._messages and self._messages[-1]["role"] == "assistant":
            self._messages[-1].setdefault("tool_calls", []).append(call)
        else:
            self._messages.append({"role": "assistant", "content": None, "tool_calls": [call]})

    def output(self, item: Json, where: str) -> None:
        call_id = a_text(item.get("call_id"), f"{where}.call_id")
        output = item.get("output")
        if not isinstance(output, str):
            parts = [_part(part, spot) for spot, part in objects(output, f"{where}.output")]
            others = [part for part in parts if part["type"] != "text"]
            if others:
                head = {"type": "text", "text": f"From the result of tool call {call_id}:"}
                self._from_tools += [head, *others]
            output = "\n".join(part["text"] for part in parts if part["type"] == "text")
        self._messages.append({"role": "tool", "tool_call_id": call_id, "content": output})

    def _flush(self) -> None:
        if self._from_tools:
            self._messages.append({"role": "user", "content": self._from_tools})
            self._from_tools = []


def _part(part: Json, where: str) -> Json:
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text"):
        return {"type": "text", "text": a_text(part.get("text"), f"{where}.text")}
    if kind == "input_image" and part.get("image_url") is not None:
        image: Json = {"url": a_text(part["image_url"], f"{where}.image_url")}
        if part.get("detail") is not None:
            image["detail"] = part["detail"]
        return {"type": "image_url", "image_url": image}
    if kind == "input_file" and part.get("file_data") is not None:
        file = {"file_data": a_text(part["file_data"], f"{where}.file_data")}
        if part.get("filename") is not None:
            file["filename"] = a_text(part["filename"], f"{where}.filename")
        return {"type": "file", "file": file}
    if kind == "input_audio":
        return {"type": kind, kind: an_object(part.get(kind), f"{where}.{kind}")}
    if kind in ("input_image", "input_file"):
        raise Untranslatable(
            f"{where} names a file that OpenAI holds, or an address of one: send its data inline", param=where
        )
    raise Untranslatable(
        f"{where} is of type {told(kind)}, which a chat message cannot hold: send text, an image or a file",
        param=where,
    )
