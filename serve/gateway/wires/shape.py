"""Reading what a client sent: each helper gives the value in the shape asked for, or says where it is not.

`where` is the place in the request, such as `messages[2].content`; it becomes the error's `param`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

from raymill.policies.errors import Invalid
from raymill.serve.gateway.wires.errors import Untranslatable

Json: TypeAlias = dict[str, Any]

OPENAI_ONLY: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "verbosity": ("medium",),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "moderation": (),
}
"""Fields of a chat request that change what the model says and that other wires mostly lack, with the
values that ask for nothing."""


class DataUrl(NamedTuple):
    """`data:image/png;base64,…`, taken apart."""

    media_type: str
    base64: str


def an_object(value: Any, where: str) -> Json:
    if isinstance(value, dict):
        return value
    raise wrong(value, where, "send an object")


def a_list(value: Any, where: str) -> list[Any]:
    if isinstance(value, list):
        return value
    raise wrong(value, where, "send a list")


def a_text(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    raise wrong(value, where, "send a text")


def a_number(value: Any, where: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise wrong(value, where, "send a number")


def objects(value: Any, where: str) -> Iterator[tuple[str, Json]]:
    """The objects of a list, each with its place."""
    for number, one in enumerate(a_list(value, where)):
        place = f"{where}[{number}]"
        yield place, an_object(one, place)


def wrong(value: Any, where: str, cure: str) -> Invalid:
    return Invalid(f"{where} is {kind_of(value)}: {cure}", param=where)


def kind_of(value: Any) -> str:
    if value is None:
        return "missing"
    if isinstance(value, bool):
        return "a JSON boolean"
    names = {str: "a JSON string", int: "a JSON number", float: "a JSON number"}
    return names.get(type(value)) or f"a JSON {'array' if isinstance(value, list) else 'object'}"


def told(value: Any) -> str:
    """A value, short enough for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def refuse_openai_only(body: Json, target: str, spoken: frozenset[str] = frozenset()) -> None:
    """Refuse what the target's wire cannot say.

    Args:
        target: Who cannot be told, such as "Anthropic".
        spoken: Names in OPENAI_ONLY that this wire does have.

    Raises:
        Untranslatable: names the field and its value.
    """
    for name, harmless in OPENAI_ONLY.items():
        value = body.get(name)
        if value is not None and value not in harmless and name not in spoken:
            raise Untranslatable(
                f"{name} {told(value)} cannot be said to {target}: leave it out, or use a target of the "
                "OpenAI wire",
                param=name,
            )


def data_url(url: str, where: str) -> DataUrl | None:
    """None when `url` is no data URL.

    Raises:
        Untranslatable: it is one that is not base64.
    """
    if url[:5].lower() != "data:":
        return None
    head, comma, data = url[5:].partition(",")
    media_type, _, rest = head.partition(";")
    if not comma or rest.rpartition(";")[2].strip().lower() != "base64":
        raise Untranslatable(f"{where} is a data URL without base64: encode it as base64", param=where)
    return DataUrl(media_type.strip().lower(), data)


def stops(value: Any, where: str = "stop") -> list[str]:
    """A stop text or a list of them, as a list."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    return [a_text(one, f"{where}[{number}]") for number, one in enumerate(a_list(value, where))]


def plain_text(content: Any, where: str) -> str:
    """Content that must be text: a string, or parts of type text, which are joined.

    Raises:
        Untranslatable: a part is no text.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for place, part in objects(content, where):
        kind = part.get("type")
        if kind == "refusal":
            texts.append(a_text(part.get("refusal"), f"{place}.refusal"))
        elif kind in ("text", "input_text", "output_text"):
            texts.append(a_text(part.get("text"), f"{place}.text"))
        else:
            raise Untranslatable(f"{place} is of type {told(kind)}: only text can stand here", param=place)
    return "".join(texts)
