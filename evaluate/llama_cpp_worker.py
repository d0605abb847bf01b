"""The child process that runs llama.cpp on one GGUF file. Reads and writes JSON lines.

    in   {"op": "tokenize", "texts": [...]}                                out  {"tokens": [[...], ...]}
    in   {"op": "generate", "prompts": [[id...]...], "max_new_tokens": N,
          "stops": [id...], "batch": B, "until": [text...], "drawn": null
          or {"temperature": T, "top_p": P, "seed": S}}                    out  {"answers": [[id...], ...]}
    in   {"op": "score", "windows": [[id...]...], "counted": [N...]}       out  {"nll": [nats, ...]}

The first line out is {"ready": {...}}. An answer holds its stop token when it reached one, and what ends the first
of `until` in its text. Imports nothing of Ray, torch or transformers: it starts in half a second.

Shapes: S sequences in a batch, V tokens in the vocabulary.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

import llama_cpp
import numpy as np

from raymill.evaluate.child import die_with_parent
from raymill.evaluate.llama_cpp_native import (
    PREFILL_TOKENS,
    Batch,
    add_adapter,
    load_adapter,
    load_model,
    make_context,
    vocabulary_size,
)

CONTEXT_STEP = 256
"""Contexts are a multiple of this, so that batches of like length share one."""

PIECE_BYTES = 256
"""Of a token's text, at most; a longer one ends no answer by its text."""


@dataclass
class Sequence:
    """One conversation while it is being answered."""

    slot: int
    prompt: list[int]
    answer: list[int]
    text: bytes = b""
    """Of the answer; kept only where text ends it."""

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True, kw_only=True)
class Ends:
    """What ends an answer."""

    max_new_tokens: int
    stops: frozenset[int]
    until: tuple[bytes, ...]

    def reached(self, sequence: Sequence) -> bool:
        return (
            sequence.answer[-1] in self.stops
            or len(sequence.answer) >= self.max_new_tokens
            or any(text in sequence.text for text in self.until)
        )


class Draw:
    """A token by its probability, from the most likely ones that have probability `top_p` together (nucleus sampling)."""

    def __init__(self, temperature: float, top_p: float, seed: int) -> None:
        self.temperature, self.top_p = temperature, top_p
        self.random = np.random.default_rng(seed)

    def __call__(self, logits_V: Any) -> int:
        scaled_V = logits_V.astype(np.float64) / self.temperature
        order_V = np.argsort(-scaled_V, kind="stable")
        chances_V = np.exp(scaled_V[order_V] - scaled_V[order_V[0]])
        sums_V = np.cumsum(chances_V / chances_V.sum())
        kept = int(np.searchsorted(sums_V, self.top_p)) + 1
        place = int(np.searchsorted(sums_V[:kept], self.random.random() * sums_V[:kept][-1], side="right"))
        return int(order_V[min(place, kept - 1)])


def likeliest(logits_V: Any) -> int:
    return int(logits_V.argmax())


