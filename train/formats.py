"""The formats that training rows come in, and the normal form they become.

A row is a mapping, wherever it was read from. Knows nothing of files. A row that breaks a rule raises UnusableRow
with the reason, in words for its author. `tools` may stand beside any format but text.

    messages    {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
    sharegpt    {"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}], "system"?}
    alpaca      {"instruction": "…", "input": "…", "output": "…", "system"?, "history": [["…", "…"]]?}
    completion  {"prompt": text or turns, "completion": text or turns}
    preference  {"chosen", "rejected"}: answers to "prompt", "conversations", "messages" or "instruction"; or
                whole conversations, which begin alike
    kto         {"prompt", "completion", "label"}, or a conversation in one of the formats above with "kto_tag"
    text        {"text": "…"}

The normal form has a shape, which is what a training method asks for:

    conversation  {"messages": [turn...], "tools"?}
    preference    {"prompt": [turn...], "chosen": [turn...], "rejected": [turn...], "tools"?}
    kto           {"prompt": [turn...], "completion": [turn...], "label": true | false, "tools"?}
    text          {"text": "…"}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from raymill.train.pairs import from_kto, from_preference
from raymill.train.questions import (
    NormalRow,
    Row,
    conversation,
    from_alpaca,
    from_completion,
    from_turns,
)
from raymill.train.values import UnusableRow, text_of

Shape = Literal["conversation", "preference", "kto", "text"]
Format = Literal["messages", "sharegpt", "alpaca", "completion", "preference", "kto", "text"]
FORMATS: tuple[Format, ...] = get_args(Format)

SHAPES: dict[Format, Shape] = {
    "messages": "conversation",
    "sharegpt": "conversation",
    "alpaca": "conversation",
    "completion": "conversation",
    "preference": "preference",
    "kto": "kto",
    "text": "text",
}

NEEDED: dict[Format, tuple[tuple[str, ...], ...]] = {
    "preference": (("chosen", "rejected"),),
    "kto": (
        ("prompt", "completion", "label"),
        ("prompt", "completion", "kto_tag"),
        ("messages", "label"),
        ("messages", "kto_tag"),
        ("conversations", "label"),
        ("conversations", "kto_tag"),
        ("instruction", "output", "kto_tag"),
    ),
    "messages": (("messages",),),
    "sharegpt": (("conversations",),),
    "alpaca": (("instruction", "output"),),
    "completion": (("prompt", "completion"),),
    "text": (("text",),),
}
"""Keys that tell a format, any one set of them; the first format that fits is the row's."""


def detect(row: Row) -> Format:
    """The format that the row's keys tell.

    Raises:
        UnusableRow: the keys belong to no format.
    """
    # A column is there in every row: where a row lacks it, parquet has null and csv an empty cell.
    filled = {key for key, value in row.items() if value is not None and value != ""}
    for keys in (filled, set(row)):
        for kind, sets in NEEDED.items():
            if any(keys.issuperset(needed) for needed in sets):
                return kind
    found = ", ".join(sorted(str(key)[:40] for key in row)[:6]) or "none"
    raise UnusableRow(
        f"no known format has the keys {found}: use messages, conversations, instruction and output, prompt and "
        "completion, chosen and rejected, or text"
    )


def normalize(row: Row, expected: Format, *, said: bool = False) -> NormalRow:
    """`row` in normal form, of shape `SHAPES[expected]`.

    Args:
        said: `expected` was told by a person, so other keys of the row do not matter.

    Raises:
        UnusableRow: the row is in another format, or breaks a rule.
    """
    if not said and (found := detect(row)) != expected:
        raise UnusableRow(f"is in {found} format, the rows before are in {expected}")
    return READERS[expected](row)


def from_text(row: Row) -> NormalRow:
    if "text" not in row:
        raise UnusableRow("has no text")
    return {"text": text_of(row["text"], "text")}


READERS: dict[Format, Callable[[Row], NormalRow]] = {
    "messages": lambda row: conversation(row, from_turns(row, "messages")),
    "sharegpt": lambda row: conversation(row, from_turns(row, "conversations")),
    "alpaca": lambda row: conversation(row, from_alpaca(row)),
    "completion": lambda row: conversation(row, from_completion(row)),
    "preference": from_preference,
    "kto": from_kto,
    "text": from_text,
}


def question_of(row: Mapping[str, Any]) -> Any:
    """What a row in normal form asks: everything before the answer; all of a text."""
    if "messages" in row:
        return row["messages"][:-1]
    return row["prompt"] if "prompt" in row else row["text"]
