"""Write a finished model in Hugging Face layout: config, safetensors, tokenizer, chat template.

Adapters are merged, so a served model needs no peft. Knows nothing of Ray or the artifact store.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymill.policies.errors import Invalid, NotFound
from raymill.train.card import CARD
from raymill.train.metrics import METRICS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
)

WEIGHTS_AS_PICKLE = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")


def write_model(model: PreTrainedModel, tokenizer_dir: Path, directory: Path, stops: Sequence[int]) -> None:
    """The model to `directory`, with the tokenizer's files as they lie in `tokenizer_dir`.

    The files are copied, not written again: transformers would drop `tokenizer.model`, which llama.cpp needs.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    # Serving stops at what ends a turn, whatever else ends a text.
    known = as_list(model.generation_config.eos_token_id)
    if missing := [token for token in stops if token not in known]:
        model.generation_config.eos_token_id = [*missing, *known]
    model.save_pretrained(directory, safe_serialization=True)
    for name in TOKENIZER_FILES:
        if (tokenizer_dir / name).is_file():
            shutil.copyfile(tokenizer_dir / name, directory / name)


def as_list(value: int | list[int] | None) -> list[int]:
    return [] if value is None else value if isinstance(value, list) else [value]


def stop_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the tokens that end an assistant's turn in the chat template: one that answers, one that calls a tool."""
    from raymill.train.template import encode

    asked = {"role": "user", "content": "a"}
    call = {"type": "function", "function": {"name": "b", "arguments": {}}}
    tools = [{"type": "function", "function": {"name": "b", "description": "b", "parameters": {}}}]
    examples = [encode(tokenizer, [asked, {"role": "assistant", "content": "b"}])]
    try:
        calling = {"role": "assistant", "content": "", "tool_calls": [call]}
        examples.append(encode(tokenizer, [asked, calling], tools))
    except Invalid:
        pass  # a template that knows no tools
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    special |= set(tokenizer.all_special_ids)
    found: list[int] = []
    for example in examples:
        ends = [token for token in example.ids if token in special][-1:] or as_list(tokenizer.eos_token_id)
        found += [token for token in ends if token not in found]
    return found


def link_tree(source: Path, target: Path) -> None:
    """Copy a directory without copying bytes where the file system allows it."""
    shutil.rmtree(target, ignore_errors=True)
    for path in sorted(source.rglob("*")):
        if path.is_file():
            link(path, target / path.relative_to(source))


def link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        # A hub cache holds links to its blobs: resolve, so that the copy holds bytes.
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def import_model(source: Path, target: Path) -> None:
    """Copy a base in Hugging Face layout: safetensors and text files, never pickle, never code.

    Raises:
        NotFound: `source` is no directory.
        Invalid: it is no model in that layout, its weights are pickled, or it needs its own code.
    """
    if not source.is_dir():
        raise NotFound(f"{source} is no directory: give the path of a model in Hugging Face layout")
    for needed in ("config.json", "tokenizer_config.json"):
        if not (source / needed).is_file():
            raise Invalid(f"{source} has no {needed}: give a model in Hugging Face layout", param="base")
    weights = sorted(source.glob("*.safetensors"))
    if not weights:
        pickled = [path.name for pattern in WEIGHTS_AS_PICKLE for path in source.glob(pattern)]
        reason = f"its weights are pickled ({pickled[0]})" if pickled else "it has no weights"
        raise Invalid(f"{source} has no .safetensors: {reason}; convert it to safetensors", param="base")
    config = read_json_object(source / "config.json")
    if "auto_map" in config:
        raise Invalid(f"{source} needs code of its own (auto_map), which is never run: use another base")
    shutil.rmtree(target, ignore_errors=True)
    kept = [*weights, *source.glob("*.safetensors.index.json"), source / "config.json"]
    # With its card, which tells the licence, and its curves: a base of our own comes out byte for byte.
    kept += [source / name for name in ("generation_config.json", CARD, METRICS, *TOKENIZER_FILES)]
    for path in kept:
        if path.is_file():
            link(path, target / path.name)


def read_json_object(path: Path) -> dict[str, Any]:
    """
    Raises:
        Invalid: the file is no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{path} is no JSON: copy the base again") from error
    if not isinstance(value, dict):
        raise Invalid(f"{path} is no JSON object: copy the base again")
    return value


def count_parameters(directory: Path) -> int:
    """Weights in the safetensors files of `directory`, read from their headers alone.

    Raises:
        Invalid: a file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    total = 0
    for path in sorted(directory.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118 - a safetensors handle is no mapping
                    size = 1
                    for length in file.get_slice(name).get_shape():
                        size *= length
                    total += size
        except SafetensorError as error:
            raise Invalid(f"{path} is damaged ({error}): copy the base again", param="base") from error
    return total
