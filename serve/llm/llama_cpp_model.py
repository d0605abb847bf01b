"""llama.cpp by llama-cpp-python: one GGUF file in this process. Imports native code: only a replica does.

The chat template is the file's own, rendered as Hugging Face does (llama-cpp-python keeps the same Jinja
settings), with special tokens parsed and no second beginning-of-text token.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from raymill.policies.errors import Invalid
from raymill.serve.llm.llama_cpp_wire import Call, Step, Usage


class CountingLlama(llama_cpp.Llama):  # type: ignore[misc]
    """Counts sampled tokens, the closing one too, which its own streams do not report."""

    sampled = 0

    def generate(self, *args: Any, **kwargs: Any) -> Iterator[int]:
        self.sampled = 0
        for token in super().generate(*args, **kwargs):
            self.sampled += 1
            yield token


class GgufModel:
    def __init__(self, path: Path, *, max_model_len: int, threads: int, gpu: bool) -> None:
        with _no_repacking():
            self._llama = CountingLlama(
                str(path),
                n_ctx=max_model_len,  # 0 takes the model's own
                n_threads=threads,
                n_threads_batch=threads,
                n_gpu_layers=-1 if gpu else 0,
                verbose=False,
            )
        self.max_model_len = int(self._llama.n_ctx())
        metadata = self._llama.metadata
        self._add_bos = metadata.get("tokenizer.ggml.add_bos_token", "true") == "true"
        template = metadata.get("tokenizer.chat_template")
        self._template = None
        if template is not None:
            self._template = Jinja2ChatFormatter(
                template=template,
                bos_token=self._text(self._llama.token_bos()),
                eos_token=self._text(self._llama.token_eos()),
            )

    def chat_tokens(self, messages: list[dict[str, Any]]) -> list[int]:
        """The messages by the file's chat template.

        Raises:
            ValueError: the file has no template, or the template refuses the messages.
        """
        if self._template is None:
            raise ValueError("messages need a chat template, which this GGUF file lacks: use /v1/completions")
        rendered = self._template(messages=messages)
        return self._tokens(rendered.prompt, add_bos=False, special=True)

    def text_tokens(self, text: str) -> list[int]:
        return self._tokens(text, add_bos=self._add_bos, special=True)

    def steps(self, call: Call) -> Generator[Step, None, None]:
        """The answer, piece by piece. The last step has a finish reason."""
        grammar = None
        if call.json_schema is not None:
            schema = call.json_schema or {"type": "object"}
            grammar = llama_cpp.LlamaGrammar.from_json_schema(json.dumps(schema), verbose=False)
        sampling = call.sampling
        chunks = self._llama.create_completion(
            prompt=call.prompt,
            max_tokens=call.max_tokens,
            stop=call.stop,
            seed=call.seed,
            stream=True,
            grammar=grammar,
            temperature=sampling["temperature"],
            top_p=sampling["top_p"],
            top_k=int(sampling["top_k"]),
            min_p=sampling["min_p"],
            presence_penalty=sampling["presence_penalty"],
            frequency_penalty=sampling["frequency_penalty"],
            repeat_penalty=1.0,
        )
        for chunk in chunks:
            choice = chunk["choices"][0]
            usage = Usage(prompt_tokens=len(call.prompt), completion_tokens=self._llama.sampled)
            yield Step(text=choice["text"], finish_reason=choice["finish_reason"], usage=usage)

    def _tokens(self, text: str, *, add_bos: bool, special: bool) -> list[int]:
        tokens: list[int] = self._llama.tokenize(text.encode(), add_bos=add_bos, special=special)
        return tokens

    def _text(self, token: int) -> str:
        return str(self._llama._model.token_get_text(token)) if token >= 0 else ""


@contextmanager
def _no_repacking() -> Iterator[None]:
    """Load without extra buffer types: with AMX, repacked Q8_0 and Q4_K_M weights crash llama.cpp.

    llama-cpp-python 0.3.36 has no argument for it. Goes when it has one, or the crash is mended.
    """
    original = llama_cpp.llama_cpp.llama_model_default_params

    def without_repacking() -> Any:
        params = original()
        params.use_extra_bufts = False
        return params

    if not hasattr(original(), "use_extra_bufts"):
        raise Invalid("this llama-cpp-python knows no use_extra_bufts: install the version in constraints/")
    llama_cpp.llama_cpp.llama_model_default_params = without_repacking
    try:
        yield
    finally:
        llama_cpp.llama_cpp.llama_model_default_params = original
