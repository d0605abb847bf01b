"""The chat template of bases that are trained from text, and which tokens the loss counts.

The template travels with the tokenizer's files, so tuning, evaluation, vLLM and llama.cpp all render a
conversation by the same text. Knows nothing of the model.

Units: token ids; `labels` has IGNORE where the loss does not look.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from raymill.policies.errors import Invalid

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORE = -100

UNKNOWN = "<unk>"
PAD = "<|pad|>"
END = "<|end|>"
ROLES = ("system", "user", "assistant")
SPECIAL_TOKENS = (PAD, END, *(f"<|{role}|>" for role in ROLES))

# One line, no spaces between the parts: what is rendered is what is trained. No start-of-text token,
# since each server has its own opinion on who adds it.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


class Example(NamedTuple):
    """One conversation as the model sees it."""

    ids: list[int]
    labels: list[int]
    """`ids` where the loss counts, IGNORE elsewhere; not shifted."""


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], *, ask: bool) -> str:
    """The conversation as text; with `ask`, ending where the assistant is to answer."""
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=ask)
    assert isinstance(text, str)
    return text


def encode(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> Example:
    """Token ids of a conversation, with the loss on what the assistant says and the token that ends it.

    Works with any base's template: each assistant turn lies between the text rendered up to the question
    and the text rendered with the answer.

    Raises:
        Invalid: the template rewrites earlier turns once an answer is added, so no mask can be found.
    """
    ids: list[int] = []
    labels: list[int] = []
    done = ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        asked = render(tokenizer, messages[:index], ask=True)
        answered = render(tokenizer, messages[: index + 1], ask=False)
        if not (asked.startswith(done) and answered.startswith(asked)):
            raise Invalid(
                f"the chat template of this base rewrites turn {index + 1} when a later one is added: "
                "give conversations with one answer each, or a base with a plainer template"
            )
        question = tokens(tokenizer, asked[len(done) :])
        answer = tokens(tokenizer, answered[len(asked) :])
        ids += question + answer
        labels += [IGNORE] * len(question) + answer
        done = answered
    return Example(ids, labels)


def tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of `text` as it stands: the template has put the special tokens there already."""
    encoded: Any = tokenizer(text, add_special_tokens=False)
    ids: list[int] = encoded["input_ids"]
    return ids
