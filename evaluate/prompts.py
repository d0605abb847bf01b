"""Held-out conversations: what is asked, what should be answered, and how a model is asked.

Knows nothing of Ray or of model weights. `load_tokenizer` avoids importing torch where it can, which
saves about nine seconds of processor time in each process that only renders and tokenizes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from raymill.policies.errors import Invalid

Message = dict[str, Any]
Conversation = list[Message]

PLAIN_TOKENIZERS = {"PreTrainedTokenizerFast", "TokenizersBackend"}
"""Classes that are tokenizer.json and nothing else; any other may change it, so AutoTokenizer loads it."""


class Answer(TypedDict):
    """What a model said to one conversation."""

    prompt: str
    """As rendered by the chat template."""

    text: str
    """Without special tokens."""

    prompt_tokens: int
    tokens: list[int]
    """Ids of the answer, without the token that ended it."""

    finished: bool
    """The model ended its answer; False: it was cut at `max_new_tokens`."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One held-out conversation up to its last assistant turn, and that turn."""

    index: int
    messages: Conversation
    reference: str
    """What the model should say; calls of tools as the template of our own bases writes them."""

    tools: tuple[dict[str, Any], ...] = ()
    """What the model may call."""


def read_rows(path: Path, limit: int | None = None) -> list[Row]:
    """The rows of a data set in normal form, one a line: conversations, pairs (the chosen answer is the reference)
    or judged answers (those judged good).

    Raises:
        Invalid: a line is no JSON, asks nothing, or its last message is not the assistant's; or there is no row.
    """
    rows: list[Row] = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if limit is not None and len(rows) >= limit:
                break
            row = row_of(line, len(rows), f"{path.name}:{number}") if line.strip() else None
            if row is not None:
                rows.append(row)
    if not rows:
        raise Invalid(f"{path.name} holds no row: give a held-out set with at least one")
    return rows


def row_of(line: str, index: int, where: str) -> Row | None:
    """None for an answer that was judged bad."""
    try:
        row = json.loads(line)
        if "text" in row:
            raise Invalid(f"{where} is plain text, which asks nothing: measure it by lm-eval tasks")
        if row.get("label") is False:
            return None
        *asked, last = turns_of(row)
        role, reference = last["role"], last["content"] + "".join(map(call_text, last.get("tool_calls", ())))
        tools = tuple(row.get("tools", ()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Invalid(f"{where} is no row with messages ({error}): run the dataset step on it") from error
    if role != "assistant" or not asked:
        raise Invalid(
            f"{where} ends with a turn of {role!r}: a held-out row ends with the assistant's answer"
        )
    return Row(index=index, messages=asked, reference=reference, tools=tools)


def turns_of(row: dict[str, Any]) -> Conversation:
    """The whole conversation of a row, with the answer that is wanted."""
    if "messages" in row:
        return list(row["messages"])
    return [*row["prompt"], *(row["chosen"] if "chosen" in row else row["completion"])]


def call_text(call: dict[str, Any]) -> str:
    """How the template of our own bases, and Hermes' and Qwen's, write a call."""
    name, arguments = (json.dumps(call["function"][key], ensure_ascii=False) for key in ("name", "arguments"))
    return f'<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>'


def load_tokenizer(directory: Path, *, chat: bool = True) -> Any:
    """The tokenizer in a Hugging Face directory, chat template included.

    Raises:
        Invalid: there is none; or it has no chat template, and `chat` asks for one.
    """
    config_path = directory / "tokenizer_config.json"
    if not config_path.is_file():
        raise Invalid(f"{directory.name} has no tokenizer_config.json: give a model in Hugging Face layout")
    config = json.loads(config_path.read_text(encoding="utf-8"))
    if config.get("tokenizer_class") in PLAIN_TOKENIZERS:
        from transformers import PreTrainedTokenizerFast as Loader
    else:
        from transformers import AutoTokenizer as Loader
    tokenizer = Loader.from_pretrained(str(directory), local_files_only=True)
    if chat and tokenizer.chat_template is None:
        raise Invalid(f"{directory.name} has no chat template: add chat_template.jinja to it")
    return tokenizer


def render(tokenizer: Any, messages: Conversation, tools: Sequence[dict[str, Any]] = ()) -> str:
    """The text that asks a model for the next assistant turn."""
    text = tokenizer.apply_chat_template(
        messages, tools=list(tools) or None, tokenize=False, add_generation_prompt=True
    )
    assert isinstance(text, str)
    return text


def render_all(
    tokenizer: Any, conversations: list[Conversation], tools: Sequence[Sequence[dict[str, Any]]] | None
) -> list[str]:
    """One text for each conversation; `tools` has those of each, or is None where nobody has any."""
    given = tools if tools is not None else [()] * len(conversations)
    return [render(tokenizer, messages, its) for messages, its in zip(conversations, given, strict=True)]


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of rendered text as it stands: the template has put the special tokens there already."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def completion_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text that is to be gone on with, as lm-eval has them: with the tokenizer's own special tokens, unless it
    begins with that of the beginning."""
    begun = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    ids: list[int] = tokenizer(text, add_special_tokens=not begun)["input_ids"]
    return ids


def document_ids(tokenizer: Any, texts: Sequence[str], model: str) -> list[list[int]]:
    """Ids of each text with one token before it that starts it: that of the beginning, else that of the end.

    Raises:
        Invalid: the tokenizer has neither.
    """
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise Invalid(
            f"the tokenizer of {model} has neither bos_token nor eos_token to start a text with: name one in its "
            "tokenizer_config.json"
        )
    encoded: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return [[int(start), *ids] for ids in encoded]


def stop_ids(tokenizer: Any, directory: Path) -> list[int]:
    """Tokens that end an answer: the tokenizer's end of sequence, and those of generation_config.json."""
    found: list[int] = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    path = directory / "generation_config.json"
    if path.is_file():
        more = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
        found += more if isinstance(more, list) else [] if more is None else [more]
    return sorted(set(found))


def answer_of(
    tokenizer: Any, prompt: str, prompt_tokens: int, generated: list[int], stops: list[int]
) -> Answer:
    """Cut `generated` at its first stop token and decode it."""
    ended = next((at for at, token in enumerate(generated) if token in stops), None)
    tokens = generated if ended is None else generated[:ended]
    return Answer(
        prompt=prompt,
        text=tokenizer.decode(tokens, skip_special_tokens=True),
        prompt_tokens=prompt_tokens,
        tokens=tokens,
        finished=ended is not None,
    )
