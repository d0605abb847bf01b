"""A GGUF file that answers conversations greedily in batches: `hf_model.py`'s twin for llama.cpp.

A plain class; `actors.py` makes it remote. llama.cpp itself runs in a child of the actor's process, so a
crash there is an error here. One actor may answer for several files: the last one stays open.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from raymill.cluster.settings import Settings
from raymill.evaluate.config import HumanEvalTask
from raymill.evaluate.humaneval import STOPS, Problem, first_of, judged, prompts_of
from raymill.evaluate.llama_cpp_runner import LlamaCppRunner
from raymill.evaluate.prompts import (
    Answer,
    Conversation,
    answer_of,
    completion_ids,
    document_ids,
    load_tokenizer,
    render_all,
    stop_ids,
    token_ids,
)
from raymill.evaluate.samples import Record
from raymill.evaluate.sandbox.runner import Sandbox
from raymill.policies.errors import Invalid


class GgufAnswers(TypedDict):
    answers: list[Answer]
    same_tokens: list[bool]
    """For each conversation: llama.cpp's own tokenizer gives the prompt the same ids."""


class GgufModel:
    """Tokenizer and chat template from `directory` (Hugging Face layout), weights from GGUF files."""

    def __init__(self, directory: str, threads: int = 1) -> None:
        self.directory = Path(directory)
        # llama.cpp's threads spin while they wait for each other: with more of them than free processors
        # it was forty times slower, so several actors with one thread each are the better way.
        self.threads = threads
        self.tokenizer: Any = None
        self.stops: list[int] = []
        self.runner: LlamaCppRunner | None = None

    def load(self) -> None:
        """Read the tokenizer; the weights follow with the first question."""
        if self.tokenizer is None:
            Settings().artifacts.here(self.directory)
            self.tokenizer = load_tokenizer(self.directory)
            self.stops = stop_ids(self.tokenizer, self.directory)

    def close(self) -> None:
        if self.runner is not None:
            self.runner.close()
            self.runner = None

    def generate(
        self,
        file: str,
        conversations: list[Conversation],
        max_new_tokens: int,
        tools: Sequence[Sequence[dict[str, Any]]] | None = None,
    ) -> GgufAnswers:
        """Answer each conversation with the weights in `file`; `tools` has those of each.

        Raises:
            Invalid: a prompt and its answer do not fit into the model's context.
            ChildFailed: llama.cpp crashed; the next call starts it again.
        """
        self.load()
        runner = self._open(Path(file))
        prompts = render_all(self.tokenizer, conversations, tools)
        ids = [token_ids(self.tokenizer, prompt) for prompt in prompts]
        try:
            self._check_room(max(map(len, ids)), max_new_tokens, runner)
            theirs = runner.tokenize(prompts)
            generated = runner.generate(
                ids, max_new_tokens=max_new_tokens, stops=self.stops, batch=len(conversations)
            )
        except BaseException:
            self.close()
            raise
        return GgufAnswers(
            answers=[
                answer_of(self.tokenizer, prompt, len(row), new, self.stops)
                for prompt, row, new in zip(prompts, ids, generated, strict=True)
            ],
            same_tokens=[mine == other for mine, other in zip(ids, theirs, strict=True)],
        )

    def encode(self, file: str, texts: list[str]) -> dict[str, Any]:
        """As `HfModel.encode`; the context is that of the weights in `file`."""
        self.load()
        return {
            "ids": document_ids(self.tokenizer, texts, self.directory.name),
            "context": self._open(Path(file)).ready["trained_context"],
        }

    def score(self, file: str, windows: list[list[int]], counted: list[int]) -> list[float]:
        """As `HfModel.score`, by the weights in `file`.

        Raises:
            ChildFailed: llama.cpp crashed; the next call starts it again.
        """
        self.load()
        try:
            return self._open(Path(file)).score(windows, counted)
        except BaseException:
            self.close()
            raise

    def prove_sandbox(self, task: dict[str, Any]) -> None:
        """Raises: SandboxRefused: this node cannot run code safely."""
        Sandbox(HumanEvalTask.model_validate(task).sandbox).prove()

    def humaneval(
        self, file: str, task: dict[str, Any], asked: list[tuple[Problem, int]], number: int, programs: int
    ) -> list[Record]:
        """As `HfModel.humaneval`, by the weights in `file`. Drawn answers are llama.cpp's: other ones than there.

        Raises:
            Invalid: a prompt and its answer do not fit into the model's context.
            ChildFailed: llama.cpp crashed; the next call starts it again.
        """
        config = HumanEvalTask.model_validate(task)
        self.load()
        runner = self._open(Path(file))
        prompts = prompts_of(self.tokenizer, config, asked)
        ids = [completion_ids(self.tokenizer, prompt) for prompt in prompts]
        drawn = {"temperature": config.temperature, "top_p": config.top_p, "seed": config.seed + number}
        try:
            self._check_room(max(map(len, ids)), config.max_new_tokens, runner)
            generated = runner.generate(
                ids,
                max_new_tokens=config.max_new_tokens,
                stops=self.stops,
                batch=len(ids),
                until=STOPS,
                drawn=drawn if config.samples > 1 else None,
            )
        except BaseException:
            self.close()
            raise
        answers = [
            answer_of(self.tokenizer, prompt, len(row), new, self.stops)["text"]
            for prompt, row, new in zip(prompts, ids, generated, strict=True)
        ]
        return judged(config, asked, prompts, [first_of(text, STOPS) for text in answers], programs)

    def _open(self, file: Path) -> LlamaCppRunner:
        if self.runner is None or self.runner.file != file:
            self.close()
            Settings().artifacts.here(file)
            self.runner = LlamaCppRunner(file, threads=self.threads)
        return self.runner

    def _check_room(self, longest: int, max_new_tokens: int, runner: LlamaCppRunner) -> None:
        room = runner.ready["trained_context"]
        if longest + max_new_tokens > room:
            raise Invalid(
                f"a prompt has {longest} tokens and max_new_tokens is {max_new_tokens}, but the context of "
                f"{runner.file.name} is {room}: lower max_new_tokens or shorten the row"
            )