class Worker:
    """One model, and a context that grows when a batch asks for more."""

    def __init__(self, path: str, threads: int, adapter: str | None = None) -> None:
        self.model = load_model(path)
        self.adapter = load_adapter(self.model, adapter) if adapter is not None else None
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.vocab_tokens = vocabulary_size(self.model)
        self.threads = threads
        self.context: Any = None
        self.room = (0, 0)
        self.choose: Callable[[Any], int] = likeliest
        self.spells = False
        self.batch = Batch(PREFILL_TOKENS)

    def describe(self) -> dict[str, Any]:
        return {
            "vocab_tokens": self.vocab_tokens,
            "trained_context": int(llama_cpp.llama_model_n_ctx_train(self.model)),
        }

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text as it stands: special tokens are read, none is added."""
        found: list[list[int]] = []
        for text in texts:
            data = text.encode()
            space = (llama_cpp.llama_token * (len(data) + 16))()
            count = llama_cpp.llama_tokenize(self.vocab, data, len(data), space, len(space), False, True)
            if count < 0:
                sys.exit(f"llama.cpp cannot tokenize a text of {len(data)} bytes")
            found.append(list(space[:count]))
        return found

    def generate(
        self, prompts: list[list[int]], batch: int, ends: Ends, draw: Draw | None = None
    ) -> list[list[int]]:
        """Answers, `batch` conversations at once; of the likeliest tokens where none is drawn."""
        self.choose = draw or likeliest
        answers: list[list[int]] = []
        for start in range(0, len(prompts), batch):
            group = prompts[start : start + batch]
            self._make_room(len(group), max(map(len, group)) + ends.max_new_tokens)
            sequences = [Sequence(slot, prompt, []) for slot, prompt in enumerate(group)]
            self._answer(sequences, ends)
            answers += [sequence.answer for sequence in sequences]
        return answers

    def score(self, windows: list[list[int]], counted: list[int]) -> list[float]:
        """Negative log-likelihood of the last `counted` tokens of each window, given those before them."""
        return [self._nll(window, count) for window, count in zip(windows, counted, strict=True)]

    def _nll(self, window: list[int], counted: int) -> float:
        self._make_room(1, len(window))
        first = len(window) - counted
        total = 0.0
        places: list[tuple[int, int]] = []
        for position, token in enumerate(window[:-1]):
            wanted = position + 1 >= first
            place = self.batch.add(token, position, 0, wanted=wanted)
            if wanted:
                places.append((place, window[position + 1]))
            if self.batch.raw.n_tokens == self.batch.capacity:
                total += self._surprise(places)
                places = []
        return total + self._surprise(places)

    def _surprise(self, places: list[tuple[int, int]]) -> float:
        """Run the batch, and sum the negative log-likelihoods of the tokens that follow the `places`."""
        self._run()
        total = 0.0
        for place, token in places:
            logits_V = self._logits(place).astype(np.float64)
            highest = logits_V.max()
            total += float(highest + np.log(np.exp(logits_V - highest).sum()) - logits_V[token])
        self.batch.clear()
        return total

    def _make_room(self, slots: int, tokens: int) -> None:
        tokens = -(-tokens // CONTEXT_STEP) * CONTEXT_STEP
        if self.context is None or slots > self.room[0] or tokens > self.room[1]:
            if self.context is not None:
                llama_cpp.llama_free(self.context)
            self.room = (max(slots, self.room[0]), max(tokens, self.room[1]))
            params = llama_cpp.llama_context_default_params()
            params.n_seq_max = self.room[0]
            params.n_ctx = self.room[0] * self.room[1]
            params.n_batch = params.n_ubatch = PREFILL_TOKENS
            params.n_threads = params.n_threads_batch = self.threads
            params.kv_unified = True
            self.context = make_context(self.model, params)
            if self.adapter is not None:
                add_adapter(self.context, self.adapter)
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def _answer(self, sequences: list[Sequence], ends: Ends) -> None:
        self.spells = bool(ends.until)
        places: list[tuple[Sequence, int]] = []
        for sequence in sequences:
            for position, token in enumerate(sequence.prompt):
                wanted = position == len(sequence.prompt) - 1
                place = self.batch.add(token, position, sequence.slot, wanted=wanted)
                if wanted:
                    places.append((sequence, place))
                if self.batch.raw.n_tokens == self.batch.capacity:
                    self._decode(places)
                    places = []
        self._decode(places)
        alive = sequences
        while alive := [sequence for sequence in alive if not ends.reached(sequence)]:
            for start in range(0, len(alive), self.batch.capacity):
                self._decode(
                    [
                        (s, self.batch.add(s.answer[-1], s.length - 1, s.slot, wanted=True))
                        for s in alive[start : start + self.batch.capacity]
                    ]
                )

    def _decode(self, places: list[tuple[Sequence, int]]) -> None:
        """Run the batch, and give each sequence named in `places` its next token."""
        self._run()
        for sequence, place in places:
            token = self.choose(self._logits(place))
            sequence.answer.append(token)
            if self.spells:
                sequence.text += self._piece(token)
        self.batch.clear()

    def _piece(self, token: int) -> bytes:
        """The bytes that a token stands for; none for a special one."""
        space = ctypes.create_string_buffer(PIECE_BYTES)
        length = llama_cpp.llama_token_to_piece(self.vocab, token, space, PIECE_BYTES, 0, False)
        return bytes(space.raw[: max(0, length)])

    def _run(self) -> None:
        if self.batch.raw.n_tokens == 0:
            return
        code = llama_cpp.llama_decode(self.context, self.batch.raw)
        if code != 0:
            sys.exit(f"llama_decode ended with {code} on {self.batch.raw.n_tokens} tokens")

    def _logits(self, place: int) -> Any:
        """logits_V after the token at `place` of the batch that was run."""
        logits = llama_cpp.llama_get_logits_ith(self.context, place)
        return np.ctypeslib.as_array(
            ctypes.cast(logits, ctypes.POINTER(ctypes.c_float)), (self.vocab_tokens,)
        )


def serve(worker: Worker, requests: TextIO, replies: TextIO) -> None:
    """Answer one line at a time until the input ends."""
    say(replies, {"ready": worker.describe()})
    for line in requests:
        request = json.loads(line)
        if request["op"] == "tokenize":
            say(replies, {"tokens": worker.tokenize(request["texts"])})
        elif request["op"] == "score":
            say(replies, {"nll": worker.score(request["windows"], request["counted"])})
        else:
            ends = Ends(
                max_new_tokens=request["max_new_tokens"],
                stops=frozenset(request["stops"]),
                until=tuple(text.encode() for text in request["until"]),
            )
            draw = Draw(**request["drawn"]) if request["drawn"] else None
            answers = worker.generate(request["prompts"], request["batch"], ends, draw)
            say(replies, {"answers": answers})


def say(replies: TextIO, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


def main() -> None:
    die_with_parent()
    # llama.cpp may write to standard output: keep that for the log, and the replies for ourselves.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _, path, threads, *adapter = sys.argv
    serve(Worker(path, int(threads), *adapter), sys.stdin, replies)


if __name__ == "__main__":
    main()
