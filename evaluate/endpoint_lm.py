"""A model behind HTTP as lm-eval takes it: it answers, and has no likelihoods.

Imports lm-eval, which takes seconds. Stops are applied here, not sent: endpoints take four of them at most, some none.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn

from lm_eval.api.model import LM

from raymill.evaluate.endpoint import Question, Reply
from raymill.evaluate.prompts import Conversation
from raymill.policies.errors import Invalid

TURNS = "turns:"
"""Before a conversation as JSON, which lm-eval carries as text."""

MAX_TOKENS = 256
"""Of an answer whose task says nothing: lm-eval's own default."""


class EndpointLM(LM):  # type: ignore[misc]
    """Asks with the whole prompt as one turn, or in turns where the task's `chat_template` is set."""

    def __init__(self, name: str, ask: Callable[[list[Question]], list[Reply]]) -> None:
        """
        Args:
            name: of the task, which the questions' keys begin with.
        """
        super().__init__()
        self._name = name
        self._ask = ask
        self.keys: list[str] = []
        """Of all questions so far."""

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:  # noqa: ARG002
        first = len(self.keys)
        questions = [self._question(first + place, *request.args) for place, request in enumerate(requests)]
        self.keys += [each.key for each in questions]
        return [
            cut(reply["text"], request.args[1].get("until", ()))
            for request, reply in zip(requests, self._ask(questions), strict=True)
        ]

    def _question(self, number: int, prompt: str, options: dict[str, Any]) -> Question:
        return Question(
            key=f"{self._name}/{number}",
            messages=turns_of(prompt),
            max_tokens=int(options.get("max_gen_toks", MAX_TOKENS)),
        )

    def loglikelihood(self, requests: list[Any]) -> NoReturn:
        self._refuse(requests)

    def loglikelihood_rolling(self, requests: list[Any]) -> NoReturn:
        self._refuse(requests)

    def _refuse(self, requests: list[Any]) -> NoReturn:
        raise Invalid(
            f"{self._name} asks for likelihoods ({len(requests)} of them), and an endpoint only answers: measure it on a version"
        )

    def apply_chat_template(
        self,
        chat_history: list[dict[str, str]],
        add_generation_prompt: bool = True,  # noqa: ARG002
    ) -> str:
        return TURNS + json.dumps(chat_history, ensure_ascii=False)

    @property
    def tokenizer_name(self) -> str:
        return "turns"


def turns_of(prompt: str) -> Conversation:
    if prompt.startswith(TURNS):
        turns: Conversation = json.loads(prompt.removeprefix(TURNS))
        return turns
    return [{"role": "user", "content": prompt}]


def cut(text: str, until: Any) -> str:
    """`text` up to the first of the stops."""
    for stop in [until] if isinstance(until, str) else until:
        if stop:
            text = text.partition(stop)[0]
    return text
