"""llama.cpp on one GGUF file, in a process of its own. The other end is `llama_cpp_worker.py`.

Speaks token ids: rendering and decoding are the caller's, with the tokenizer of the model's directory,
so that Hugging Face and llama.cpp answer the very same prompt.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from raymill.evaluate.child import ChildFailed, environment, how_it_ended, last_words, module_command

CLOSE_S = 5.0


class LlamaCppRunner:
    """Use as a context manager. The process starts with the object and loads the model in the background."""

    def __init__(self, file: Path, *, threads: int = 1, adapter: Path | None = None) -> None:
        """`adapter`: a GGUF file of a LoRA adapter, which is added to the weights in `file`."""
        self.file = file
        more = [] if adapter is None else [str(adapter)]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process)
        self._process = subprocess.Popen(
            module_command("raymill.evaluate.llama_cpp_worker", str(file), str(threads), *more),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment(),
            text=True,
        )
        self._ready: dict[str, Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process. A second call does nothing."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                close_quietly(pipe)
        try:
            self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    @property
    def ready(self) -> dict[str, Any]:
        """`vocab_tokens` and `trained_context` of the model; waits until it is loaded."""
        if self._ready is None:
            self._ready = self._reply("loading")["ready"]
        return self._ready

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        """Ids that llama.cpp gives each text, special tokens read and none added."""
        tokens: list[list[int]] = self._ask({"op": "tokenize", "texts": texts}, "tokenizing")["tokens"]
        return tokens

    def generate(
        self,
        prompts: list[list[int]],
        *,
        max_new_tokens: int,
        stops: list[int],
        batch: int = 32,
        until: Sequence[str] = (),
        drawn: dict[str, float] | None = None,
    ) -> list[list[int]]:
        """Answers to prompts of token ids; an answer ends with its stop token if it reached one.

        Args:
            until: texts that end an answer; it holds the first that it reached.
            drawn: `temperature`, `top_p` and `seed`, when tokens are drawn; without them the most likely are taken.

        Raises:
            ChildFailed: llama.cpp crashed or refused; the message has the signal and its last words.
        """
        request = {
            "op": "generate",
            "prompts": prompts,
            "max_new_tokens": max_new_tokens,
            "stops": stops,
            "batch": batch,
            "until": list(until),
            "drawn": drawn,
        }
        answers: list[list[int]] = self._ask(request, "generating")["answers"]
        return answers

    def score(self, windows: list[list[int]], counted: list[int]) -> list[float]:
        """Negative log-likelihood, in nats, of the last `counted` tokens of each window of token ids.

        Raises:
            ChildFailed: llama.cpp crashed or refused; the message has the signal and its last words.
        """
        request = {"op": "score", "windows": windows, "counted": counted}
        nlls: list[float] = self._ask(request, "scoring with")["nll"]
        return nlls

    def _ask(self, request: dict[str, Any], doing: str) -> dict[str, Any]:
        assert self.ready
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failed(doing) from None
        return self._reply(doing)

    def _reply(self, doing: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failed(doing)
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _failed(self, doing: str) -> ChildFailed:
        ended = how_it_ended(self._process.wait())
        self._log.seek(0)
        said = last_words(self._log.read())
        return ChildFailed(f"llama.cpp failed while {doing} {self.file.name}: {ended}; {said}")


def close_quietly(pipe: IO[str]) -> None:
    """Close a pipe whose other end may be gone."""
    try:
        pipe.close()
    except BrokenPipeError:
        return
