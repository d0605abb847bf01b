"""One template and one stop set from training to evaluation, to the GGUF file and to vLLM, byte for byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import llama_cpp
import pytest

from raymill.evaluate import prompts
from raymill.serve.llm.llama_cpp_model import GgufModel
from raymill.train.export import stop_tokens
from raymill.train.template import IGNORE, encode
from raymill.train.tokenizer import load_tokenizer

pytestmark = pytest.mark.slow  # it converts a model and imports vLLM

ODD = "é 漢 <b>\"'&\\ {{ x }}\n\ttab"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "search",
            "description": f"Finds things. {ODD}",
            "parameters": {
                "type": "object",
                "required": ["query"],
                "properties": {"query": {"type": "string", "enum": ["b", "a"]}, "count": {"type": "integer"}},
            },
        },
    },
    {"type": "function", "function": {"name": "clock"}},
]


def said(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}


ROWS: list[dict[str, Any]] = [
    {"messages": [said("user", "hi"), said("assistant", "hello")]},
    {"messages": [said("system", ODD), said("user", ODD), said("assistant", ODD)]},
    {"messages": [said("user", " a "), said("assistant", "b"), said("user", "c\n"), said("assistant", "d")]},
    {"messages": [said("user", "hi"), said("assistant", "hello")], "tools": TOOLS},
    {
        "messages": [
            said("system", "Be brief."),
            said("user", "find"),
            said("assistant", "", tool_calls=[call("search", {"query": ODD, "count": 1}), call("clock", {})]),
            said("tool", ODD, tool_call_id="c1"),
            said("tool", '{"time": "9"}', tool_call_id="c1"),
            said("assistant", "found"),
            said("user", "again"),
            said("assistant", "now", tool_calls=[call("search", {"query": "b", "b": [1.5, None, True]})]),
        ],
        "tools": TOOLS,
    },
]


def on_the_wire(row: dict[str, Any]) -> dict[str, Any]:
    """The question as an OpenAI client sends it: arguments are text."""
    messages = json.loads(json.dumps(row["messages"][:-1]))
    for message in messages:
        for made in message.get("tool_calls", ()):
            function = made["function"]
            function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    return {"messages": messages, **({"tools": row["tools"]} if "tools" in row else {})}


class Four(NamedTuple):
    """What each of the four renders, and where each stops."""

    training: tuple[list[str], list[int]]
    evaluation: tuple[list[str], list[int]]
    gguf: tuple[list[str], list[int]]
    vllm: tuple[list[str], list[int]]


@pytest.fixture(scope="module")
def four(tiny_model: Path, f16: Path) -> Four:
    return Four(
        training=by_training(tiny_model),
        evaluation=by_evaluation(tiny_model),
        gguf=by_gguf(f16),
        vllm=by_vllm(tiny_model),
    )


def by_training(model: Path) -> tuple[list[str], list[int]]:
    """What stands before the last answer in the ids that are trained on."""
    tokenizer = load_tokenizer(model)
    texts: list[str] = []
    for row in ROWS:
        example = encode(tokenizer, row["messages"], row.get("tools"))
        runs = [(counts, len(list(run))) for counts, run in groupby(example.labels, lambda x: x != IGNORE)]
        assert runs[-1][0], "the answer counts"
        texts.append(str(tokenizer.decode(example.ids[: -runs[-1][1]])))
    return texts, stop_tokens(tokenizer)


def by_evaluation(model: Path) -> tuple[list[str], list[int]]:
    tokenizer = prompts.load_tokenizer(model)
    texts = [prompts.render(tokenizer, row["messages"][:-1], row.get("tools", ())) for row in ROWS]
    return texts, prompts.stop_ids(tokenizer, model)


def by_gguf(file: Path) -> tuple[list[str], list[int]]:
    model = GgufModel(file, max_model_len=0, threads=1, gpu=False)
    assert model._template is not None
    texts = [str(model._template(**on_the_wire(row)).prompt) for row in ROWS]
    vocabulary = model._llama._model.vocab
    ends = [
        token for token in range(model._llama.n_vocab()) if llama_cpp.llama_vocab_is_eog(vocabulary, token)
    ]
    return texts, ends


def by_vllm(model: Path) -> tuple[list[str], list[int]]:
    asked = json.dumps([on_the_wire(row) for row in ROWS])
    script = Path(__file__).with_name("vllm_rendering.py")
    environment = os.environ | {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    command = [sys.executable, str(script), str(model)]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return found["prompts"], found["stops"]


@pytest.mark.parametrize("place", ["evaluation", "gguf", "vllm"])
def test_what_is_trained_on_is_what_a_model_is_asked_everywhere(four: Four, place: str) -> None:
    assert getattr(four, place)[0] == four.training[0]


@pytest.mark.parametrize("place", ["evaluation", "gguf", "vllm"])
def test_an_answer_ends_at_the_same_tokens_everywhere(four: Four, place: str) -> None:
    assert len(four.training[1]) == 1
    assert getattr(four, place)[1] == four.training[1]
