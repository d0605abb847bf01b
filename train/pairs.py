"""Rows that judge answers: pairs of a better and a worse one, and single ones with a label."""

from __future__ import annotations

from typing import Any

from raymill.train.questions import (
    NormalRow,
    Row,
    alpaca_question,
    answer_of,
    from_alpaca,
    from_completion,
    from_turns,
    prompt_of,
)
from raymill.train.tool_calls import tools_of
from raymill.train.turns import Message, check_turns
from raymill.train.values import UnusableRow, kind_of

LABELS = {"true": True, "false": False}


def from_preference(row: Row) -> NormalRow:
    """The prompt, and what was chosen and rejected after it.

    Raises:
        UnusableRow: a turn is bad, the answers are the same, or nothing tells where the prompt ends.
    """
    tools = tools_of(row.get("tools"))
    prompt, chosen, rejected = parts_of(row)
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if answer[0]["role"] != "assistant":
            raise UnusableRow(f"{name} begins with a turn by the {answer[0]['role']}, not with an answer")
        try:
            check_turns([*prompt, *answer], tools)
        except UnusableRow as error:
            raise UnusableRow(f"prompt and {name}: {error}") from error
    if chosen == rejected:
        raise UnusableRow("chosen and rejected are the same, so nothing is preferred")
    return with_tools({"prompt": prompt, "chosen": chosen, "rejected": rejected}, tools)


def parts_of(row: Row) -> tuple[list[Message], list[Message], list[Message]]:
    """Prompt, chosen and rejected, whichever of the layouts the row has."""
    chosen, rejected = answer_of(row, "chosen"), answer_of(row, "rejected")
    whole = chosen[0]["role"] != "assistant" and rejected[0]["role"] != "assistant"
    if row.get("prompt") is not None:
        prompt = prompt_of(row)
        if not whole:
            return prompt, chosen, rejected
        # Sets such as UltraFeedback repeat their one question, as text, beside whole conversations.
        if isinstance(row["prompt"], str) and prompt[-1] in chosen and prompt[-1] in rejected:
            return shared_beginning(chosen, rejected)
        raise UnusableRow("has the prompt twice: leave prompt out, or its turns in chosen and rejected")
    for key in ("conversations", "messages"):
        if row.get(key) is not None:
            return from_turns(row, key), chosen, rejected
    if row.get("instruction") is not None:
        return alpaca_question(row), chosen, rejected
    if not whole:
        raise UnusableRow("has no prompt, and chosen and rejected are not both whole conversations")
    return shared_beginning(chosen, rejected)


def shared_beginning(
    chosen: list[Message], rejected: list[Message]
) -> tuple[list[Message], list[Message], list[Message]]:
    """Split two conversations where they part ways; what they share is the prompt."""
    if chosen == rejected:
        raise UnusableRow("chosen and rejected are the same, so nothing is preferred")
    shared = 0
    for one, other in zip(chosen, rejected, strict=False):
        if one != other:
            break
        shared += 1
    if shared == 0:
        raise UnusableRow("chosen and rejected begin differently, so there is no prompt")
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if len(turns) == shared:
            raise UnusableRow(f"{name} has no answer of its own after what both share")
    return chosen[:shared], chosen[shared:], rejected[shared:]


def from_kto(row: Row) -> NormalRow:
    """The prompt, one answer, and whether it is a good one."""
    key = "kto_tag" if "kto_tag" in row else "label"
    label = label_of(row.get(key), key)
    if row.get("completion") is not None:
        prompt, answer = prompt_of(row), answer_of(row, "completion")
        if answer[0]["role"] != "assistant":
            raise UnusableRow(f"completion begins with a turn by the {answer[0]['role']}, not with an answer")
        messages = [*prompt, *answer]
    else:
        messages = judged(row)
        prompt, answer = messages[:-1], messages[-1:]
    tools = tools_of(row.get("tools"))
    check_turns(messages, tools)
    return with_tools({"prompt": prompt, "completion": answer, "label": label}, tools)


def judged(row: Row) -> list[Message]:
    """A whole conversation, whose last turn is what the label judges."""
    for key in ("messages", "conversations"):
        if row.get(key) is not None:
            return from_turns(row, key)
    return from_alpaca(row) if row.get("instruction") is not None else from_completion(row)


def label_of(value: Any, key: str) -> bool:
    """True or false; in a csv cell, its text."""
    if isinstance(value, str):
        value = LABELS.get(value.lower(), value)
    if not isinstance(value, bool):
        raise UnusableRow(
            f"{key} is {kind_of(value)}, not true or false: mend it, or set format if it is no judgement"
        )
    return value


def with_tools(row: NormalRow, tools: list[dict[str, Any]]) -> NormalRow:
    return {**row, "tools": tools} if tools else row
