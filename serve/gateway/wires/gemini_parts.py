"""Chat messages as the contents and parts of the Gemini API.

Sources: OpenAI API reference (Chat Completions, messages), Gemini API reference (Content, Part,
FunctionCall, FunctionResponse, thought signatures, file input methods).
"""

from __future__ import annotations

import mimetypes
from typing import Any

from raymill.policies.errors import Invalid
from raymill.serve.gateway.wires.errors import Untranslatable
from raymill.serve.gateway.wires.shape import Json, a_text, an_object, data_url, objects, plain_text, told
from raymill.serve.gateway.wires.tools import calls_of

NO_SIGNATURE = "skip_thought_signature_validator"
"""What Google says to send for a call that this model did not make itself, or whose signature is lost:
without any, newer models refuse the request."""

AUDIO_TYPES = {"wav": "audio/wav", "mp3": "audio/mp3"}


def contents_of_chat(messages: Any, *, signed: bool) -> tuple[list[Json], list[Json]]:
    """The contents of a conversation, and the parts of its system instruction.

    Args:
        signed: The model wants a thought signature with the first call of each step.

    Raises:
        Untranslatable: content that Gemini does not take, or a tool result without its call.
        Invalid: malformed, or no content is left.
    """
    conversation = _Conversation(signed=signed)
    for where, message in objects(messages, "messages"):
        conversation.add(message, where)
    if not conversation.contents:
        raise Invalid("messages hold no turn with content: add a user message", param="messages")
    return conversation.contents, conversation.system


class _Conversation:
    def __init__(self, *, signed: bool) -> None:
        self.contents: list[Json] = []
        self.system: list[Json] = []
        self._signed = signed
        self._names: dict[str, str] = {}
        """Of the functions that were called, by the id of the call."""
        self._results: list[Json] | None = None
        """Parts of the turn of tool results that is being written: all of them belong into one."""

    def add(self, message: Json, where: str) -> None:
        role = message.get("role")
        content = message.get("content")
        place = f"{where}.content"
        if role in ("tool", "function"):
            self._add_result(message, where)
            return
        self._results = None
        if role in ("system", "developer"):
            text = plain_text(content, place)
            if text:
                self.system.append({"text": text})
        elif role == "user":
            self._turn("user", _parts_of(content, place))
        elif role == "assistant":
            self._turn("model", self._assistant(message, where))
        else:
            raise Invalid(
                f"{where}.role is {told(role)}: use system, developer, user, assistant or tool",
                param=f"{where}.role",
            )

    def _turn(self, role: str, parts: list[Json]) -> None:
        if parts:
            self.contents.append({"role": role, "parts": parts})

    def _assistant(self, message: Json, where: str) -> list[Json]:
        if message.get("audio") is not None:
            raise Untranslatable(
                f"{where}.audio is kept by OpenAI alone: send its text", param=f"{where}.audio"
            )
        text = plain_text(message.get("content"), f"{where}.content") or message.get("refusal")
        parts: list[Json] = [{"text": a_text(text, f"{where}.content")}] if text else []
        for number, call in enumerate(calls_of(message, where)):
            self._names[call.id] = call.name
            part: Json = {"functionCall": {"id": call.id, "name": call.name, "args": call.arguments}}
            signature = signature_of(call.extra)
            if signature is None and self._signed and number == 0:
                signature = NO_SIGNATURE
            if signature is not None:
                part["thoughtSignature"] = signature
            parts.append(part)
        return parts

    def _add_result(self, message: Json, where: str) -> None:
        legacy = message["role"] == "function"
        call_id = message.get("name") if legacy else message.get("tool_call_id")
        field = f"{where}.{'name' if legacy else 'tool_call_id'}"
        name = self._names.get(a_text(call_id, field))
        if name is None:
            raise Untranslatable(
                f"{field} is {told(call_id)}, but no earlier message makes that call: Gemini needs the "
                "function's name, so send the assistant message with the call before it",
                param=field,
            )
        output = plain_text(message.get("content"), f"{where}.content")
        part = {"functionResponse": {"id": call_id, "name": name, "response": {"output": output}}}
        if self._results is None:
            self._results = []
            self._turn("user", [part])
            self._results = self.contents[-1]["parts"]
        else:
            self._results.append(part)


def signature_of(call: Json) -> str | None:
    """The thought signature that a client kept with a tool call."""
    holder: Any = call
    for name in ("extra_content", "google"):
        holder = holder.get(name)
        if not isinstance(holder, dict):
            return None
    signature = holder.get("thought_signature")
    return signature if isinstance(signature, str) else None


def _parts_of(content: Any, where: str) -> list[Json]:
    if content is None or content == "":
        return []
    if isinstance(content, str):
        return [{"text": content}]
    return [_part(part, place) for place, part in objects(content, where)]


def _part(part: Json, where: str) -> Json:
    kind = part.get("type")
    if kind == "text":
        return {"text": a_text(part.get("text"), f"{where}.text")}
    if kind == "image_url":
        value = part.get("image_url")
        spot = f"{where}.image_url"
        url = a_text(value if isinstance(value, str) else an_object(value, spot).get("url"), f"{spot}.url")
        return _media(url, spot)
    if kind == "input_audio":
        spot = f"{where}.input_audio"
        audio = an_object(part.get(kind), spot)
        media_type = AUDIO_TYPES.get(a_text(audio.get("format"), f"{spot}.format"))
        if media_type is None:
            raise Untranslatable(f"{spot}.format is {told(audio['format'])}: send wav or mp3", param=spot)
        return {"inlineData": {"mimeType": media_type, "data": a_text(audio.get("data"), f"{spot}.data")}}
    if kind == "file":
        file = an_object(part.get("file"), f"{where}.file")
        if file.get("file_data") is not None:
            inline = data_url(a_text(file["file_data"], f"{where}.file.file_data"), f"{where}.file.file_data")
            if inline is not None:
                return {"inlineData": {"mimeType": inline.media_type, "data": inline.base64}}
        raise Untranslatable(
            f"{where}.file is no data URL, so another provider holds it: send it as file_data", param=where
        )
    raise Untranslatable(
        f"{where} is of type {told(kind)}, which Gemini is not sent: use text, image_url, input_audio or file",
        param=where,
    )


def _media(url: str, where: str) -> Json:
    inline = data_url(url, where)
    if inline is not None:
        return {"inlineData": {"mimeType": inline.media_type, "data": inline.base64}}
    if not url.startswith("https://"):
        raise Untranslatable(
            f"{where}.url is {told(url)}: Gemini reads https addresses and data URLs", param=where
        )
    data: Json = {"fileUri": url}
    media_type = mimetypes.guess_type(url.partition("?")[0])[0]
    if media_type is not None:
        data["mimeType"] = media_type
    return {"fileData": data}
