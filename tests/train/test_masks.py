"""What the loss counts, written out by hand for three rows of every format.

In the expected text what stands between « and » counts, up to and with the token that ends the turn. It is
tokenized apart from what stands around it, as the prompt of a served model is.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from raymill.train.formats import detect, normalize
from raymill.train.template import IGNORE, Example, encode, encode_kto, encode_pair, encode_text
from raymill.train.tokenizer import load_tokenizer, train_tokenizer

WORDS = "hi hello bye ciao no yes the time is now weather in Rome call a tool name arguments city city"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    directory = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([f"{WORDS} {n}\n{WORDS[n:]}" for n in range(40)], 330, directory)
    return load_tokenizer(directory)


def by_hand(tokenizer: PreTrainedTokenizerBase, text: str) -> Example:
    """Ids and labels of `text`, piece by piece."""
    ids: list[int] = []
    labels: list[int] = []
    for number, piece in enumerate(re.split("[«»]", text)):
        part: list[int] = tokenizer(piece, add_special_tokens=False)["input_ids"]
        ids += part
        labels += part if number % 2 else [IGNORE] * len(part)
    return Example(ids, labels)


def chat(*turns: str) -> dict[str, Any]:
    """Roles by their first letter: 's Be brief.'"""
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return {"messages": [{"role": names[turn[0]], "content": turn[2:]} for turn in turns]}


def share(*turns: str) -> dict[str, Any]:
    names = {"s": "system", "u": "human", "a": "gpt", "f": "function_call", "o": "observation"}
    return {"conversations": [{"from": names[turn[0]], "value": turn[2:]} for turn in turns]}


def asked(*calls: dict[str, Any]) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": call} for call in calls],
    }


CLOCK = {
    "name": "clock",
    "description": "Tells the time.",
    "parameters": {"type": "object", "properties": {}},
}
WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
CLOCK_TEXT = (
    '{"name": "clock", "description": "Tells the time.", "parameters": {"type": "object", "properties": {}}}'
)
WEATHER_TEXT = (
    '{"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}'
)
CALL_CLOCK = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
CALL_ROME = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'

CONVERSATIONS = [
    # messages
    (chat("u hi", "a hello"), "<|user|>hi<|end|><|assistant|>«hello<|end|>»"),
    (chat("s no", "u hi", "a hello"), "<|system|>no<|end|><|user|>hi<|end|><|assistant|>«hello<|end|>»"),
    (
        chat("u hi", "a hello", "u bye", "a ciao"),
        "<|user|>hi<|end|><|assistant|>«hello<|end|>»<|user|>bye<|end|><|assistant|>«ciao<|end|>»",
    ),
    # ShareGPT
    (share("u hi", "a hello"), "<|user|>hi<|end|><|assistant|>«hello<|end|>»"),
    (
        {**share("u hi", "a hello"), "system": "no"},
        "<|system|>no<|end|><|user|>hi<|end|><|assistant|>«hello<|end|>»",
    ),
    (
        share("s yes", "u hi", "a hello", "u bye", "a ciao"),
        "<|system|>yes<|end|><|user|>hi<|end|><|assistant|>«hello<|end|>»<|user|>bye<|end|><|assistant|>«ciao<|end|>»",
    ),
    # alpaca
    ({"instruction": "hi", "output": "hello"}, "<|user|>hi<|end|><|assistant|>«hello<|end|>»"),
    (
        {"instruction": "hi", "input": "now", "output": "hello", "system": "no"},
        "<|system|>no<|end|><|user|>hi\n\nnow<|end|><|assistant|>«hello<|end|>»",
    ),
    (
        {"instruction": "bye", "output": "ciao", "history": [["hi", "hello"]]},
        "<|user|>hi<|end|><|assistant|>«hello<|end|>»<|user|>bye<|end|><|assistant|>«ciao<|end|>»",
    ),
    # prompt and completion
    ({"prompt": "hi", "completion": "hello"}, "<|user|>hi<|end|><|assistant|>«hello<|end|>»"),
    ({"prompt": "hi\n", "completion": " a b "}, "<|user|>hi\n<|end|><|assistant|>« a b <|end|>»"),
    (
        {"prompt": chat("s no", "u hi")["messages"], "completion": chat("a yes")["messages"]},
        "<|system|>no<|end|><|user|>hi<|end|><|assistant|>«yes<|end|>»",
    ),
    # tool calls, OpenAI
    (
        {
            "messages": [*chat("u hi")["messages"], asked({"name": "clock", "arguments": "{}"})],
            "tools": [CLOCK],
        },
        f"<|system|>Tools:\n{CLOCK_TEXT}<|end|><|user|>hi<|end|><|assistant|>«{CALL_CLOCK}<|end|>»",
    ),
    (
        {
            "messages": [
                *chat("s no", "u hi")["messages"],
                asked({"name": "weather", "arguments": {"city": "Rome"}}, {"name": "clock", "arguments": {}}),
                *chat("t 21", "t 9", "a yes")["messages"],
            ],
            "tools": [{"type": "function", "function": CLOCK}, {"type": "function", "function": WEATHER}],
        },
        f"<|system|>no\n\nTools:\n{CLOCK_TEXT}\n{WEATHER_TEXT}<|end|><|user|>hi<|end|>"
        f"<|assistant|>«{CALL_ROME}{CALL_CLOCK}<|end|>»<|tool|>21<|end|><|tool|>9<|end|><|assistant|>«yes<|end|>»",
    ),
    (
        {
            "messages": [
                *chat("u hi")["messages"],
                {**asked({"name": "clock", "arguments": {}}), "content": "now"},
                *chat("t 9", "a yes", "u bye", "a ciao")["messages"],
            ],
            "tools": [CLOCK],
        },
        f"<|system|>Tools:\n{CLOCK_TEXT}<|end|><|user|>hi<|end|><|assistant|>«now{CALL_CLOCK}<|end|>»<|tool|>9<|end|>"
        "<|assistant|>«yes<|end|>»<|user|>bye<|end|><|assistant|>«ciao<|end|>»",
    ),
    # tool calls, ShareGPT
    (
        {**share("u hi", 'f {"name": "clock", "arguments": {}}'), "tools": [CLOCK]},
        f"<|system|>Tools:\n{CLOCK_TEXT}<|end|><|user|>hi<|end|><|assistant|>«{CALL_CLOCK}<|end|>»",
    ),
    (
        {
            **share("u hi", 'f {"name": "weather", "arguments": {"city": "Rome"}}', "o 21", "a yes"),
            "tools": f"[{CLOCK_TEXT}, {WEATHER_TEXT}]",
        },
        f"<|system|>Tools:\n{CLOCK_TEXT}\n{WEATHER_TEXT}<|end|><|user|>hi<|end|>"
        "<|assistant|>«" + CALL_ROME + "<|end|>»<|tool|>21<|end|><|assistant|>«yes<|end|>»",
    ),
    (
        {**share("u hi", "a no"), "tools": f"[{WEATHER_TEXT}]"},
        f"<|system|>Tools:\n{WEATHER_TEXT}<|end|><|user|>hi<|end|><|assistant|>«no<|end|>»",
    ),
]


@pytest.mark.parametrize(("row", "expected"), CONVERSATIONS)
def test_of_a_conversation_the_assistant_s_turns_count(
    tokenizer: PreTrainedTokenizerBase, row: dict[str, Any], expected: str
) -> None:
    made = normalize(row, detect(row))
    example = encode(tokenizer, made["messages"], made.get("tools"))
    assert tokenizer.decode(example.ids) == expected.translate({ord("«"): None, ord("»"): None})
    assert example == by_hand(tokenizer, expected)


BEGIN = "<|user|>hi<|end|><|assistant|>"
LONG_BEGIN = "<|system|>no<|end|><|user|>hi<|end|><|assistant|>hello<|end|><|user|>bye<|end|><|assistant|>"
LONG = chat("s no", "u hi", "a hello", "u bye")["messages"]
PAIRS = [
    # explicit prompt
    ({"prompt": "hi", "chosen": "yes", "rejected": "no"}, BEGIN, "yes<|end|>", "no<|end|>"),
    (
        {"prompt": LONG, "chosen": chat("a ciao")["messages"], "rejected": chat("a no")["messages"]},
        *(LONG_BEGIN, "ciao<|end|>", "no<|end|>"),
    ),
    (
        {"prompt": "hi", "chosen": "now", "rejected": [asked({"name": "clock"})], "tools": [CLOCK]},
        *(f"<|system|>Tools:\n{CLOCK_TEXT}<|end|>{BEGIN}", "now<|end|>", f"{CALL_CLOCK}<|end|>"),
    ),
    # implicit prompt
    (
        {"chosen": chat("u hi", "a yes")["messages"], "rejected": chat("u hi", "a no")["messages"]},
        *(BEGIN, "yes<|end|>", "no<|end|>"),
    ),
    (
        {"chosen": [*LONG, *chat("a ciao")["messages"]], "rejected": [*LONG, *chat("a no")["messages"]]},
        *(LONG_BEGIN, "ciao<|end|>", "no<|end|>"),
    ),
    (
        {
            "chosen": chat("u hi", "a yes", "u bye", "a ciao")["messages"],
            "rejected": chat("u hi", "a no")["messages"],
        },
        *(BEGIN, "yes<|end|>»<|user|>bye<|end|><|assistant|>«ciao<|end|>", "no<|end|>"),
    ),
    # ShareGPT
    (
        {
            **share("u hi"),
            "chosen": {"from": "gpt", "value": "yes"},
            "rejected": {"from": "gpt", "value": "no"},
        },
        *(BEGIN, "yes<|end|>", "no<|end|>"),
    ),
    (
        {
            **share("s no", "u hi", "a hello", "u bye"),
            "chosen": {"from": "gpt", "value": "ciao"},
            "rejected": {"from": "gpt", "value": "no"},
        },
        *(LONG_BEGIN, "ciao<|end|>", "no<|end|>"),
    ),
    (
        {"instruction": "hi", "input": "", "chosen": "yes", "rejected": "no"},
        *(BEGIN, "yes<|end|>", "no<|end|>"),
    ),
]


@pytest.mark.parametrize(("row", "prompt", "chosen", "rejected"), PAIRS)
def test_of_a_pair_the_two_answers_count_and_earlier_turns_do_not(
    tokenizer: PreTrainedTokenizerBase, row: dict[str, Any], prompt: str, chosen: str, rejected: str
) -> None:
    pair = encode_pair(tokenizer, normalize(row, "preference"))
    assert pair.chosen == by_hand(tokenizer, f"{prompt}«{chosen}»")
    assert pair.rejected == by_hand(tokenizer, f"{prompt}«{rejected}»")


@pytest.mark.parametrize(
    ("row", "expected", "label"),
    [
        ({"prompt": "hi", "completion": "yes", "label": True}, f"{BEGIN}«yes<|end|>»", True),
        (
            {"prompt": LONG, "completion": chat("a ciao")["messages"], "label": False},
            f"{LONG_BEGIN}«ciao<|end|>»",
            False,
        ),
        ({**chat("u hi", "a no"), "kto_tag": False}, f"{BEGIN}«no<|end|>»", False),
    ],
)
def test_of_a_judged_row_the_answer_counts(
    tokenizer: PreTrainedTokenizerBase, row: dict[str, Any], expected: str, label: bool
) -> None:
    judged = encode_kto(tokenizer, normalize(row, "kto"))
    assert judged.label is label
    assert judged.example == by_hand(tokenizer, expected)


@pytest.mark.parametrize("text", ["hi", "the time\n\nis now", " Rome "])
def test_of_a_text_everything_counts_and_its_end(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assert encode_text(tokenizer, text) == by_hand(tokenizer, f"«{text}<|end|>»")


def test_the_loss_may_be_on_the_last_answer_or_on_everything(tokenizer: PreTrainedTokenizerBase) -> None:
    messages = chat("u hi", "a hello", "u bye", "a ciao")["messages"]
    last = "<|user|>hi<|end|><|assistant|>hello<|end|><|user|>bye<|end|><|assistant|>«ciao<|end|>»"
    assert encode(tokenizer, messages, loss_on="last") == by_hand(tokenizer, last)
    example = encode(tokenizer, messages, loss_on="all")
    assert example.labels == example.ids == by_hand(tokenizer, last).ids
