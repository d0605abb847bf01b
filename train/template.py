"""The chat template of bases that are trained from text, and which tokens the loss counts.

The template travels with the tokenizer's files, so tuning, evaluation, vLLM and llama.cpp all render a
conversation by the same text. Rows come in normal form (`formats.py`). Knows nothing of the model.

Units: token ids; `labels` has IGNORE where the loss does not look.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, assert_never

from raymill.cluster.plain import first_line
from raymill.policies.errors import Invalid

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORE = -100

UNKNOWN = "<unk>"
PAD = "<|pad|>"
END = "<|end|>"
ROLES = ("system", "user", "assistant", "tool")
SPECIAL_TOKENS = (PAD, END, *(f"<|{role}|>" for role in ROLES))

Message = dict[str, Any]
Tool = dict[str, Any]
LossOn = Literal["assistant", "all", "last"]
"""Every turn of the assistant, every token, or the assistant's last turn alone."""

# One line, no spaces between the parts: what is rendered is what is trained. No start-of-text token,
# since each server has its own opinion on who adds it. Tools are told in the system turn; of a tool only what
# every server passes on is rendered, and in this order. Calls are written as Hermes models write them, since
# vLLM ("hermes") and llama.cpp read those.
CHAT_TEMPLATE = (
    "{% if tools %}"
    "{{ '<|system|>' }}"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\\n\\n' }}{% endif %}"
    "{{ 'Tools:' }}"
    "{% for tool in tools %}"
    "{% set function = tool['function'] %}"
    "{{ '\\n{\"name\": ' + (function['name'] | tojson) }}"
    "{% if function['description'] %}{{ ', \"description\": ' + (function['description'] | tojson) }}{% endif %}"
    "{% if function['parameters'] %}{{ ', \"parameters\": ' + (function['parameters'] | tojson) }}{% endif %}"
    "{{ '}' }}"
    "{% endfor %}"
    "{{ '<|end|>' }}"
    "{% endif %}"
    "{% for message in messages %}"
    "{% if not (tools and loop.first and message['role'] == 'system') %}"
    "{{ '<|' + message['role'] + '|>' + (message['content'] or '') }}"
    "{% for call in message['tool_calls'] or [] %}"
    "{{ '<tool_call>\\n{\"name\": ' + (call['function']['name'] | tojson) + ', \"arguments\": ' }}"
    "{% set arguments = call['function']['arguments'] %}"
    "{{ (arguments if arguments is string else arguments | tojson) + '}\\n</tool_call>' }}"
    "{% endfor %}"
    "{{ '<|end|>' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


class Example(NamedTuple):
    """One row as the model sees it."""

    ids: list[int]
    labels: list[int]
    """`ids` where the loss counts, IGNORE elsewhere; not shifted."""


class Pair(NamedTuple):
    """One prompt with the answer that is preferred and the one that is not. The loss counts the answers alone."""

    chosen: Example
    rejected: Example


class Judged(NamedTuple):
    """One prompt with an answer, which alone counts, and whether it is a good one."""

    example: Example
    label: bool


class Piece(NamedTuple):
    """Text between two places where the loss is switched on or off; tokenized on its own."""

    text: str
    counts: bool


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Sequence[Tool] | None = None,
    *,
    ask: bool,
) -> str:
    """The conversation as text; with `ask`, ending where the assistant is to answer.

    Raises:
        Invalid: the template refuses the conversation.
    """
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            list(messages), tools=list(tools) if tools else None, tokenize=False, add_generation_prompt=ask
        )
    except (TemplateError, TypeError) as error:
        raise Invalid(
            f"the chat template of this base refuses the row ({first_line(error)}): change the row or the base"
        ) from error
    assert isinstance(text, str)
    return text


def encode(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Sequence[Tool] | None = None,
    *,
    loss_on: LossOn = "assistant",
) -> Example:
    """Token ids of a conversation, with the loss on what the assistant says and the token that ends it.

    Calls of tools are what the assistant says; their results are not. Works with any base's template.

    Raises:
        Invalid: the template refuses the row or leaves its tools out, or it rewrites earlier turns once an answer
            is added, so that no mask can be found.
    """
    return joined(tokenizer, pieces(tokenizer, messages, tools, loss_on=loss_on))


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> Example:
    """Token ids of a document, every one counted, with what the tokenizer puts before it and the end after it."""
    encoded: Any = tokenizer(text)
    ids: list[int] = encoded["input_ids"]
    if tokenizer.eos_token_id is not None and ids[-1:] != [tokenizer.eos_token_id]:
        ids = [*ids, tokenizer.eos_token_id]
    return Example(ids, list(ids))


def encode_pair(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any]) -> Pair:
    """A preference row. Raises Invalid as `encode` does."""
    chosen, rejected = (encode_answer(tokenizer, row, name) for name in ("chosen", "rejected"))
    return Pair(chosen, rejected)


def encode_kto(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any]) -> Judged:
    """A kto row. Raises Invalid as `encode` does."""
    return Judged(encode_answer(tokenizer, row, "completion"), row["label"])


def encode_answer(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any], name: str) -> Example:
    """The row's prompt and what lies under `name`, with the loss on the latter's assistant turns."""
    prompt = row["prompt"]
    return joined(
        tokenizer, pieces(tokenizer, [*prompt, *row[name]], row.get("tools"), loss_from=len(prompt))
    )


def pieces(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Sequence[Tool] | None = None,
    *,
    loss_on: LossOn = "assistant",
    loss_from: int = 0,
) -> list[Piece]:
    """The rendered conversation, cut where the loss is switched: each answer lies between the text rendered up
    to the question and the text rendered with the answer.

    Args:
        loss_from: assistant turns before this one do not count.
    """
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    found: list[Piece] = []
    done = ""
    for index in turns:
        asked = render(tokenizer, messages[:index], tools, ask=True)
        answered = render(tokenizer, messages[: index + 1], tools, ask=False)
        if not (asked.startswith(done) and answered.startswith(asked)):
            raise Invalid(
                f"the chat template of this base rewrites turn {index + 1} when a later one is added: "
                "give conversations with one answer each, or a base with a plainer template"
            )
        check_tools(messages[index], tools, asked, answered[len(asked) :])
        counts = index >= loss_from and counted(loss_on, last=index == turns[-1])
        found += [Piece(asked[len(done) :], loss_on == "all"), Piece(answered[len(asked) :], counts)]
        done = answered
    return found


def check_tools(message: Message, tools: Sequence[Tool] | None, asked: str, answer: str) -> None:
    """
    Raises:
        Invalid: the template leaves out what the row says of tools, as one does that knows none.
    """
    told = all(tool["function"]["name"] in asked for tool in tools or ())
    called = all(call["function"]["name"] in answer for call in message.get("tool_calls", ()))
    if not (told and called):
        what = "the calls of tools" if told else "tools"
        raise Invalid(f"the chat template of this base leaves {what} out: use a base whose template has them")


def counted(loss_on: LossOn, *, last: bool) -> bool:
    """Whether an assistant's turn counts."""
    match loss_on:
        case "assistant" | "all":
            return True
        case "last":
            return last
        case _:
            assert_never(loss_on)


def joined(tokenizer: PreTrainedTokenizerBase, found: Sequence[Piece]) -> Example:
    ids: list[int] = []
    labels: list[int] = []
    # One call for all: calling a tokenizer costs more than a short text.
    encoded: Any = tokenizer([piece.text for piece in found], add_special_tokens=False)
    for piece, part in zip(found, encoded["input_ids"], strict=True):
        ids += part
        labels += part if piece.counts else [IGNORE] * len(part)
    return Example(ids, labels)
